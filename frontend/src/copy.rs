//! COPY and ADD: what is copied from where to where. It does not know files.

use crate::config::unknown_owner;
use crate::error::{LowerError, Place};
use crate::file_op::FileOpBuilder;
use crate::git;
use crate::graph::{Command, source_paths};
use crate::hints;
use crate::lower::Lowering;
use crate::ownership;
use crate::path;
use crate::progress::shown;
use crate::stage::StageState;
use kiln_grammar::ast::{Add, Copy, CopySource};
use kiln_grammar::expand::Lexer;
use kiln_grammar::{Instruction, Word};
use kiln_solver::{CopyAction, Edge, FileActionKind, Metadata, Op, SourceOp};
use std::collections::BTreeMap;

/// What COPY and ADD have in common, variables replaced.
struct Copying {
    is_add: bool,
    /// The files of the sources that are paths; `None` is an empty file system.
    files: Option<Edge>,
    /// Whether the files are those of the main context.
    from_context: bool,
    paths: Vec<Given>,
    /// The files that stand in the Dockerfile: name and content.
    documents: Vec<(String, String)>,
    dest: Given,
    chown: Given,
    chmod: Given,
    link: bool,
    parents: bool,
    exclude: Vec<String>,
    checksum: Given,
    keep_git_dir: Option<bool>,
    unpack: Option<bool>,
    place: Place,
    /// What it is called in the progress.
    name: String,
}

