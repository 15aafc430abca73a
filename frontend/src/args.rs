//! Build arguments: those of the platform, those before the first FROM, proxies, and the ones that a
//! stage has declared. It does not know where they are used.

use crate::env::Env;
use crate::error::{LowerError, Place};
use crate::options::BuildOptions;
use crate::progress::full_platform;
use kiln_grammar::expand::expand_word;
use kiln_grammar::{Dockerfile, InstructionKind};
use std::collections::HashMap;
use std::rc::Rc;

/// Arguments that steer the build and are no variables.
pub(crate) const NOT_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// The arguments that a stage has declared, each with its value where it has one, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    inner: Rc<DeclaredInner>,
}

#[derive(Clone, Debug, Default)]
struct DeclaredInner {
    names: Vec<(Rc<str>, Option<Rc<str>>)>,
    index: HashMap<Rc<str>, usize>,
}

impl Declared {
    /// Notes an argument; one that was declared before keeps its place.
    pub(crate) fn add(&mut self, name: &str, value: Option<&str>) {
        let inner = Rc::make_mut(&mut self.inner);
        let value = value.map(Rc::from);
        if let Some(i) = inner.index.get(name) {
            inner.names[*i].1 = value;
            return;
        }
        let name: Rc<str> = name.into();
        inner.index.insert(name.clone(), inner.names.len());
        inner.names.push((name, value));
    }

    /// Whether an argument was declared.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.inner.index.contains_key(name)
    }

    /// What the history shows before a command: how many there are, and each with its value now.
    pub(crate) fn shown(&self, env: &Env) -> String {
        if self.inner.names.is_empty() {
            return String::new();
        }
        let mut out = format!("|{} ", self.inner.names.len());
        for (name, value) in &self.inner.names {
            out.push_str(name);
            out.push('=');
            out.push_str(env.get(name).or(value.as_deref()).unwrap_or_default());
            out.push(' ');
        }
        out
    }
}

/// The arguments of the platforms and the target, which FROM may use and stages may declare.
pub(crate) fn of_platform(options: &BuildOptions, target: &str) -> Env {
    let mut env = Env::default();
    for (prefix, platform) in [("BUILD", &options.build_platform), ("TARGET", &options.target_platform)] {
        let values = [
            ("PLATFORM", full_platform(platform)),
            ("OS", platform.os.clone()),
            ("OSVERSION", platform.os_version.clone().unwrap_or_default()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
        ];
        for (name, value) in values {
            let name = format!("{prefix}{name}");
            env.set(&name, options.build_arg(&name).unwrap_or(&value));
        }
    }
    let stage =
        options.build_arg("TARGETSTAGE").unwrap_or(if target.is_empty() { "default" } else { target });
    env.set("TARGETSTAGE", stage);
    env
}

/// The arguments before the first FROM: those of the platform and those declared there. Without
/// `given`, as if no build argument were given.
pub(crate) fn global(
    dockerfile: &Dockerfile,
    platform: &Env,
    given: Option<&BuildOptions>,
) -> Result<Env, LowerError> {
    let mut env = platform.clone();
    for instruction in &dockerfile.global_args {
        let InstructionKind::Arg(args) = &instruction.kind else { continue };
        for (name, default) in args {
            if let Some(value) = given.and_then(|options| options.build_arg(&name.raw)) {
                env.set(&name.raw, value);
            } else if let Some(default) = default {
                let look_up = |name: &str| env.get(name).map(str::to_owned);
                let value = expand_word(&default.raw, dockerfile.directives.escape, &look_up)
                    .map_err(|why| Place::of(instruction).at(default).hinted(why.to_string(), why.hint()))?;
                env.set(&name.raw, &value.value);
            }
        }
    }
    Ok(env)
}

/// The proxy settings among the build arguments, each in lower and in upper case.
pub(crate) fn proxies(options: &BuildOptions) -> Vec<(String, String)> {
    let mut given: Vec<(&str, &str)> = options
        .build_args
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
        .collect();
    given.sort_by_key(|(name, _)| *name);
    let mut out = Vec::new();
    for proxy in PROXIES {
        let value =
            given.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(proxy)).map(|(_, value)| *value);
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.push((proxy.to_ascii_uppercase(), value.to_owned()));
            out.push((proxy.to_owned(), value.to_owned()));
        }
    }
    out
}
