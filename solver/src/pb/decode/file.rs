//! Reads FileOps. It does not know files.

use super::{PbError, Reader, pb};
use crate::definition::{Chown, CopyAction, FileAction, FileActionKind, FileInput, FileOp, Principal};
use crate::pb::encode::{NO_MODE, NOTHING, base_input};

impl Reader {
    /// The op, and the outputs that it has.
    pub(super) fn file(self, file: &pb::FileOp, inputs: usize) -> Result<(FileOp, Vec<u32>), PbError> {
        let count = file.actions.len();
        let mut actions: Vec<FileAction> = Vec::with_capacity(count);
        for message in &file.actions {
            let pb::FileAction { input, secondary_input, output, action } = message;
            let secondary =
                self.file_input("FileAction.secondaryInput", *secondary_input, inputs, &actions)?;
            let action = action.as_ref().ok_or_else(|| self.missing("FileAction.action"))?;
            let copies = matches!(action, pb::Action::Copy(_));
            let changed = self.file_input("FileAction.input", *input, inputs, &actions)?;
            let places = [*input, base_input(changed, &actions)];
            let action = FileAction {
                input: changed,
                secondary_input: copies.then_some(secondary),
                output: self.optional("FileAction.output", *output, count)?,
                kind: self.action(action, &places)?,
            };
            actions.push(action);
        }
        if actions.is_empty() {
            return Err(self.missing("FileOp.actions"));
        }
        let outputs = self.outputs(actions.iter().map(|action| action.output))?;
        Ok((FileOp { actions }, outputs))
    }

    /// Inputs are counted through: those of the op, then what the actions before made.
    fn file_input(
        self,
        field: &'static str,
        value: i64,
        inputs: usize,
        before: &[FileAction],
    ) -> Result<FileInput, PbError> {
        let number = self.optional(field, value, inputs + before.len())?;
        Ok(match number {
            None => FileInput::Scratch,
            Some(number) if (number as usize) < inputs => FileInput::Input(number),
            Some(number) => {
                let action = number as usize - inputs;
                FileInput::Action(u32::try_from(action).map_err(|_| self.index(field, value))?)
            }
        })
    }

    /// An action whose owners are looked up in what it changes, which may go by any of `places`.
    fn action(self, action: &pb::Action, places: &[i64]) -> Result<FileActionKind, PbError> {
        let owner =
            |owner: &Option<pb::ChownOpt>| owner.as_ref().map(|owner| self.chown(owner, places)).transpose();
        Ok(match action {
            pb::Action::Copy(copy) => FileActionKind::Copy(Box::new(self.copy(copy, owner(&copy.owner)?)?)),
            pb::Action::Mkfile(file) => {
                let pb::FileActionMkFile { path, mode, data, owner: by, timestamp } = file;
                FileActionKind::Mkfile {
                    path: path.clone(),
                    mode: self.mode("FileActionMkFile.mode", *mode)?,
                    data: data.clone(),
                    owner: owner(by)?,
                    timestamp_ns: time(*timestamp),
                }
            }
            pb::Action::Mkdir(folder) => {
                let pb::FileActionMkDir { path, mode, make_parents, owner: by, timestamp } = folder;
                FileActionKind::Mkdir {
                    path: path.clone(),
                    mode: self.mode("FileActionMkDir.mode", *mode)?,
                    make_parents: *make_parents,
                    owner: owner(by)?,
                    timestamp_ns: time(*timestamp),
                }
            }
            pb::Action::Rm(rm) => {
                let pb::FileActionRm { path, allow_not_found, allow_wildcard } = rm.clone();
                FileActionKind::Rm { path, allow_not_found, allow_wildcard }
            }
            pb::Action::Symlink(link) => {
                let pb::FileActionSymlink { oldpath, newpath, owner: by, timestamp } = link;
                FileActionKind::Symlink {
                    target: oldpath.clone(),
                    path: newpath.clone(),
                    owner: owner(by)?,
                    timestamp_ns: time(*timestamp),
                }
            }
        })
    }

    fn copy(self, copy: &pb::FileActionCopy, by: Option<Chown>) -> Result<CopyAction, PbError> {
        let pb::FileActionCopy {
            src,
            dest,
            owner: _,
            mode,
            follow_symlink,
            dir_copy_contents,
            attempt_unpack_docker_compatibility,
            create_dest_path,
            allow_wildcard,
            allow_empty_wildcard,
            timestamp,
            include_patterns,
            exclude_patterns,
            always_replace_existing_dest_paths,
            mode_str,
            required_paths,
        } = copy.clone();
        let mode = match mode {
            // The symbols go before the number.
            _ if !mode_str.is_empty() => Some(mode_str),
            NO_MODE => None,
            mode => Some(format!("{:o}", self.mode("FileActionCopy.mode", mode)?)),
        };
        Ok(CopyAction {
            src,
            dest,
            owner: by,
            mode,
            follow_symlink,
            dir_copy_contents,
            attempt_unpack: attempt_unpack_docker_compatibility,
            create_dest_path,
            allow_wildcard,
            allow_empty_wildcard,
            timestamp_ns: time(timestamp),
            include_patterns,
            exclude_patterns,
            always_replace_existing_dest_paths,
            required_paths,
        })
    }

    fn mode(self, field: &'static str, mode: i32) -> Result<u32, PbError> {
        u32::try_from(mode).map_err(|_| self.number(field, i64::from(mode)))
    }

    fn chown(self, owner: &pb::ChownOpt, places: &[i64]) -> Result<Chown, PbError> {
        let principal = |user: &Option<pb::UserOpt>| {
            let Some(user) = user else { return Ok(None) };
            Ok(Some(match user.user.as_ref().ok_or_else(|| self.missing("UserOpt.user"))? {
                pb::User::ById(id) => Principal::Id(*id),
                pb::User::ByName(named) if places.contains(&named.input) => {
                    Principal::Name(named.name.clone())
                }
                pb::User::ByName(_) => return Err(self.unsupported("an owner by a name of another input")),
            }))
        };
        Ok(Chown { user: principal(&owner.user)?, group: principal(&owner.group)? })
    }
}

fn time(timestamp: i64) -> Option<i64> {
    Some(timestamp).filter(|timestamp| *timestamp != NOTHING)
}
