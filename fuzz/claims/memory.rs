//! The rule about memory: at most 50 times the input, and what few things there are cost besides. It
//! does not know what was done.

/// How many bytes may be held for each byte of input.
pub const TIMES: usize = 50;

/// What a short input may cost whatever it says: the parser's own tables, a platform's arguments, names.
pub const FIXED: usize = 64 * 1024;

/// What an instruction of six bytes may cost: its own size, while the list of them grows.
const INSTRUCTION: usize = 3 * size_of::<kiln_grammar::Instruction>();

/// What a word, a string or an escape of two bytes may cost: its tokens, its place, a text of its own.
const WORD: usize = 160;

/// What the things in a Dockerfile may cost although they are short: a line may be an instruction, and at
/// each blank, comma, quote or backslash something may begin.
pub fn of_dockerfile(text: &str) -> usize {
    let lines = text.bytes().filter(|c| *c == b'\n').count() + 1;
    let starts = |c: &u8| c.is_ascii_whitespace() || b",\\\"'`".contains(c);
    lines * INSTRUCTION + text.bytes().filter(starts).count() * WORD
}

/// What was held, and what it may be.
pub struct Held<'a> {
    /// What was done, for the message.
    pub what: &'a str,
    /// The most bytes that were held at once.
    pub peak: usize,
    /// The bytes that went in.
    pub input: usize,
    /// The bytes that the things in it may cost besides, each of which may be two bytes long.
    pub things: usize,
}

/// Fails if more was held than the rule says.
#[track_caller]
pub fn check(held: Held<'_>) {
    let Held { what, peak, input, things } = held;
    let most = TIMES * input + FIXED + things;
    assert!(
        peak <= most,
        "{what}: {peak} bytes were held for {input} bytes of input, {} for each; the most is {most}",
        peak / input.max(1)
    );
}
