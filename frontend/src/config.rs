//! The instructions that change only the config of the image: each checks what it is given, changes
//! the stage, and writes its line of the history. It does not know files.

use crate::args::NOT_VARIABLES;
use crate::error::{LowerError, Place};
use crate::file_op::FileOpBuilder;
use crate::hints;
use crate::history::{duration, plain_list, quoted_list};
use crate::lint_file::secret_name;
use crate::lower::Lowering;
use crate::ownership;
use crate::path;
use crate::progress::shown;
use crate::signal::is_signal;
use crate::stage::StageState;
use kiln_grammar::ast::{Command, Healthcheck, KeyValue};
use kiln_grammar::expand::Lexer;
use kiln_grammar::{Instruction, Word};
use kiln_solver::FileActionKind;
use std::rc::Rc;

const NANOSECONDS: i64 = 1_000_000_000;

impl Lowering<'_> {
    pub(crate) fn env(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        pairs: &[KeyValue],
    ) -> Result<(), LowerError> {
        let place = Place::of(instruction);
        let mut line = "ENV".to_owned();
        for (key, value) in self.pairs(state, instruction, pairs)? {
            secret_name("ENV", &key, place, &mut self.lints);
            line.push_str(&format!(" {key}={value}"));
            state.env.set(&key, &value);
            state.image_env.set(&key, &value);
        }
        state.note(line);
        Ok(())
    }

    pub(crate) fn label(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        pairs: &[KeyValue],
    ) -> Result<(), LowerError> {
        let mut line = "LABEL".to_owned();
        let pairs = self.pairs(state, instruction, pairs)?;
        let labels = &mut Rc::make_mut(&mut state.image).config.labels;
        for (key, value) in pairs {
            line.push_str(&format!(" {key}={value}"));
            labels.insert(key, value);
        }
        state.note(line);
        Ok(())
    }

    /// The pairs of ENV and LABEL, all expanded with the variables before the instruction.
    fn pairs(
        &mut self,
        state: &StageState,
        instruction: &Instruction,
        pairs: &[KeyValue],
    ) -> Result<Vec<(String, String)>, LowerError> {
        let place = Place::of(instruction);
        let mut out = Vec::with_capacity(pairs.len());
        for pair in pairs {
            if pair.legacy {
                let name = &instruction.keyword.raw;
                let message = || format!("write `{name} key=value` and not `{name} key value`");
                let hint = || {
                    let has_blanks = pair.value.raw.starts_with('=');
                    has_blanks.then(|| {
                        "no blanks stand around the equals sign: the value begins with it".to_owned()
                    })
                };
                self.lints.warn_with("LegacyKeyValueFormat", place, message, hint);
            }
            let key = self.expand(state, &pair.key.raw, place.at(&pair.key))?;
            out.push((key, self.expand(state, &pair.value.raw, place.at(&pair.value))?));
        }
        Ok(out)
    }

    pub(crate) fn arg(
        &mut self,
        state: &mut StageState,
        place: Place,
        args: &[(Word, Option<Word>)],
    ) -> Result<(), LowerError> {
        let mut shown = Vec::with_capacity(args.len());
        for (name, default) in args {
            let name = name.raw.as_str();
            secret_name("ARG", name, place, &mut self.lints);
            let value = match (self.given(name), default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(self.expand(state, &default.raw, place.at(default))?),
                (None, None) => self.global.get(name).map(str::to_owned),
            };
            state.declared.add(name, value.as_deref());
            let Some(value) = value else {
                shown.push(name.to_owned());
                continue;
            };
            if !NOT_VARIABLES.contains(&name) {
                state.env.set(name, &value);
            }
            shown.push(format!("{name}={value}"));
        }
        state.note(format!("ARG {}", shown.join(" ")));
        Ok(())
    }

    /// The value of an argument that was given; that of the time is what it was found out to be.
    fn given(&self, name: &str) -> Option<String> {
        let given = self.options.build_arg(name)?;
        if name == crate::epoch::NAME {
            return self.epoch.map(|epoch| epoch.to_string());
        }
        Some(given.to_owned())
    }

    pub(crate) fn cmd(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        command: &Command,
    ) -> Result<(), LowerError> {
        self.once(state.cmd.replace(Place::of(instruction)), instruction);
        let words = self.words(state, instruction, command);
        state.note(format!("CMD {}", quoted_list(&words)));
        let config = &mut Rc::make_mut(&mut state.image).config;
        config.cmd = Some(words);
        config.args_escaped = true;
        Ok(())
    }

    pub(crate) fn entrypoint(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        command: &Command,
    ) -> Result<(), LowerError> {
        self.once(state.entrypoint.replace(Place::of(instruction)), instruction);
        let words = self.words(state, instruction, command);
        state.note(format!("ENTRYPOINT {}", quoted_list(&words)));
        let has_cmd = state.cmd.is_some();
        let config = &mut Rc::make_mut(&mut state.image).config;
        config.entrypoint = Some(words);
        if !has_cmd {
            config.cmd = None;
        }
        Ok(())
    }

    /// The words of CMD and ENTRYPOINT, the shell's put before those of a shell form.
    fn words(&mut self, state: &StageState, instruction: &Instruction, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                if state.image.config.shell.is_empty() {
                    let name = instruction.keyword.raw.to_uppercase();
                    let message =
                        || format!("{name} should be a JSON array: a shell keeps signals from the program");
                    let hint = || hints::broken_array(text).map(str::to_owned);
                    self.lints.warn_with("JSONArgsRecommended", Place::of(instruction), message, hint);
                }
                with_shell(state, text)
            }
        }
    }

    /// Warns of an earlier instruction that a later one of its kind makes void.
    fn once(&mut self, earlier: Option<Place>, instruction: &Instruction) {
        if let Some(place) = earlier {
            let name = instruction.keyword.raw.to_uppercase();
            let message = || format!("only the last {name} of a stage counts, and not this one");
            self.lints.warn("MultipleInstructionsDisallowed", place, message);
        }
    }

    pub(crate) fn healthcheck(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        check: &Healthcheck,
    ) -> Result<(), LowerError> {
        self.once(state.healthcheck.replace(Place::of(instruction)), instruction);
        let mut health = kiln_oci::Healthcheck::default();
        match check {
            Healthcheck::None => health.test = vec!["NONE".to_owned()],
            Healthcheck::Cmd {
                command,
                interval_ns,
                timeout_ns,
                start_period_ns,
                start_interval_ns,
                retries,
            } => {
                health.test = match command {
                    Command::Exec(words) => {
                        std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect()
                    }
                    Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                };
                health.interval = *interval_ns;
                health.timeout = *timeout_ns;
                health.start_period = *start_period_ns;
                health.start_interval = *start_interval_ns;
                health.retries = i64::from(*retries);
            }
        }
        state.note(format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            plain_list(&health.test),
            duration(health.interval),
            duration(health.timeout),
            duration(health.start_period),
            duration(health.start_interval),
            health.retries,
        ));
        Rc::make_mut(&mut state.image).config.healthcheck = Some(health);
        Ok(())
    }

    pub(crate) fn expose(
        &mut self,
        state: &mut StageState,
        place: Place,
        words: &[Word],
    ) -> Result<(), LowerError> {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.raw.cmp(&b.raw));
        let mut ports = Vec::new();
        for word in sorted {
            let (lexer, place) = (Lexer::new(self.escape), place.at(word));
            let expanded = lexer
                .expand(&word.raw, &state.look_up())
                .map_err(|why| place.hinted(why.to_string(), why.hint()))?;
            for word in expanded.words {
                let exposed = crate::expose::exposed(&word);
                let hint = "as in 80, 8000-8010, 53/udp: ports of the container, each tcp, udp or sctp";
                let exposed = exposed.map_err(|why| place.hinted(why, hint))?;
                if exposed.has_upper_case {
                    let message = || format!("the protocol in `{word}` should be in lower case");
                    self.lints.warn("ExposeProtoCasing", place, message);
                }
                if exposed.has_host {
                    let message =
                        || format!("`{word}` names an address or port of the host, which counts for nothing");
                    self.lints.warn("ExposeInvalidFormat", place, message);
                }
                ports.extend(exposed.ports);
            }
        }
        state.note(format!("EXPOSE {}", plain_list(&ports)));
        let config = &mut Rc::make_mut(&mut state.image).config;
        config.exposed_ports.extend(ports.into_iter().map(|port| (port, nothing())));
        Ok(())
    }

    pub(crate) fn volume(
        &mut self,
        state: &mut StageState,
        place: Place,
        words: &[Word],
    ) -> Result<(), LowerError> {
        let paths = self.expand_all(state, words, place)?;
        if paths.iter().any(String::is_empty) {
            return Err(place.error("VOLUME specified can not be an empty string"));
        }
        state.note(format!("VOLUME {}", plain_list(&paths)));
        let config = &mut Rc::make_mut(&mut state.image).config;
        config.volumes.extend(paths.into_iter().map(|path| (path, nothing())));
        Ok(())
    }

    pub(crate) fn user(
        &mut self,
        state: &mut StageState,
        place: Place,
        word: &Word,
    ) -> Result<(), LowerError> {
        let user = self.expand(state, &word.raw, place.at(word))?;
        state.note(format!("USER {user}"));
        Rc::make_mut(&mut state.image).config.user = user;
        Ok(())
    }

    pub(crate) fn stop_signal(
        &mut self,
        state: &mut StageState,
        place: Place,
        word: &Word,
    ) -> Result<(), LowerError> {
        let place = place.at(word);
        let signal = self.expand(state, &word.raw, place)?;
        if !is_signal(&signal) {
            return Err(
                place.hinted(format!("invalid signal: {signal}"), "it is a number, or a name as SIGTERM")
            );
        }
        state.note(format!("STOPSIGNAL {signal}"));
        Rc::make_mut(&mut state.image).config.stop_signal = signal;
        Ok(())
    }

    pub(crate) fn shell(&mut self, state: &mut StageState, words: &[String]) {
        state.note(format!("SHELL {}", plain_list(words)));
        Rc::make_mut(&mut state.image).config.shell = words.to_vec();
    }

    pub(crate) fn onbuild(&mut self, state: &mut StageState, trigger: &Word) {
        Rc::make_mut(&mut state.image).config.on_build.push(trigger.raw.clone());
    }

    /// A trigger that is wrong: BuildKit says so only where it acts.
    pub(crate) fn warn_of_trigger(&mut self, place: Place, trigger: &Word) {
        let Err(why) = kiln_grammar::parse_instruction(&trigger.raw, self.escape) else { return };
        let hint = why.hint.unwrap_or_else(|| "a build on top of this image will fail".to_owned());
        self.lints.note(place.at(trigger), format!("this trigger can't act: {}", why.message), hint);
    }

    pub(crate) fn maintainer(&mut self, state: &mut StageState, author: &Word) {
        state.note(format!("MAINTAINER {}", author.raw));
        Rc::make_mut(&mut state.image).author.clone_from(&author.raw);
    }

    pub(crate) fn work_dir(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        word: &Word,
    ) -> Result<(), LowerError> {
        let place = Place::of(instruction);
        let written = self.expand(state, &word.raw, place.at(word))?;
        if !state.has_work_dir && !written.starts_with('/') {
            let message = || {
                format!("the first WORKDIR is relative, so that `{written}` is elsewhere if the base changes")
            };
            self.lints.warn("WorkdirRelativePath", place, message);
        }
        state.has_work_dir = true;
        let dir = path::work_dir(state.dir(), &written);
        Rc::make_mut(&mut state.image).config.working_dir.clone_from(&dir);
        if dir == "/" {
            state.note(format!("WORKDIR {dir}"));
            return Ok(());
        }
        let user = &state.image.config.user;
        let owner = (!user.is_empty()).then(|| ownership::chown(user));
        if let (None, Some(name)) = (state.fs, owner.as_ref().and_then(ownership::first_name)) {
            return Err(unknown_owner(place, name, "the user"));
        }
        let mut folder = FileOpBuilder::new(state.fs);
        let timestamp_ns = self.epoch_ns();
        let path = path::rooted(&dir);
        folder
            .push(FileActionKind::Mkdir { path, mode: 0o755, make_parents: true, owner, timestamp_ns }, None);
        let (op, inputs) = folder.finish();
        let text = shown(&instruction.text, &Lexer::new(self.escape), &state.look_up());
        let name = state.steps.next(&text, &state.platform, &state.env);
        let mut metadata = self.metadata(state, name, place);
        // As BuildKit: --no-cache is for what runs and copies.
        metadata.ignore_cache = state.asked.no_cache;
        state.fs = Some(self.vertex(op, inputs, Some(state.platform.clone()), metadata));
        state.note_layer(format!("WORKDIR {dir}"));
        Ok(())
    }

    /// The time that goes for now, in nanoseconds.
    pub(crate) fn epoch_ns(&self) -> Option<i64> {
        self.epoch.map(|epoch| epoch.saturating_mul(NANOSECONDS))
    }
}

/// A command line for the shell of a stage.
pub(crate) fn with_shell(state: &StageState, text: &str) -> Vec<String> {
    let shell = &state.image.config.shell;
    let mut words = match (shell.is_empty(), state.image.os.as_str()) {
        (false, _) => shell.clone(),
        (true, "windows") => vec!["cmd".to_owned(), "/S".to_owned(), "/C".to_owned()],
        (true, _) => vec!["/bin/sh".to_owned(), "-c".to_owned()],
    };
    words.push(text.to_owned());
    words
}

/// A name that can't be looked up, for there are no files to look in.
pub(crate) fn unknown_owner(place: Place, name: &str, what: &str) -> LowerError {
    let message =
        format!("invalid user: {what} `{name}` is a name, and an empty file system has no /etc/passwd");
    place.hinted(message, "give numbers, as 1000:1000")
}

fn nothing() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}
