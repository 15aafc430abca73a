//! HEALTHCHECK: its flags, its times, its command. It does not know how a check is run.

use crate::ast::{Command, Healthcheck, InstructionKind};
use crate::duration;
use crate::flags::{Flags, Known, Takes};
use crate::instruction::command;
use crate::statement::{Problem, Statement};

const FLAGS: [Known; 5] = [
    ("interval", Takes::One),
    ("timeout", Takes::One),
    ("start-period", Takes::One),
    ("start-interval", Takes::One),
    ("retries", Takes::One),
];

/// The shortest time that the engine takes, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

/// Reads HEALTHCHECK.
pub(crate) fn healthcheck(statement: &Statement<'_>) -> Result<InstructionKind, Problem> {
    let text = statement.args();
    if text.is_empty() {
        return Err(statement.problem("HEALTHCHECK requires at least one argument"));
    }
    let (kind, _) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    let rest = text[kind.len()..].trim_start();
    let range = statement.arguments.end - rest.len()..statement.arguments.end;
    let nothing = |command: &Command| match command {
        Command::Exec(words) => words.is_empty(),
        Command::Shell(text) => text.is_empty(),
    };
    let command = command(statement, range)?;
    if kind.eq_ignore_ascii_case("NONE") {
        if !nothing(&command) {
            return Err(statement.problem("HEALTHCHECK NONE takes no arguments"));
        }
        return Ok(InstructionKind::Healthcheck(Healthcheck::None));
    }
    let flags = Flags::read(statement, &FLAGS)?;
    if !kind.eq_ignore_ascii_case("CMD") {
        let kind = kind.to_uppercase();
        let problem = statement.problem(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"));
        return Err(problem.hint("write HEALTHCHECK CMD and the command, or HEALTHCHECK NONE"));
    }
    if nothing(&command) {
        return Err(statement.problem("Missing command after HEALTHCHECK CMD"));
    }
    Ok(InstructionKind::Healthcheck(Healthcheck::Cmd {
        command,
        interval_ns: time(statement, &flags, "interval")?,
        timeout_ns: time(statement, &flags, "timeout")?,
        start_period_ns: time(statement, &flags, "start-period")?,
        start_interval_ns: time(statement, &flags, "start-interval")?,
        retries: retries(statement, &flags)?,
    }))
}

fn time(statement: &Statement<'_>, flags: &Flags, name: &str) -> Result<i64, Problem> {
    let Some(given) = flags.all(name).next().filter(|given| !given.word.raw.is_empty()) else { return Ok(0) };
    let problem = |message: String| statement.problem(message).at(given.range.clone());
    let time = duration::parse(&given.word.raw)
        .map_err(|message| problem(message).hint("a time has units, as in 30s or 1m30s"))?;
    if time != 0 && time < SHORTEST {
        return Err(problem(format!("Interval {name:?} cannot be less than 1ms")));
    }
    Ok(time)
}

fn retries(statement: &Statement<'_>, flags: &Flags) -> Result<u32, Problem> {
    let Some(given) = flags.all("retries").next().filter(|given| !given.word.raw.is_empty()) else {
        return Ok(0);
    };
    let problem = |message: String| statement.problem(message).at(given.range.clone());
    let text = &given.word.raw;
    let number: i32 =
        text.parse().map_err(|_| problem(format!("--retries must be a whole number, not {text:?}")))?;
    u32::try_from(number).map_err(|_| problem(format!("--retries cannot be negative ({number})")))
}
