//! The names of steps as people see them: `[build 2/5] RUN make`. It does not know how they are shown.

use crate::env::Env;
use kiln_grammar::expand::Lexer;
use kiln_oci::Platform;

/// How far a stage's steps are counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    /// The stage's name; empty where there is only one.
    pub stage: String,
    /// The steps counted so far.
    pub done: usize,
    /// How many there are.
    pub total: usize,
    /// Whether names say the platform.
    pub with_platform: bool,
    /// Whether the step at hand is a trigger of the base.
    pub is_trigger: bool,
}

impl Steps {
    /// The name of the next step.
    pub(crate) fn next(&mut self, text: &str, platform: &Platform, env: &Env) -> String {
        self.done += 1;
        self.name(text, platform, env)
    }

    /// A name with the number of the step at hand.
    pub(crate) fn name(&self, text: &str, platform: &Platform, env: &Env) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        let mut out = "[".to_owned();
        if self.with_platform {
            out.push_str(&full_platform(platform));
            out.push_str(&cross(platform, env));
            out.push(' ');
        }
        if !self.stage.is_empty() {
            out.push_str(&self.stage);
            out.push(' ');
        }
        let width = self.total.ilog10() as usize + 1;
        out.push_str(&format!("{:width$}/{}] ", self.done, self.total));
        if self.is_trigger {
            out.push_str("ONBUILD ");
        }
        out + text
    }
}

/// An instruction's text for people: its name in upper case, variables in it replaced.
pub(crate) fn shown(text: &str, lexer: &Lexer, env: &dyn Fn(&str) -> Option<String>) -> String {
    let text = if text.contains(['$', '"', '\'', lexer.escape]) {
        lexer.expand(text, env).map_or_else(|_| text.to_owned(), |expanded| expanded.value)
    } else {
        text.to_owned()
    };
    match text.split_once(' ') {
        Some((name, rest)) => format!("{} {rest}", name.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// A platform with the version of its operating system, where it has one.
pub(crate) fn full_platform(platform: &Platform) -> String {
    match &platform.os_version {
        Some(version) if !version.is_empty() => {
            let plain = platform.to_string();
            format!("{}({version}){}", platform.os, &plain[platform.os.len()..])
        }
        _ => platform.to_string(),
    }
}

/// What a stage builds for, where that is another platform than its own and it has declared which.
fn cross(own: &Platform, env: &Env) -> String {
    let Some(target) = declared_target(own, env) else { return String::new() };
    if target.os != own.os {
        return format!("->{}", full_platform(&target));
    }
    if target.architecture == own.architecture {
        return String::new();
    }
    let variant = target.variant.map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("->{}{variant}", target.architecture)
}

/// The platform that a stage has declared as its target, whole or in parts.
fn declared_target(own: &Platform, env: &Env) -> Option<Platform> {
    if let Some(target) = env.get("TARGETPLATFORM").and_then(|text| text.parse().ok()) {
        return Some(target);
    }
    let part = |name| env.get(name).filter(|value| !value.is_empty());
    let (os, architecture, variant) = (part("TARGETOS"), part("TARGETARCH"), part("TARGETVARIANT"));
    os.or(architecture).or(variant)?;
    Some(Platform::new(os.unwrap_or(&own.os), architecture.unwrap_or(&own.architecture), variant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_in_columns() {
        let mut steps = Steps { stage: "build".to_owned(), total: 12, ..Steps::default() };
        let platform = Platform::new("linux", "amd64", None);
        let mut env = Env::default();
        assert_eq!(steps.next("RUN x", &platform, &env), "[build  1/12] RUN x");
        env.set("TARGETPLATFORM", "linux/arm64");
        let mut steps = Steps { with_platform: true, ..steps };
        assert_eq!(steps.next("RUN x", &platform, &env), "[linux/amd64->arm64 build  2/12] RUN x");
    }

    #[test]
    fn what_is_built_for_is_said_however_it_was_declared() {
        let own = Platform::new("linux", "amd64", None);
        for (declared, expect) in [
            (&[("TARGETARCH", "riscv64")][..], "->riscv64"),
            (&[("TARGETARCH", "arm"), ("TARGETVARIANT", "v6")], "->arm/v6"),
            (&[("TARGETARCH", "amd64"), ("TARGETVARIANT", "")], ""),
            (&[("TARGETOS", "freebsd")], "->freebsd/amd64"),
            (&[("TARGETPLATFORM", "linux/arm64"), ("TARGETARCH", "s390x")], "->arm64"),
            (&[("TARGETVARIANT", "")], ""),
        ] {
            let mut env = Env::default();
            declared.iter().for_each(|(name, value)| env.set(name, value));
            assert_eq!(cross(&own, &env), expect, "{declared:?}");
        }
    }
}
