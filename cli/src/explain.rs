//! `kiln explain`: why the steps of a build ran or did not, in words. It does not know how reasons are found.

use crate::args::ExplainArgs;
use crate::error::CommandError;
use crate::images::{human_size, print};
use crate::report::json;
use kiln_worker::{BuildReport, BuildStatus, FileChange, Origin, Outcome, Reason, StepReport, Worker};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many files are named.
const FILES_MAX: usize = 3;
/// How much of a command is shown on either side.
const COMMAND_CHARS_MAX: usize = 60;
/// How much of what is alike is shown around what differs.
const AROUND_CHARS: usize = 12;

/// Explains an earlier build, or lists them.
pub(crate) fn run(worker: &Worker, args: &ExplainArgs) -> Result<(), CommandError> {
    let is_json = args.format == "json";
    if args.build.as_deref() == Some("ls") {
        let reports = worker.reports()?;
        return print(match is_json {
            true => reports.iter().map(json).collect(),
            false => listed(&reports),
        });
    }
    let Some(report) = worker.report(args.build.as_deref())? else {
        let problem = "there is no such build, or it is too old: kiln explain ls lists those that are kept";
        return Err(match &args.build {
            Some(id) => CommandError::usage(format!("kiln explain {id}"), problem),
            None => CommandError::usage("kiln explain", "nothing was built with this store yet"),
        });
    };
    print(if is_json { json(&report) } else { text(&report) })
}

fn listed(reports: &[BuildReport]) -> String {
    let mut out = String::new();
    for report in reports.iter().rev() {
        let BuildReport { id, started_s, seconds, place, totals, .. } = report;
        let ended = match report.status {
            BuildStatus::Done => "done",
            BuildStatus::Failed => "failed",
            BuildStatus::Canceled => "canceled",
        };
        let steps = format!("{} of {} steps ran", totals.misses, totals.steps);
        let age = age(*started_s);
        out.push_str(&format!("{id}   {age:>12}   {ended:8}   {seconds:7.2}s   {steps:20}   {place}\n"));
    }
    out
}

/// All of a build, a line for each step and one for each reason.
pub(crate) fn text(report: &BuildReport) -> String {
    let mut out = match report.id.as_str() {
        "" => "what would be done:\n".to_owned(),
        id => format!("explained: build {id} of {}\n", one_line(&report.place)),
    };
    let new = report.steps.iter().filter(|step| step.reasons == [Reason::First]);
    let new: BTreeSet<&str> = new.map(|step| step.name.as_str()).collect();
    let is_new = |name: &str| new.contains(name);
    for step in &report.steps {
        out.push_str(&format!("{}: {}\n", one_line(&step.name), outcome(step)));
        for line in reasons(step, &is_new) {
            out.push_str(&format!("    {line}\n"));
        }
    }
    let totals = &report.totals;
    let ran = if report.dry_run { "to run" } else { "ran" };
    out.push_str(&format!(
        "{} known, {} {ran}, {} not needed",
        totals.hits, totals.misses, totals.not_needed
    ));
    if totals.pulled_bytes > 0 {
        out.push_str(&format!(", pulled {}", human_size(totals.pulled_bytes)));
    }
    out.push('\n');
    if let Some(error) = &report.error {
        out.push_str(&format!("it failed: {}\n", one_line(error)));
    }
    out
}

fn outcome(step: &StepReport) -> String {
    let seconds = step.seconds;
    match step.outcome {
        Outcome::Hit => hit(step),
        Outcome::Ran => format!("miss, {seconds:.1}s"),
        Outcome::Failed => format!("failed, {seconds:.1}s"),
        Outcome::NotNeeded => "not needed, what is made of it is known".to_owned(),
        Outcome::NotReached => "not reached".to_owned(),
        Outcome::Here => "known, nothing pulled".to_owned(),
        Outcome::Pulled if step.pulled_bytes > 0 => {
            format!("pulled {}, {seconds:.1}s", human_size(step.pulled_bytes))
        }
        Outcome::Pulled => format!("fetched, {seconds:.1}s"),
        Outcome::WouldRun => "would run".to_owned(),
        Outcome::MightRun => "might run".to_owned(),
        Outcome::WouldPull => "would be pulled".to_owned(),
    }
}

