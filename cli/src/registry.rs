//! `kiln registry check`: how an image would be pulled, in words or as JSON. It does not know how that is found out.

use crate::error::CommandError;
use crate::images::print;
use clap::{Parser, Subcommand};
use kiln_oci::Reference;
use kiln_worker::{Examination, Examined, PlaceRole, Registries, RegistryOptions};
use std::fmt::Write as _;

#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Show where an image is pulled from, which file says so, and what each place answers
    Check(CheckArgs),
}

#[derive(Debug, Parser)]
pub(crate) struct CheckArgs {
    /// The image
    pub name: String,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub format: String,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
}

pub(crate) fn run(
    what: RegistryCommand,
    options: impl Fn(&[String]) -> RegistryOptions,
) -> Result<(), CommandError> {
    let RegistryCommand::Check(args) = what;
    let registries = Registries::new(options(&args.insecure_registry))?;
    let alias = registries.aliased(&args.name)?;
    let full = alias.as_ref().map_or(args.name.as_str(), |(full, _)| full);
    let reference: Reference = crate::outputs::reference("NAME", full)?;
    let found = registries.examine(&reference)?;
    if args.format == "json" {
        let mut json = serde_json::to_value(&found).unwrap_or_default();
        json["alias_told_by"] = serde_json::json!(alias.as_ref().map(|(_, at)| at));
        json["can_be_pulled"] = found.can_be_pulled().into();
        print(format!("{}\n", serde_json::to_string_pretty(&json).unwrap_or_default()))?;
    } else {
        let alias = alias.as_ref().map(|(_, at)| format!("{} is an alias: {at}\n", args.name));
        print(format!("{}{}", alias.unwrap_or_default(), words(&found)))?;
    }
    if found.can_be_pulled() {
        return Ok(());
    }
    let text = match &found.blocked_by {
        Some(at) => format!("{reference} is not to be asked for: {at} blocks its registry"),
        None => format!("{reference} can't be pulled from any of the places above"),
    };
    Err(CommandError::Image { text, registry: true })
}

fn words(found: &Examination) -> String {
    let mut text = format!("{}\n", found.reference);
    for note in &found.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for place in &found.places {
        text.push_str(&words_of_place(place));
    }
    text
}

fn words_of_place(place: &Examined) -> String {
    let role = match place.role {
        PlaceRole::Mirror => "mirror",
        PlaceRole::Registry => "registry",
    };
    let mut text = format!("{role} {}\n", place.location);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<14}{value}");
    };
    if let Some(at) = &place.told_by {
        line("told by", at.to_string());
    }
    let insecure = if place.insecure { " (any certificate, or plain HTTP)" } else { "" };
    line("address", format!("{}{insecure}", place.address));
    for file in &place.authorities {
        line("authority", file.display().to_string());
    }
    if let Some(file) = &place.client_certificate {
        line("appears as", file.display().to_string());
    }
    if let Some(proxy) = &place.proxy {
        line("proxy", format!("{} ({})", proxy.address, proxy.variable));
    }
    let user = place.credentials.user.as_ref().map_or_else(String::new, |user| format!(" of {user}"));
    line("credentials", format!("{}{user}: {}", place.credentials.kind, place.credentials.source));
    let outcome = match (&place.digest, &place.error) {
        (Some(digest), _) => format!("has it: {digest}"),
        (None, error) => error.clone().unwrap_or_default(),
    };
    line("answer", format!("{outcome} ({} ms)", place.milliseconds));
    text
}
