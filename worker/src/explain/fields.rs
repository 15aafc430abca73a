//! The fields of a step's key, as they are kept, and what differs between those of two steps.
//!
//! What could be a credential is not kept: the value of a variable with such a name, and the password in an address.
//! In its place stand 16 bits of its digest, which are enough to see that it changed, and not to find it out.
//! It does not know what a step's inputs are.

use crate::report::Reason;
use kiln_oci::Digest;
use kiln_solver::StepInputs;
use std::collections::{BTreeMap, BTreeSet};

/// A longer value is cut, and the digest of the whole stands at its end.
const VALUE_BYTES_MAX: usize = 2048;
/// What a hidden value begins with.
const HIDDEN: &str = "hidden#";
/// Parts of names that credentials have.
const CREDENTIALS: [&str; 9] =
    ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "APIKEY", "AUTH", "PRIVATE"];

/// The fields of a step but its inputs, as they are kept.
pub(super) fn kept(inputs: &StepInputs<'_>) -> Vec<(String, String)> {
    let all = inputs.fields().into_iter();
    let own = all.take_while(|(name, _)| name != "inputs");
    own.map(|(name, value)| {
        let value = if name == "env" { masked_variable(&value) } else { without_passwords(&value) };
        (name, shortened(value))
    })
    .collect()
}

/// Whether a variable's value may be a credential.
pub(super) fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    CREDENTIALS.iter().any(|part| name.contains(part))
        || name.split('_').any(|part| part == "KEY" || part == "PASS")
}

fn masked_variable(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, value)) if is_credential(name) && !value.is_empty() => {
            format!("{name}={}", hidden(value))
        }
        _ => without_passwords(pair),
    }
}

fn hidden(value: &str) -> String {
    format!("{HIDDEN}{}", &Digest::of(value.as_bytes()).hex()[..4])
}

/// A text in which the passwords of addresses (`scheme://user:password@host`) are hidden.
pub(super) fn without_passwords(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        rest = after;
        let end = after
            .find(|c: char| c == '/' || c.is_whitespace() || c == '"' || c == '\'')
            .unwrap_or(after.len());
        if let Some(at) = after[..end].rfind('@')
            && let Some((user, password)) = after[..at].split_once(':')
        {
            out.push_str(&format!("{user}:{}", hidden(password)));
            rest = &after[at..];
        }
    }
    out + rest
}

fn shortened(value: String) -> String {
    if value.len() <= VALUE_BYTES_MAX {
        return value;
    }
    let end = (0..=VALUE_BYTES_MAX).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
    format!("{}… ({})", &value[..end], &Digest::of(value.as_bytes()).hex()[..12])
}

/// What differs between the fields of two steps. `args` are the names of build arguments.
pub(super) fn differences(
    old: &[(String, String)],
    new: &[(String, String)],
    args: &BTreeSet<String>,
) -> Vec<Reason> {
    let (old, new) = (Parts::of(old), Parts::of(new));
    let mut out = Vec::new();
    if old.command != new.command {
        out.push(Reason::Command { old: old.command(), new: new.command() });
    }
    variables(&old.variables, &new.variables, args, &mut out);
    let names: BTreeSet<&String> = old.settings.keys().chain(new.settings.keys()).collect();
    for name in names {
        let (before, now) = (old.settings.get(name), new.settings.get(name));
        if before != now {
            let text = |value: Option<&String>| value.cloned().unwrap_or_default();
            out.push(Reason::Setting { name: name.clone(), old: text(before), new: text(now) });
        }
    }
    if out.is_empty() && old.order != new.order {
        let list = |order: &[String]| order.join(" ");
        out.push(Reason::Setting {
            name: "order of variables".to_owned(),
            old: list(&old.order),
            new: list(&new.order),
        });
    }
    out
}

fn variables(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    args: &BTreeSet<String>,
    out: &mut Vec<Reason>,
) {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
        let values = [old.get(name).cloned(), new.get(name).cloned()];
        let hidden = values.iter().flatten().any(|value| value.starts_with(HIDDEN));
        let shown = values.map(|value| value.filter(|value| !value.starts_with(HIDDEN)));
        let ([old, new], name) = (shown, name.clone());
        out.push(match args.contains(&name) {
            true => Reason::Arg { name, old, new, hidden },
            false => Reason::Env { name, old, new, hidden },
        });
    }
}

/// A step's fields by what they mean to people.
#[derive(Debug, Default)]
struct Parts {
    command: Vec<String>,
    variables: BTreeMap<String, String>,
    /// The names of the variables, in order.
    order: Vec<String>,
    settings: BTreeMap<String, String>,
}

