//! Which platforms a build is for, and whether its result is an index. It does not know what differs
//! between them.

use super::options::build_args;
use crate::args::BuildArgs;
use crate::error::CommandError;
use kiln_oci::{Platform, PlatformError};

/// The build argument that makes an index of one platform too.
const INDEX_ARGUMENT: &str = "BUILDKIT_MULTI_PLATFORM";

/// The platforms of a build, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Platforms {
    /// Each once, in the order in which they were named.
    pub all: Vec<Platform>,
    /// Whether anybody has named them.
    pub are_asked_for: bool,
    /// Whether the result is an index.
    pub is_index: bool,
}

impl Platforms {
    /// Those of `--platform`, else of the environment, else this machine's.
    pub(crate) fn of(args: &BuildArgs) -> Result<Platforms, CommandError> {
        let (argument, texts) = match args.platform.as_slice() {
            [] => {
                let set = std::env::var("DOCKER_DEFAULT_PLATFORM").ok().filter(|v| !v.is_empty());
                ("DOCKER_DEFAULT_PLATFORM", set.into_iter().collect())
            }
            given => ("--platform", given.to_vec()),
        };
        let given = build_args(args).into_iter().rfind(|(name, _)| name == INDEX_ARGUMENT);
        let value = given.and_then(|(_, value)| value).unwrap_or_default();
        Platforms::read(argument, &texts, &value)
    }

    /// Reads texts, each with perhaps several platforms, and the value of the build argument.
    fn read(argument: &str, texts: &[String], index: &str) -> Result<Platforms, CommandError> {
        let mut all: Vec<Platform> = Vec::new();
        for text in texts.iter().flat_map(|text| text.split(',')) {
            let platform = text.trim().parse();
            let platform =
                platform.map_err(|e: PlatformError| CommandError::usage(argument, e.to_string()))?;
            if !all.contains(&platform) {
                all.push(platform);
            }
        }
        let are_asked_for = !all.is_empty();
        if !are_asked_for {
            all.push(Platform::host());
        }
        let is_index = match (index, kiln_frontend::boolean(index)) {
            ("", _) => all.len() > 1,
            (_, Some(false)) if all.len() > 1 => {
                let problem = format!("{} platforms can't be one image: leave it out", all.len());
                return Err(CommandError::usage(format!("--build-arg {INDEX_ARGUMENT}={index}"), problem));
            }
            (_, Some(is_index)) => is_index,
            (_, None) => {
                let argument = format!("--build-arg {INDEX_ARGUMENT}={index}");
                return Err(CommandError::usage(argument, "write true or false"));
            }
        };
        Ok(Platforms { all, are_asked_for, is_index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str], index: &str) -> Result<(String, bool), String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let read = Platforms::read("--platform", &texts, index).map_err(|e| e.to_string())?;
        let names: Vec<String> = read.all.iter().map(Platform::to_string).collect();
        Ok((names.join(" "), read.is_index))
    }

    #[test]
    fn platforms_come_in_lists_and_each_counts_once() {
        for (texts, index, expect) in [
            (&["linux/arm64"][..], "", ("linux/arm64", false)),
            (&["linux/arm64,linux/amd64"], "", ("linux/arm64 linux/amd64", true)),
            (&["linux/arm64", "amd64, linux/s390x"], "", ("linux/arm64 linux/amd64 linux/s390x", true)),
            (&["linux/arm64/v8,linux/aarch64,arm64"], "", ("linux/arm64", false)),
            (&["linux/arm64"], "1", ("linux/arm64", true)),
            (&["linux/arm64"], "False", ("linux/arm64", false)),
            (&["arm64,amd64"], "true", ("linux/arm64 linux/amd64", true)),
        ] {
            let expect = Ok((expect.0.to_owned(), expect.1));
            assert_eq!(read(texts, index), expect, "{texts:?} {index}");
        }
    }

    #[test]
    fn the_local_platform_is_this_machines() {
        let host = Platform::host().to_string();
        assert_eq!(read(&[], ""), Ok((host.clone(), false)));
        assert_eq!(read(&["local"], ""), Ok((host, false)));
    }

    #[test]
    fn what_is_wrong_with_platforms_is_told_with_the_flag_and_the_value() {
        for (texts, index, flag, value) in [
            (&["linux/arm64,nonsense"][..], "", "--platform", "`nonsense`"),
            (&["linux/arm64,"], "", "--platform", "``"),
            (&["arm64,amd64"], "0", "BUILDKIT_MULTI_PLATFORM=0", "2 platforms"),
            (&["arm64"], "yes", "BUILDKIT_MULTI_PLATFORM=yes", "true or false"),
        ] {
            let told = read(texts, index).expect_err("it is wrong");
            assert!(told.contains(flag) && told.contains(value), "{texts:?} {index}: {told}");
        }
    }
}
