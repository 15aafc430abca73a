//! COPY and ADD: what is copied from where to where. It does not know files.

use crate::config::unknown_owner;
use crate::error::{LowerError, Place};
use crate::file_op::FileOpBuilder;
use crate::git;
use crate::graph::{Command, source_paths};
use crate::lower::Lowering;
use crate::ownership;
use crate::path;
use crate::progress::shown;
use crate::stage::StageState;
use kiln_grammar::Word;
use kiln_grammar::ast::{Add, Copy, CopySource};
use kiln_grammar::expand::Lexer;
use kiln_solver::{CopyAction, Edge, FileActionKind, Metadata, Op, SourceOp};
use std::collections::BTreeMap;

/// What COPY and ADD have in common, variables replaced.
struct Copying {
    is_add: bool,
    /// The files of the sources that are paths; `None` is an empty file system.
    files: Option<Edge>,
    /// Whether the files are those of the main context.
    from_context: bool,
    paths: Vec<String>,
    /// The files that stand in the Dockerfile: name and content.
    documents: Vec<(String, String)>,
    dest: String,
    chown: String,
    chmod: String,
    link: bool,
    parents: bool,
    exclude: Vec<String>,
    checksum: String,
    keep_git_dir: Option<bool>,
    unpack: Option<bool>,
    place: Place,
    /// What it is called in the progress.
    name: String,
}