impl Parts {
    fn of(fields: &[(String, String)]) -> Parts {
        let mut parts = Parts::default();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut mounts: Vec<Vec<(&str, &str)>> = Vec::new();
        let mut action = 0;
        for (name, value) in fields {
            let count = seen.entry(name.as_str()).or_default();
            *count += 1;
            match name.as_str() {
                // A list begins with its length.
                "args" | "env" if *count == 1 => {}
                "args" => parts.command.push(value.clone()),
                "env" => parts.variable(value),
                "mount.input" => mounts.push(Vec::new()),
                "action.input" => action += 1,
                // Numbers of inputs, lengths of lists.
                "mount.output" | "action.output" | "action.secondary" | "mounts" | "extra_hosts"
                | "ulimits" | "exit_codes" | "secret_env" | "devices" => {}
                "include" | "exclude" | "required" if *count == 1 => {}
                other => match (other.strip_prefix("mount."), mounts.last_mut()) {
                    (Some(field), Some(mount)) => mount.push((field, value)),
                    _ => parts.setting(other, value, action),
                },
            }
        }
        for mount in mounts {
            parts.mount(&mount);
        }
        parts
    }

    fn variable(&mut self, pair: &str) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        self.order.push(name.to_owned());
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// The command as people write it.
    fn command(&self) -> String {
        match self.command.as_slice() {
            [_, flag, command] if flag == "-c" => command.clone(),
            words => words.join(" "),
        }
    }

    /// Notes a setting; one that is there several times has all values.
    fn setting(&mut self, field: &str, value: &str, action: usize) {
        let name = match field {
            "cwd" => "workdir",
            "hostname" => "host name",
            "extra_host" => "extra host",
            "exit_code" => "exit code",
            "secret_env.id" => "secret",
            "secret_env.name" => "variable of a secret",
            "secret_env.optional" => "whether a secret is required",
            "device.name" => "device",
            "dest" => "destination",
            "src" => "source",
            "owner.user" | "owner.group" => "owner",
            "data" => "text",
            "time" => "time of what is made",
            "include" | "required" => "pattern",
            "exclude" => "excluded pattern",
            "op" => "kind of step",
            "action" => "kind of action",
            other => other,
        };
        let value = match (name, value) {
            ("owner", "none") => "",
            ("owner", owner) => owner.strip_prefix("id ").or(owner.strip_prefix("name ")).unwrap_or(owner),
            (_, value) => value,
        };
        let name = if action > 1 { format!("{name} ({action})") } else { name.to_owned() };
        let all = self.settings.entry(name).or_default();
        if !all.is_empty() {
            all.push(if field.starts_with("owner") { ':' } else { ' ' });
        }
        all.push_str(value);
    }