/// A word, variables replaced, and where it stands.
struct Given {
    text: String,
    place: Place,
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
                let message = format!(
                    "cannot copy from stage {from:?}, it needs to be defined before current stage {here:?}"
                );
                let place = copy.from.as_ref().map_or(place, |word| place.at(word));
                place.perhaps_hinted(message, self.graph.names.stage(from, place.line))
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
        let is_local = |path: &Given| git::parse(&path.text).is_none() && !is_web(&path.text);
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
        let mut given = |word: &Word| {
            let place = place.at(word);
            self.expand(state, &word.raw, place).map(|text| Given { text, place })
        };
        let mut flag =
            |word: Option<&Word>| word.map_or_else(|| Ok(Given { text: String::new(), place }), &mut given);
        let (chown, chmod, checksum) = (flag(chown)?, flag(chmod)?, flag(checksum)?);
        let (mut paths, mut documents) = (Vec::new(), Vec::new());
        for source in sources {
            match source {
                CopySource::Path(word) => {
                    let place = place.at(word);
                    let text = self.expand(state, &word.raw, place);
                    let text = text.map_err(|why| in_json_form(why, &command.instruction))?;
                    paths.push(Given { text, place });
                }
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
            dest: Given { text: self.expand(state, &dest.raw, place.at(dest))?, place: place.at(dest) },
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
        self.warn_of_late_flags(&copying);
        let text = copying.name.clone();
        let name = state.steps.next(&text, &state.platform, &state.env);
        // A mode that is asked for needs no file system of its own: BuildKit copies then as without --link.
        let is_linked = copying.link && copying.chmod.text.is_empty();
        let base = if is_linked { None } else { state.fs };
        let plain = copying.plain_action(state.dir(), self.epoch_ns())?;
        if let (None, Some(owner)) = (base, plain.owner.as_ref().and_then(ownership::first_name)) {
            return Err(unknown_owner(copying.chown.place, owner, "the owner in --chown"));
        }
        let each = plain.dest.len() + plain.exclude_patterns.iter().map(|it| it.len() + 32).sum::<usize>();
        self.count(place, (copying.paths.len() + copying.documents.len()).saturating_mul(each))?;
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
        &Given { text: ref path, place }: &Given,
        plain: &CopyAction,
        name: &str,
    ) -> Result<(CopyAction, Option<Edge>), LowerError> {
        if let Some(git) = git::parse(path) {
            let git = git.map_err(|why| place.error(why))?;
            if !copying.is_add {
                return Err(place.error("source can't be a git ref for COPY"));
            }
            let source = git_source(git, copying, place)?;
            let edge = self.remote(state, source, name, copying.place);
            return Ok((CopyAction { src: "/".to_owned(), ..plain.clone() }, Some(edge)));
        }
        if is_web(path) {
            if !copying.is_add {
                return Err(place.hinted("source can't be a URL for COPY", "use ADD"));
            }
            let (source, file) = web_source(path, &copying.checksum.text);
            let edge = self.remote(state, source, name, copying.place);
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
        let plain = self.metadata(state, name.to_owned(), place);
        let metadata = Metadata { ignore_cache: false, max_age_s: None, ..plain };
        self.vertex(Op::Source(source), Vec::new(), None, metadata)
    }

    /// A path that looks like a flag: flags stand before all paths.
    fn warn_of_late_flags(&mut self, copying: &Copying) {
        const FLAGS: [&str; 9] =
            ["from", "chown", "chmod", "link", "parents", "exclude", "checksum", "unpack", "keep-git-dir"];
        for Given { text, place } in copying.paths.iter().chain([&copying.dest]) {
            let name = text.strip_prefix("--").and_then(|rest| rest.split('=').next());
            if name.is_some_and(|name| FLAGS.contains(&name)) {
                let hint = "flags stand before the first path".to_owned();
                self.lints.note(
                    *place,
                    format!("`{text}` is taken for a path here, and not for a flag"),
                    hint,
                );
            }
        }
    }

    fn warn_of_ignored(&mut self, copying: &Copying, path: &str) {
        if !copying.from_context || !self.has_local_context() {
            return;
        }
        let Some(ignored) = &self.ignored else { return };
        let path = kiln_grammar::path::clean(path);
        let path = path.as_str();
        let all = ["*", "**", "**/*"];
        // As BuildKit: the patterns are for paths without a slash at their beginning.
        let is_ignored = if path == "." || path.starts_with('/') {
            self.options.ignore.iter().any(|pattern| all.contains(&pattern.pattern.as_str()))
        } else {
            ignored.matches(path.as_bytes())
        };
        if is_ignored {
            let message =
                || format!("`{path}` is left out by the ignore file, so that there is nothing to copy");
            let hint = || {
                let leaves_out = |pattern: &&kiln_grammar::IgnorePattern| {
                    let alone = kiln_solver::pattern::PatternList::parse([&pattern.pattern]);
                    alone.is_ok_and(|alone| alone.matches(path.as_bytes()))
                };
                let pattern = self.options.ignore.iter().rfind(leaves_out)?;
                Some(format!("line {} of the ignore file says `{}`", pattern.line, pattern.original.trim()))
            };
            self.lints.warn_with("CopyIgnoredFile", copying.place, message, hint);
        }
    }
}

impl Copying {
    /// What every copy of the instruction has.
    fn plain_action(&self, dir: &str, timestamp_ns: Option<i64>) -> Result<CopyAction, LowerError> {
        let mode = match self.chmod.text.as_str() {
            "" => None,
            text => Some(ownership::mode(text).map_err(|why| {
                self.chmod.place.hinted(why, "as in --chmod=755, --chmod=u=rwX,go=rX or --chmod=+x")
            })?),
        };
        Ok(CopyAction {
            dest: path::destination(dir, &self.dest.text),
            owner: (!self.chown.text.is_empty()).then(|| ownership::chown(&self.chown.text)),
            mode,
            create_dest_path: true,
            timestamp_ns,
            exclude_patterns: self.exclude.clone(),
            ..CopyAction::default()
        })
    }

    fn check_checksum(&self) -> Result<(), LowerError> {
        if self.checksum.text.is_empty() {
            return Ok(());
        }
        let place = self.checksum.place;
        match self.paths.as_slice() {
            [path] if is_web(&path.text) || git::parse(&path.text).is_some() => Ok(()),
            [_] => Err(place.error("checksum requires HTTP(S) or Git sources")),
            _ => Err(place.error("checksum can't be specified for multiple sources")),
        }
    }

    /// The line of the history.
    fn created_by(&self) -> String {
        let mut line = if self.is_add { "ADD" } else { "COPY" }.to_owned();
        if self.parents {
            line.push_str(" --parents");
        }
        for (flag, value) in [("chown", &self.chown), ("chmod", &self.chmod)] {
            if !value.text.is_empty() {
                line.push_str(&format!(" --{flag}={}", value.text));
            }
        }
        for path in &self.paths {
            line.push(' ');
            line.push_str(&path.text);
        }
        for (name, _) in &self.documents {
            line.push_str(" <<");
            line.push_str(name);
        }
        line.push(' ');
        line.push_str(&self.dest.text);
        line
    }
}

/// The same error, where a path has blanks or the JSON form is not quite one, with what to do about that.
fn in_json_form(error: LowerError, instruction: &Instruction) -> LowerError {
    let LowerError::Diagnostic(mut diagnostic) = error else { return error };
    let array = instruction.text.find('[').map(|at| &instruction.text[at..]);
    if let Some(hint) = array.and_then(hints::broken_array) {
        diagnostic.hint = Some(hint.to_owned());
    } else if diagnostic.message.contains("-quote") {
        diagnostic.hint =
            Some("names with blanks are written in the JSON form: [\"my file\", \"/to\"]".to_owned());
    }
    LowerError::Diagnostic(diagnostic)
}

fn git_source(mut git: git::GitAddress, copying: &Copying, place: Place) -> Result<SourceOp, LowerError> {
    let checksum = &copying.checksum.text;
    match (copying.keep_git_dir, git.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            return Err(place.error("inconsistent keep-git-dir configuration"));
        }
        (flag, query) => git.keep_git_dir = query.or(flag),
    }
    match &git.checksum {
        Some(query) if !checksum.is_empty() && query != checksum => {
            return Err(place.error(format!("checksum mismatch {checksum:?} != {query:?}")));
        }
        Some(_) => {}
        None => git.checksum = Some(checksum.clone()).filter(|checksum| !checksum.is_empty()),
    }
    Ok(git.source())
}

/// A download, and the name of its file.
pub(crate) fn web_source(url: &str, checksum: &str) -> (SourceOp, String) {
    let path =
        url.split_once("://").map_or("", |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let file = match path::base(path) {
        "" | "." | ".." => "__unnamed__",
        name => name,
    };
    let mut attrs = BTreeMap::from([("http.filename".to_owned(), file.to_owned())]);
    if !checksum.is_empty() {
        attrs.insert("http.checksum".to_owned(), checksum.to_owned());
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