impl Lowering<'_> {
    pub(crate) fn copy(
        &mut self,
        state: &mut StageState,
        command: &Command<'_>,
        copy: &Copy,
    ) -> Result<(), LowerError> {
        let place = Place::of(&command.instruction);
        let source = command.sources.first().copied().flatten();
        let files = match source {
            Some(source) => self.source_edge(source).ok_or_else(|| {
                let from = copy.from.as_ref().map(|word| word.raw.as_str()).unwrap_or_default();
                let here = &state.name;
                place.error(format!(
                    "cannot copy from stage {from:?}, it needs to be defined before current stage {here:?}"
                ))
            })?,
            None if source_paths(&copy.sources).next().is_some() => self.main_context()?,
            None => None,
        };
        let flags = [copy.chown.as_ref(), copy.chmod.as_ref(), None];
        let mut copying = self.copying(state, command, &copy.sources, &copy.dest, flags)?;
        copying.files = files;
        copying.from_context = source.is_none();
        copying.link = copy.link;
        copying.parents = copy.parents;
        copying.exclude = copy.exclude.iter().map(|word| word.raw.clone()).collect();
        self.copy_files(state, copying)
    }

    pub(crate) fn add(
        &mut self,
        state: &mut StageState,
        command: &Command<'_>,
        add: &Add,
    ) -> Result<(), LowerError> {
        let flags = [add.chown.as_ref(), add.chmod.as_ref(), add.checksum.as_ref()];
        let mut copying = self.copying(state, command, &add.sources, &add.dest, flags)?;
        let is_local = |path: &String| git::parse(path).is_none() && !is_web(path);
        if copying.paths.iter().any(is_local) {
            copying.files = self.main_context()?;
        }
        copying.is_add = true;
        copying.from_context = true;
        copying.link = add.link;
        copying.exclude = add.exclude.iter().map(|word| word.raw.clone()).collect();
        copying.keep_git_dir = add.keep_git_dir;
        copying.unpack = add.unpack;
        self.copy_files(state, copying)
    }

    /// Replaces the variables of sources, destination and flags.
    fn copying(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
        sources: &[CopySource],
        dest: &Word,
        [chown, chmod, checksum]: [Option<&Word>; 3],
    ) -> Result<Copying, LowerError> {
        let place = Place::of(&command.instruction);
        let mut flag = |word: Option<&Word>| {
            word.map(|word| self.expand(state, &word.raw, place)).transpose().map(Option::unwrap_or_default)
        };
        let (chown, chmod, checksum) = (flag(chown)?, flag(chmod)?, flag(checksum)?);
        let (mut paths, mut documents) = (Vec::new(), Vec::new());
        for source in sources {
            match source {
                CopySource::Path(word) => paths.push(self.expand(state, &word.raw, place)?),
                CopySource::Heredoc(heredoc) if heredoc.expand => {
                    let lexer = Lexer { skip_quotes: true, ..Lexer::new('\\') };
                    let body = self.expand_with(lexer, state, &heredoc.body, place)?;
                    documents.push((heredoc.name.clone(), body));
                }
                CopySource::Heredoc(heredoc) => documents.push((heredoc.name.clone(), heredoc.body.clone())),
            }
        }
        let name = shown(&command.instruction.text, &Lexer::new(self.escape), &state.look_up());
        Ok(Copying {
            is_add: false,
            files: None,
            from_context: false,
            paths,
            documents,
            dest: self.expand(state, &dest.raw, place)?,
            chown,
            chmod,
            link: false,
            parents: false,
            exclude: Vec::new(),
            checksum,
            keep_git_dir: None,
            unpack: None,
            place,
            name,
        })
    }

    fn copy_files(&mut self, state: &mut StageState, copying: Copying) -> Result<(), LowerError> {
        let place = copying.place;
        copying.check_checksum()?;
        let text = copying.name.clone();
        let name = state.steps.next(&text, &state.platform, &state.env);
        // A mode that is asked for needs no file system of its own: BuildKit copies then as without --link.
        let is_linked = copying.link && copying.chmod.is_empty();
        let base = if is_linked { None } else { state.fs };
        let plain = copying.plain_action(state.dir(), self.epoch_ns())?;
        if let (None, Some(owner)) = (base, plain.owner.as_ref().and_then(ownership::first_name)) {
            return Err(unknown_owner(place, owner, "the owner in --chown"));
        }
        let mut work = FileOpBuilder::new(base);
        for path in &copying.paths {
            let (action, source) = self.path_action(state, &copying, path, &plain, &name)?;
            work.push(FileActionKind::Copy(Box::new(action)), Some(source));
        }
        for (file, body) in &copying.documents {
            let source = self.document(state, (file.clone(), body.clone().into_bytes(), 0o644));
            let action =
                CopyAction { src: path::rooted(file), exclude_patterns: Vec::new(), ..plain.clone() };
            work.push(FileActionKind::Copy(Box::new(action)), Some(Some(source)));
        }
        let (op, inputs) = work.finish();
        let metadata = self.metadata(state, name, place);
        let copied = self.vertex(op, inputs, Some(state.platform.clone()), metadata);
        state.fs = Some(match (is_linked, state.fs) {
            (true, Some(below)) => {
                let name = state.steps.name(&format!("LINK {text}"), &state.platform, &state.env);
                let metadata = self.metadata(state, name, place);
                self.vertex(Op::Merge, vec![below, copied], Some(state.platform.clone()), metadata)
            }
            _ => copied,
        });
        state.note_marked_layer(copying.created_by());
        Ok(())
    }

    /// The copy of one source, and the files that it is in.
    fn path_action(
        &mut self,
        state: &StageState,
        copying: &Copying,
        path: &str,
        plain: &CopyAction,
        name: &str,
    ) -> Result<(CopyAction, Option<Edge>), LowerError> {
        let place = copying.place;
        if let Some(git) = git::parse(path) {
            let git = git.map_err(|why| place.error(why))?;
            if !copying.is_add {
                return Err(place.error("source can't be a git ref for COPY"));
            }
            let source = git_source(git, copying)?;
            let edge = self.remote(state, source, name, place);
            return Ok((CopyAction { src: "/".to_owned(), ..plain.clone() }, Some(edge)));
        }
        if is_web(path) {
            if !copying.is_add {
                return Err(place.hinted("source can't be a URL for COPY", "use ADD"));
            }
            let (source, file) = web_source(path, copying);
            let edge = self.remote(state, source, name, place);
            let attempt_unpack = copying.unpack == Some(true);
            return Ok((
                CopyAction { src: path::rooted(&file), attempt_unpack, ..plain.clone() },
                Some(edge),
            ));
        }
        self.warn_of_ignored(copying, path);
        let mut action = CopyAction {
            follow_symlink: true,
            dir_copy_contents: true,
            allow_wildcard: true,
            allow_empty_wildcard: true,
            attempt_unpack: copying.unpack.unwrap_or(copying.is_add),
            src: path::rooted(path),
            ..plain.clone()
        };
        if copying.parents {
            let (parent, pattern) = path.split_once("/./").unwrap_or(("/", path));
            let pattern = path::rooted(pattern);
            if !has_wildcards(parent) && !has_wildcards(&pattern) {
                action.required_paths = vec![path::rooted(&format!("{parent}/{pattern}"))];
            }
            action.src = path::rooted(parent);
            action.include_patterns = vec![pattern.trim_start_matches('/').to_owned()];
        }
        Ok((action, copying.files))
    }

    fn remote(&mut self, state: &StageState, source: SourceOp, name: &str, place: Place) -> Edge {
        let metadata = Metadata { ignore_cache: false, ..self.metadata(state, name.to_owned(), place) };
        self.vertex(Op::Source(source), Vec::new(), None, metadata)
    }

    fn warn_of_ignored(&mut self, copying: &Copying, path: &str) {
        if !copying.from_context || !self.has_local_context() {
            return;
        }
        let Some(ignored) = &self.ignored else { return };
        let path = path::rooted(path);
        let path = path.trim_start_matches('/');
        let all = ["*", "**", "**/*"];
        let is_ignored = if path.is_empty() {
            self.options.ignore.iter().any(|pattern| all.contains(&pattern.pattern.as_str()))
        } else {
            ignored.matches(path.as_bytes())
        };
        if is_ignored {
            let message =
                || format!("`{path}` is left out by the ignore file, so that there is nothing to copy");
            self.lints.warn("CopyIgnoredFile", copying.place, message);
        }
    }
}

