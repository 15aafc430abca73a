//! The tree that a Dockerfile parses to: stages, instructions, words with spans. It holds what was
//! written; it does not know the values of variables, images or files.
//!
//! Follows the Dockerfile reference and BuildKit 0.32's `frontend/dockerfile/instructions`.

use serde::Serialize;

/// A range of bytes in the Dockerfile's text as it was given (a byte-order mark counts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset after the last byte.
    pub end: usize,
}

/// A word as it was written, quotes and variables included, after continuation lines were joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Word {
    /// The text, not expanded.
    pub raw: String,
    /// Where it stands.
    pub span: Span,
}

/// A whole Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dockerfile {
    /// The parser directives at its top.
    pub directives: Directives,
    /// The `ARG` instructions before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

/// The parser directives: `# escape=`, `# syntax=`, `# check=`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Directives {
    /// The escape character: `\` unless the directive says a back-tick.
    pub escape: char,
    /// The value of `# syntax=`, which kiln notes and does not fetch.
    pub syntax: Option<Word>,
    /// The value of `# check=`.
    pub check: Option<Word>,
}

impl Default for Directives {
    fn default() -> Self {
        Directives { escape: '\\', syntax: None, check: None }
    }
}

/// A stage: a `FROM` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The `FROM` instruction itself; its kind is always [`InstructionKind::From`].
    pub from: Instruction,
    /// The stage's name after `AS`, in lower case, if it has one.
    pub name: Option<String>,
    /// The other instructions, in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// The whole instruction, its heredocs included.
    pub span: Span,
    /// The first line, counted from 1.
    pub line: u32,
    /// The last line, heredocs included, counted from 1.
    pub end_line: u32,
    /// The instruction's name as it was written (`run`, `Run`, `RUN`).
    pub keyword: Word,
    /// The logical line: continuation lines joined, comments dropped, name included.
    pub text: String,
    /// The comment lines directly above, without `#` and outer blanks.
    pub comments: Vec<String>,
    /// What the `# kiln:` comments right above ask for, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<Advice>,
    /// What it says.
    pub kind: InstructionKind,
}

/// What a word of a `# kiln:` comment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What.
    pub kind: AdviceKind,
    /// The word.
    pub span: Span,
}

/// What a `# kiln:` comment may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdviceKind {
    /// `no-cache`: the instruction is done in every build.
    NoCache,
    /// `max-age=DURATION`: it is done again when its result is older.
    MaxAge {
        /// The age.
        seconds: u64,
    },
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InstructionKind {
    /// `FROM [--platform=] image [AS name]`.
    From {
        /// The image, stage or named context.
        image: Word,
        /// `--platform`.
        platform: Option<Word>,
        /// The name after `AS`, as written, and the word `AS` itself.
        alias: Option<(Word, Word)>,
    },
    /// `RUN`.
    Run(Run),
    /// `CMD`.
    Cmd(Command),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `COPY`.
    Copy(Copy),
    /// `ADD`.
    Add(Add),
    /// `ENV`.
    Env(Vec<KeyValue>),
    /// `LABEL`.
    Label(Vec<KeyValue>),
    /// `ARG a[=v] …`: each a name and perhaps a default.
    Arg(Vec<(Word, Option<Word>)>),
    /// `EXPOSE`.
    Expose(Vec<Word>),
    /// `VOLUME`, words or the strings of its JSON form.
    Volume(Vec<Word>),
    /// `USER`.
    User(Word),
    /// `WORKDIR`.
    Workdir(Word),
    /// `STOPSIGNAL`.
    Stopsignal(Word),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `ONBUILD`: the trigger's text and the instruction that it is.
    Onbuild {
        /// The trigger as it goes into the image's config.
        trigger: Word,
        /// The same, parsed; `None` if it is wrong, which counts only where it acts.
        instruction: Option<Box<InstructionKind>>,
    },
    /// `MAINTAINER`.
    Maintainer(Word),
}

/// A command line in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The exec form: a JSON array.
    Exec(Vec<String>),
    /// The shell form: one text for the shell (continuations joined, the rest as it was written).
    Shell(String),
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: Option<Word>,
    /// `--security`.
    pub security: Option<Word>,
    /// `--device`.
    pub devices: Vec<Word>,
    /// The command; of a RUN with heredocs the text of its line, with the heredoc marks.
    pub command: Command,
    /// The heredocs, in order.
    pub heredocs: Vec<Heredoc>,
}

/// A `--mount=` flag: comma-separated keys, as written and not expanded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The flag's whole value.
    pub value: Word,
    /// Its fields in order: key in lower case, and value (`None` for a bare key such as `ro`).
    pub fields: Vec<(String, Option<String>)>,
}

/// A heredoc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Heredoc {
    /// The delimiter, which is the file's name in COPY and ADD.
    pub name: String,
    /// The body, tabs chomped if `<<-`.
    pub body: String,
    /// The body as it was written: what BuildKit gives the shell after a `<<-` mark, and keeps in the
    /// text of an ONBUILD trigger.
    pub raw_body: String,
    /// Whether variables in the body are expanded (the delimiter was not quoted).
    pub expand: bool,
    /// Whether it was `<<-`.
    pub chomp: bool,
    /// The file descriptor before `<<`; 0 where none was given.
    pub fd: u32,
    /// Where the body stands.
    pub span: Span,
}

/// A source of COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopySource {
    /// A path, URL or git address.
    Path(Word),
    /// A file given in the Dockerfile.
    Heredoc(Heredoc),
}

/// `COPY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// `--from`.
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Word>,
    /// The sources, in order.
    pub sources: Vec<CopySource>,
    /// The destination.
    pub dest: Word,
}

/// `ADD`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Add {
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`.
    pub checksum: Option<Word>,
    /// `--unpack`, if given.
    pub unpack: Option<bool>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Word>,
    /// The sources, in order.
    pub sources: Vec<CopySource>,
    /// The destination.
    pub dest: Word,
}

/// A pair of ENV or LABEL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyValue {
    /// The key, not expanded.
    pub key: Word,
    /// The value, not expanded, quotes kept.
    pub value: Word,
    /// Whether it was written in the old form, with a blank for the equals sign.
    pub legacy: bool,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [flags] CMD …`; times in nanoseconds, 0 where not given.
    Cmd {
        /// The command.
        command: Command,
        /// `--interval`.
        interval_ns: i64,
        /// `--timeout`.
        timeout_ns: i64,
        /// `--start-period`.
        start_period_ns: i64,
        /// `--start-interval`.
        start_interval_ns: i64,
        /// `--retries`.
        retries: u32,
    },
}