fn hit(step: &StepReport) -> String {
    let of_cache = || format!("hit in the cache {}", step.cache.as_deref().unwrap_or_default());
    let how = match step.origin {
        Some(Origin::Cache) => &of_cache(),
        Some(Origin::Content) => "hit, the same files were there before",
        Some(Origin::OtherProcess) => "hit, another process has just done it",
        Some(Origin::Chain) | None => "hit",
    };
    step.made_s.map_or_else(|| how.to_owned(), |made_s| format!("{how}, made {}", age(made_s)))
}

/// How long ago it was.
fn age(time_s: i64) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let ago = (now_s - time_s).max(0);
    match ago {
        0..60 => format!("{ago} s ago"),
        60..3600 => format!("{} min ago", ago / 60),
        3600..86_400 => format!("{} h ago", ago / 3600),
        _ => format!("{} d ago", ago / 86_400),
    }
}

/// Why a step was not known, a line for each reason.
fn reasons(step: &StepReport, is_new: &dyn Fn(&str) -> bool) -> Vec<String> {
    let instruction = instruction(&step.name);
    let mut lines = Vec::new();
    let files: Vec<String> = step.reasons.iter().filter_map(file).collect();
    let count = |reason: &Reason| if let Reason::MoreFiles { count } = reason { *count } else { 0 };
    let more: usize = step.reasons.iter().map(count).sum();
    for reason in &step.reasons {
        match reason {
            Reason::File { .. } if lines.iter().any(|(is_files, _)| *is_files) => {}
            Reason::File { .. } => {
                lines.push((true, format!("{}: {}", sources(&step.name), some(&files, more))))
            }
            Reason::MoreFiles { .. } => {}
            Reason::After { step, outcome } => lines.push((false, after(step, *outcome, is_new(step)))),
            other => lines.push((false, words(other, &instruction))),
        }
    }
    lines.into_iter().map(|(_, line)| one_line(&line)).collect()
}

