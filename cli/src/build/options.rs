//! The flags of `kiln build` as options for the frontend. It does not know what a Dockerfile makes of them.

use super::platforms::Platforms;
use crate::args::BuildArgs;
use crate::contexts::{self, Inputs};
use crate::error::CommandError;
use kiln_frontend::{BuildOptions, NamedContext, Ulimit};
use kiln_oci::Platform;
use std::collections::BTreeMap;

/// The options for the first platform.
pub(crate) fn options(
    args: &BuildArgs,
    inputs: &Inputs,
    named: BTreeMap<String, NamedContext>,
) -> Result<BuildOptions, CommandError> {
    let platforms = Platforms::of(args)?;
    let mut options = BuildOptions::new(platforms.all[0].clone());
    options.build_platform = Platform::host();
    options.explicit_platform = platforms.are_asked_for;
    options.multi_platform = platforms.is_index;
    options.target.clone_from(&args.target);
    options.build_args = build_args(args);
    options.labels = args.label.iter().map(|l| pair(l)).collect();
    options.main_context = NamedContext::Local {
        name: "context".to_owned(),
        excludes: contexts::patterns(&inputs.ignore.patterns),
    };
    options.contexts = named;
    options.no_cache = args.no_cache;
    options.no_cache_filter.clone_from(&args.no_cache_filter);
    options.network = match args.network.as_str() {
        "default" | "" => kiln_frontend::NetworkMode::Unset,
        "none" => kiln_frontend::NetworkMode::None,
        "host" => kiln_frontend::NetworkMode::Host,
        other => {
            return Err(CommandError::usage(
                "--network",
                format!("unknown network `{other}`: default, host or none"),
            ));
        }
    };
    options.extra_hosts = args.add_host.iter().map(|h| add_host(h)).collect::<Result<_, _>>()?;
    options.shm_size_bytes = args.shm_size.as_deref().map_or(Ok(0), size_bytes)?;
    options.ulimits = args.ulimit.iter().map(|u| ulimit(u)).collect::<Result<_, _>>()?;
    options.ignore.clone_from(&inputs.ignore.patterns);
    for allowed in &args.allow {
        match allowed.as_str() {
            "network.host" => options.allow_host_network = true,
            "security.insecure" => options.allow_insecure = true,
            // It is looked at where the outputs are.
            crate::outputs::LOCAL_DELETE => {}
            other if device_entitlement(other).is_some() => {}
            other => return Err(CommandError::usage("--allow", format!("unknown entitlement `{other}`"))),
        }
    }
    // Whoever names the host's network for all steps has allowed it.
    options.allow_host_network |= args.network == "host";
    options.dockerfile_name.clone_from(&inputs.name);
    Ok(options)
}

pub(super) fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// Build arguments; one without a value has that of the environment. The time of the source is taken
/// from there without being asked for.
pub(crate) fn build_args(args: &BuildArgs) -> Vec<(String, Option<String>)> {
    let mut all: Vec<(String, Option<String>)> = args
        .build_arg
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.clone(), std::env::var(text).ok()),
        })
        .collect();
    if !all.iter().any(|(name, _)| name == "SOURCE_DATE_EPOCH")
        && let Ok(value) = std::env::var("SOURCE_DATE_EPOCH")
        && !value.is_empty()
    {
        all.push(("SOURCE_DATE_EPOCH".to_owned(), Some(value)));
    }
    all
}

fn add_host(text: &str) -> Result<(String, String), CommandError> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    match split.filter(|(name, address)| !name.is_empty() && !address.is_empty()) {
        Some((name, address)) => Ok((name.to_owned(), address.to_owned())),
        None => Err(CommandError::usage(format!("--add-host {text}"), "write NAME:ADDRESS")),
    }
}

/// A size as Docker writes it: bytes, or with k, m, g for the powers of 1024.
fn size_bytes(text: &str) -> Result<i64, CommandError> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches('b');
    let (number, shift) = match digits.chars().last() {
        Some('k') => (&digits[..digits.len() - 1], 10),
        Some('m') => (&digits[..digits.len() - 1], 20),
        Some('g') => (&digits[..digits.len() - 1], 30),
        _ => (digits, 0),
    };
    let parsed = number.parse::<i64>().ok().filter(|n| *n >= 0).and_then(|n| n.checked_mul(1 << shift));
    parsed.ok_or_else(|| CommandError::usage("--shm-size", format!("`{text}` is not a size, as 64m")))
}

fn ulimit(text: &str) -> Result<Ulimit, CommandError> {
    let usage = || CommandError::usage(format!("--ulimit {text}"), "write NAME=SOFT[:HARD]");
    let (name, limits) = text.split_once('=').ok_or_else(usage)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    match (soft.parse(), hard.parse()) {
        (Ok(soft), Ok(hard)) => Ok(Ulimit { name: name.to_owned(), soft, hard }),
        _ => Err(usage()),
    }
}

/// What stands behind `device=` in an entitlement; nothing where all devices are meant.
pub(super) fn device_entitlement(allowed: &str) -> Option<&str> {
    match allowed.strip_prefix("device") {
        Some("") => Some(""),
        rest => rest?.strip_prefix('='),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_writes_them() {
        for (text, want) in
            [("3m", Some(3 << 20)), ("64", Some(64)), ("1GB", Some(1 << 30)), ("x", None), ("-1", None)]
        {
            assert_eq!(size_bytes(text).ok(), want, "{text}");
        }
    }
}