impl Copying {
    /// What every copy of the instruction has.
    fn plain_action(&self, dir: &str, timestamp_ns: Option<i64>) -> Result<CopyAction, LowerError> {
        let mode = match self.chmod.as_str() {
            "" => None,
            text => Some(ownership::mode(text).map_err(|why| self.place.error(why))?),
        };
        Ok(CopyAction {
            dest: path::destination(dir, &self.dest),
            owner: (!self.chown.is_empty()).then(|| ownership::chown(&self.chown)),
            mode,
            create_dest_path: true,
            timestamp_ns,
            exclude_patterns: self.exclude.clone(),
            ..CopyAction::default()
        })
    }

    fn check_checksum(&self) -> Result<(), LowerError> {
        if self.checksum.is_empty() {
            return Ok(());
        }
        match self.paths.as_slice() {
            [path] if is_web(path) || git::parse(path).is_some() => Ok(()),
            [_] => Err(self.place.error("checksum requires HTTP(S) or Git sources")),
            _ => Err(self.place.error("checksum can't be specified for multiple sources")),
        }
    }

    /// The line of the history.
    fn created_by(&self) -> String {
        let mut line = if self.is_add { "ADD" } else { "COPY" }.to_owned();
        if self.parents {
            line.push_str(" --parents");
        }
        for (flag, value) in [("chown", &self.chown), ("chmod", &self.chmod)] {
            if !value.is_empty() {
                line.push_str(&format!(" --{flag}={value}"));
            }
        }
        for path in &self.paths {
            line.push(' ');
            line.push_str(path);
        }
        for (name, _) in &self.documents {
            line.push_str(" <<");
            line.push_str(name);
        }
        line.push(' ');
        line.push_str(&self.dest);
        line
    }
}

fn git_source(mut git: git::GitAddress, copying: &Copying) -> Result<SourceOp, LowerError> {
    let place = copying.place;
    match (copying.keep_git_dir, git.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(place.error("inconsistent keep-git-dir configuration"));
        }
        (flag, query) => git.keep_git_dir = query.or(flag),
    }
    match &git.checksum {
        Some(query) if !copying.checksum.is_empty() && *query != copying.checksum => {
            return Err(place.error(format!("checksum mismatch {:?} != {query:?}", copying.checksum)));
        }
        Some(_) => {}
        None => git.checksum = Some(copying.checksum.clone()).filter(|checksum| !checksum.is_empty()),
    }
    Ok(git.source())
}

/// A download, and the name of its file.
fn web_source(url: &str, copying: &Copying) -> (SourceOp, String) {
    let path =
        url.split_once("://").map_or("", |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let file = match path::base(path) {
        "" | "." | ".." => "__unnamed__",
        name => name,
    };
    let mut attrs = BTreeMap::from([("http.filename".to_owned(), file.to_owned())]);
    if !copying.checksum.is_empty() {
        attrs.insert("http.checksum".to_owned(), copying.checksum.clone());
    }
    (SourceOp { identifier: url.to_owned(), attrs }, file.to_owned())
}

fn is_web(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}