/// A few of many.
fn some(all: &[String], more: usize) -> String {
    let mut text = all.iter().take(FILES_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = all.len().saturating_sub(FILES_MAX) + more;
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn file(reason: &Reason) -> Option<String> {
    let Reason::File { change, path, old, new } = reason else { return None };
    let values = match (old, new) {
        (Some(old), Some(new)) => format!("{old} → {new}"),
        _ => String::new(),
    };
    Some(match change {
        FileChange::Added => format!("{path} added"),
        FileChange::Removed => format!("{path} removed"),
        FileChange::Changed => format!("{path} changed"),
        FileChange::Mode => format!("{path} mode {values}"),
        FileChange::Owner => format!("{path} owner {values}"),
        FileChange::Type => format!("{path} type {values}"),
    })
}

fn words(reason: &Reason, instruction: &str) -> String {
    match reason {
        Reason::First => "never built here before".to_owned(),
        Reason::NoCache => "--no-cache".to_owned(),
        Reason::TooOld => "older than its max-age".to_owned(),
        Reason::Pruned => "the record is there, but its layers were removed (pruned)".to_owned(),
        Reason::Forgotten => "it was built before, but its record was removed (pruned)".to_owned(),
        // These are told of together with others.
        Reason::After { .. } | Reason::File { .. } | Reason::MoreFiles { .. } => String::new(),
        Reason::Files => format!("{instruction}: files changed; which is not known any more"),
        Reason::Command { old, new } => {
            let (old, new) = differing(old, new);
            format!("{instruction}: command changed: `{old}` → `{new}`")
        }
        Reason::Arg { name, old, new, hidden } => {
            format!("{instruction}: ARG {name} {}", values(old.as_ref(), new.as_ref(), *hidden))
        }
        Reason::Env { name, old, new, hidden } => {
            format!("{instruction}: ENV {name} {}", values(old.as_ref(), new.as_ref(), *hidden))
        }
        Reason::BaseImage { old, new, moved: true, .. } => {
            format!("base image: tag moved ({} → {})", short(old), short(new))
        }
        Reason::BaseImage { old, new, moved: false, .. } => {
            format!("base image: {} → {}", without_digest(old), without_digest(new))
        }
        Reason::Setting { name, old, new } => {
            let shown = |value: &str| match (name.as_str(), value) {
                ("network", "Unset") => "default".to_owned(),
                ("network" | "security", value) => value.to_lowercase(),
                ("user", "") => "root".to_owned(),
                (_, "") => "nothing".to_owned(),
                (_, value) => value.to_owned(),
            };
            let (old, new) = differing(&shown(old), &shown(new));
            format!("{instruction}: {name} {old} → {new}")
        }
    }
}

fn after(step: &str, outcome: Outcome, is_new: bool) -> String {
    match outcome {
        Outcome::WouldRun | Outcome::MightRun => {
            format!("after step {step}, unless that makes what it made before")
        }
        Outcome::Ran | Outcome::Failed if is_new => format!("after step {step}, which is new"),
        Outcome::Ran | Outcome::Failed => format!("after step {step}, which ran again"),
        _ => format!("after step {step}, which is not what it was"),
    }
}

fn values(old: Option<&String>, new: Option<&String>, hidden: bool) -> String {
    if hidden {
        return "changed (its values are not kept)".to_owned();
    }
    match (old, new) {
        (Some(old), Some(new)) => {
            let (old, new) = differing(old, new);
            format!("{old} → {new}")
        }
        (None, Some(new)) => format!("is new: {new}"),
        (Some(old), None) => format!("is gone; it was {old}"),
        (None, None) => "changed".to_owned(),
    }
}

/// Two texts; of long ones the parts that differ, with a little around them.
fn differing(old: &str, new: &str) -> (String, String) {
    let (a, b): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
    let before = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let most = a.len().min(b.len()) - before;
    let after = a.iter().rev().zip(b.iter().rev()).take(most).take_while(|(x, y)| x == y).count();
    let part = |text: &[char]| {
        if text.len() <= COMMAND_CHARS_MAX {
            return text.iter().collect();
        }
        let start = before.saturating_sub(AROUND_CHARS);
        let end = (text.len() - after + AROUND_CHARS).min(text.len());
        let (end, is_cut) = match start + COMMAND_CHARS_MAX {
            most if most < end => (most, true),
            _ => (end, end < text.len()),
        };
        let shown: String = text[start..end].iter().collect();
        format!("{}{shown}{}", if start > 0 { "…" } else { "" }, if is_cut { "…" } else { "" })
    };
    (part(&a), part(&b))
}

/// `sha256:` and the first digits of a digest.
fn short(digest: &str) -> String {
    let end = digest.find(':').map_or(12, |at| at + 13).min(digest.len());
    digest.get(..end).unwrap_or(digest).to_owned()
}

fn without_digest(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// A step's name without its number.
fn without_number(name: &str) -> &str {
    match name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, text)) => text,
        None => name,
    }
}

/// The word that an instruction begins with.
fn instruction(name: &str) -> String {
    without_number(name).split(' ').next().unwrap_or_default().to_owned()
}

/// `COPY src/` of `[2/3] COPY src/ /src/`: the instruction without what is not read.
fn sources(name: &str) -> String {
    let text = without_number(name);
    match text.rsplit_once(' ') {
        Some((sources, _)) if text.starts_with("COPY ") || text.starts_with("ADD ") => sources.to_owned(),
        _ => instruction(name),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_texts_the_differing_part_is_shown() {
        assert_eq!(differing("make", "make -j"), ("make".to_owned(), "make -j".to_owned()));
        let long = |middle: &str| format!("{}{middle}{}", "a".repeat(100), "z".repeat(100));
        let (old, new) = differing(&long("one"), &long("two"));
        assert_eq!(old, format!("…{}one{}…", "a".repeat(12), "z".repeat(12)));
        assert_eq!(new, format!("…{}two{}…", "a".repeat(12), "z".repeat(12)));
        let (old, _) = differing(&"x".repeat(500), "y");
        assert_eq!(old.chars().count(), COMMAND_CHARS_MAX + 1);
    }

    #[test]
    fn many_files_are_counted() {
        let reason = |n: usize| Reason::File {
            change: FileChange::Changed,
            path: format!("src/{n}"),
            old: None,
            new: None,
        };
        let step = StepReport {
            name: "[2/3] COPY src/ /src/".to_owned(),
            reasons: (0..15).map(reason).collect(),
            ..StepReport::default()
        };
        assert_eq!(
            reasons(&step, &|_| false),
            ["COPY src/: src/0 changed, src/1 changed, src/2 changed and 12 more"]
        );
    }
}