    /// Notes a mount, by where it is. The root is one that each step has.
    fn mount(&mut self, fields: &[(&str, &str)]) {
        let place = fields.iter().find(|(name, _)| *name == "dest").map_or("", |(_, dest)| dest);
        let shown = fields.iter().filter_map(|(name, value)| match (*name, *value) {
            ("dest", _) | (_, "") | ("readonly", "0") => None,
            ("readonly", _) => Some("read-only".to_owned()),
            ("kind", kind) => Some(kind.to_owned()),
            (name, value) => Some(format!("{name}={value}")),
        });
        let text = shown.collect::<Vec<_>>().join(" ");
        self.settings.insert(format!("mount at {place}"), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_solver::{
        Chown, CopyAction, ExecMeta, ExecOp, FileAction, FileActionKind, FileInput, FileOp, Mount, MountKind,
        NetworkMode, Op, Principal, SecurityMode,
    };

    fn fields(op: &Op) -> Vec<(String, String)> {
        kept(&StepInputs { op, platform: None, inputs: &[] })
    }

    fn exec(change: impl FnOnce(&mut ExecOp)) -> Vec<(String, String)> {
        let root = Mount {
            input: None,
            selector: String::new(),
            dest: "/".into(),
            output: Some(0),
            readonly: false,
            kind: MountKind::Bind,
        };
        let mut exec = ExecOp {
            meta: ExecMeta {
                args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
                env: ["PATH=/bin", "V=1", "A_TOKEN=first"].into_iter().collect(),
                cwd: "/".into(),
                ..ExecMeta::default()
            },
            mounts: vec![root],
            network: NetworkMode::Unset,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            devices: Vec::new(),
        };
        change(&mut exec);
        fields(&Op::Exec(Box::new(exec)))
    }

    fn copy(change: impl FnOnce(&mut CopyAction)) -> Vec<(String, String)> {
        let mut copy = CopyAction { src: "a".into(), dest: "/x".into(), ..CopyAction::default() };
        change(&mut copy);
        fields(&Op::File(FileOp {
            actions: vec![FileAction {
                input: FileInput::Input(0),
                secondary_input: Some(FileInput::Input(1)),
                output: Some(0),
                kind: FileActionKind::Copy(Box::new(copy)),
            }],
        }))
    }

    #[test]
    fn each_field_of_a_run_is_told_apart() {
        let args: BTreeSet<String> = ["V".to_owned(), "A_TOKEN".to_owned()].into();
        let setting = |name: &str, old: &str, new: &str| {
            let (name, old, new) = (name.to_owned(), old.to_owned(), new.to_owned());
            vec![Reason::Setting { name, old, new }]
        };
        let text = |text: &str| Some(text.to_owned());
        let cache = MountKind::Cache { id: "c".into(), sharing: kiln_solver::CacheSharing::Locked };
        let plain = exec(|_| {});
        let check = |new: Vec<(String, String)>, expect: Vec<Reason>| {
            assert_eq!(differences(&plain, &new, &args), expect);
        };
        check(exec(|_| {}), vec![]);
        let command = Reason::Command { old: "make".into(), new: "make -j".into() };
        check(exec(|e| e.meta.args[2].push_str(" -j")), vec![command]);
        let arg = Reason::Arg { name: "V".into(), old: text("1"), new: text("2"), hidden: false };
        check(exec(|e| e.meta.env.set("V", "2")), vec![arg]);
        let env = Reason::Env { name: "W".into(), old: None, new: text("2"), hidden: false };
        check(exec(|e| e.meta.env.set("W", "2")), vec![env]);
        let token = Reason::Arg { name: "A_TOKEN".into(), old: None, new: None, hidden: true };
        check(exec(|e| e.meta.env.set("A_TOKEN", "second")), vec![token]);
        check(
            exec(|e| e.meta.env.set("PATH", "/bin")),
            setting("order of variables", "PATH V A_TOKEN", "V A_TOKEN PATH"),
        );
        check(exec(|e| e.meta.cwd = "/w".into()), setting("workdir", "/", "/w"));
        check(exec(|e| e.meta.user = "me".into()), setting("user", "", "me"));
        check(exec(|e| e.network = NetworkMode::None), setting("network", "Unset", "None"));
        let mount = |e: &mut ExecOp| {
            e.mounts.push(Mount { dest: "/c".into(), output: None, kind: cache, ..e.mounts[0].clone() })
        };
        check(exec(mount), setting("mount at /c", "", "cache"));
    }

    #[test]
    fn each_field_of_a_copy_is_told_apart() {
        let plain = copy(|_| {});
        let check = |new: Vec<(String, String)>, name: &str, old: &str, now: &str| {
            let (name, old, new_value) = (name.to_owned(), old.to_owned(), now.to_owned());
            let expect = Reason::Setting { name, old, new: new_value };
            assert_eq!(differences(&plain, &new, &BTreeSet::new()), [expect]);
        };
        check(copy(|c| c.dest = "/y".into()), "destination", "/x", "/y");
        check(copy(|c| c.mode = Some("755".into())), "mode", "as it is", "755");
        let owner = Chown { user: Some(Principal::Id(1)), group: Some(Principal::Name("g".into())) };
        check(copy(|c| c.owner = Some(owner)), "owner", "", "1:g");
        check(copy(|c| c.exclude_patterns = vec!["*.o".into()]), "excluded pattern", "", "*.o");
    }

    #[test]
    fn credentials_are_not_kept() {
        let all = format!(
            "{:?}",
            exec(|e| {
                e.meta.env.set("DB_PASS", "swordfish");
                e.meta.env.set("github_token", "swordfish");
                e.meta.env.set("URL", "https://me:swordfish@host/a@b");
                e.meta.args[2] = "curl 'https://me:swordfish@host' http://plain/x:y@z".into();
            })
        );
        assert!(!all.contains("swordfish"), "{all}");
        assert!(all.contains("@host/a@b") && all.contains("http://plain/x:y@z"), "{all}");
        for name in ["PATH", "MONKEY", "KEYBOARD", "VERSION", "COMPASS"] {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn a_long_text_is_cut_and_still_told_from_others() {
        let long = |end: &str| shortened("x".repeat(5000) + end);
        assert!(long("").len() < 2100 && long("a") != long("b"));
    }
}
