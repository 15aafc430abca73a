//! `registries.conf`, version 2, as containers-registries.conf(5) has it. It does not know hosts or requests.

use super::toml_file::{line_of, parse, read};
use super::{API_PATH, Endpoint, FileLine, Route, Security, split_name, wrong};
use crate::RegistryError;
use kiln_oci::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// What the files say in all.
#[derive(Debug, Default)]
pub(super) struct Registries {
    rules: Vec<Rule>,
    aliases: BTreeMap<String, (String, FileLine)>,
    /// What has no effect here.
    pub(super) notes: Vec<String>,
}

/// One `[[registry]]`.
#[derive(Debug)]
struct Rule {
    prefix: String,
    location: String,
    security: Security,
    blocked: bool,
    mirrors: Vec<Mirror>,
    at: FileLine,
}

#[derive(Debug)]
struct Mirror {
    location: String,
    security: Security,
    by: PulledBy,
    at: FileLine,
}

/// Which names a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PulledBy {
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    registry: Vec<Spanned<RegistryTable>>,
    #[serde(default)]
    aliases: BTreeMap<String, Spanned<String>>,
    unqualified_search_registries: Option<Spanned<Vec<String>>>,
    credential_helpers: Option<Spanned<Vec<String>>>,
    /// Version 1 of the form.
    registries: Option<Spanned<toml::Table>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryTable {
    prefix: Option<Spanned<String>>,
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Spanned<MirrorTable>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Spanned<PulledBy>>,
}

impl Registries {
    /// Reads the files in their order. A later one replaces what an earlier one says of the same prefix or alias.
    pub(super) fn read(files: &[PathBuf]) -> Result<Registries, RegistryError> {
        let mut all = Registries::default();
        for file in files {
            if let Some(text) = read(file)? {
                all.add(file, &text)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, file: &Path, text: &str) -> Result<(), RegistryError> {
        let document: Document = parse(file, text)?;
        let reader = Reader { file, text };
        if let Some(old) = document.registries {
            let line = line_of(text, old.span().start);
            let reason = "this is version 1 of the form, which is not read: write [[registry]] tables";
            return Err(wrong(file, line, reason));
        }
        for table in &document.registry {
            let rule = reader.rule(table)?;
            self.rules.retain(|other| other.prefix != rule.prefix || other.at.file == rule.at.file);
            if let Some(other) = self.rules.iter().find(|other| other.prefix == rule.prefix) {
                let reason = format!("`{}` is in line {} already", rule.prefix, other.at.line);
                return Err(wrong(file, rule.at.line, reason));
            }
            self.rules.push(rule);
        }
        for (short, full) in &document.aliases {
            let at = reader.at(full.span().start);
            if full.get_ref().is_empty() {
                self.aliases.remove(short);
                continue;
            }
            let parsed = full.get_ref().parse::<Reference>();
            let names_registry = split_name(full.get_ref()).is_some_and(|(host, _)| is_host(host));
            if short.contains([':', '@']) || parsed.is_err() || !names_registry {
                let reason = format!(
                    "the alias `{short}` has to be short, and what it stands for a repository with its registry"
                );
                return Err(wrong(file, at.line, reason));
            }
            self.aliases.insert(short.clone(), (full.get_ref().clone(), at));
        }
        let search = document.unqualified_search_registries.filter(|list| !list.get_ref().is_empty());
        if let Some(search) = search {
            let at = reader.at(search.span().start);
            self.notes.push(format!(
                "{at}: unqualified-search-registries has no effect: a name without a registry is docker.io's, \
                 or what [aliases] says"
            ));
        }
        if let Some(helpers) = document.credential_helpers {
            let at = reader.at(helpers.span().start);
            self.notes.push(format!(
                "{at}: credential-helpers has no effect: credHelpers and credsStore name helpers"
            ));
        }
        Ok(())
    }

    /// The rule with the longest prefix of the name.
    fn rule(&self, name: &str) -> Option<(&Rule, usize)> {
        let matching = self.rules.iter().filter_map(|rule| Some((rule, matched(&rule.prefix, name)?)));
        // Of two that match the same, `*.` is the less exact one.
        matching.max_by_key(|(rule, length)| (*length, !rule.prefix.starts_with("*.")))
    }

    /// Where the image is, if there is a rule for it.
    pub(super) fn route(&self, reference: &Reference) -> Option<Route> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let (rule, length) = self.rule(&name)?;
        let place = |location: &str, security, is_mirror, at: &FileLine| {
            let whole =
                if location.is_empty() { name.clone() } else { format!("{location}{}", &name[length..]) };
            let (host, repository) = split_name(&whole)?;
            Some(Endpoint {
                host: host.to_owned(),
                path: API_PATH.to_owned(),
                repository: repository.to_owned(),
                security,
                is_mirror,
                at: Some(at.clone()),
                ..Endpoint::default()
            })
        };
        let by = if reference.digest().is_some() { PulledBy::DigestOnly } else { PulledBy::TagOnly };
        let mirrors = rule.mirrors.iter().filter(|mirror| mirror.by == PulledBy::All || mirror.by == by);
        let mut endpoints: Vec<Endpoint> =
            mirrors.filter_map(|mirror| place(&mirror.location, mirror.security, true, &mirror.at)).collect();
        endpoints.extend(place(&rule.location, rule.security, false, &rule.at));
        let blocked = rule.blocked.then(|| rule.at.clone());
        Some(Route { endpoints, blocked })
    }

    /// All short names and what they stand for.
    pub(super) fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(short, (full, _))| (short.as_str(), full.as_str()))
    }

    /// What a short name stands for.
    pub(super) fn alias(&self, name: &str) -> Option<(&str, &FileLine)> {
        self.aliases.get(name).map(|(full, at)| (full.as_str(), at))
    }
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn at(&self, offset: usize) -> FileLine {
        FileLine { file: self.file.to_owned(), line: line_of(self.text, offset) }
    }

    fn rule(&self, table: &Spanned<RegistryTable>) -> Result<Rule, RegistryError> {
        let at = self.at(table.span().start);
        let table = table.get_ref();
        let location = self.location(table.location.as_ref())?;
        let prefix = match &table.prefix {
            Some(prefix) if !prefix.get_ref().is_empty() => self.prefix(prefix)?,
            _ => location.clone(),
        };
        if prefix.is_empty() {
            return Err(wrong(self.file, at.line, "this [[registry]] has neither `prefix` nor `location`"));
        }
        let mut mirrors = Vec::new();
        for mirror in &table.mirror {
            let at = self.at(mirror.span().start);
            let mirror = mirror.get_ref();
            let location = self.location(mirror.location.as_ref())?;
            if location.is_empty() {
                return Err(wrong(self.file, at.line, "this mirror has no `location`"));
            }
            if let (Some(by), true) = (&mirror.pull_from_mirror, table.mirror_by_digest_only) {
                let line = line_of(self.text, by.span().start);
                let reason = "`pull-from-mirror` and `mirror-by-digest-only` exclude each other";
                return Err(wrong(self.file, line, reason));
            }
            let usual = if table.mirror_by_digest_only { PulledBy::DigestOnly } else { PulledBy::All };
            let by = mirror.pull_from_mirror.as_ref().map_or(usual, |by| *by.get_ref());
            mirrors.push(Mirror { location, security: security(mirror.insecure), by, at });
        }
        let security = security(table.insecure);
        Ok(Rule { prefix, location, security, blocked: table.blocked, mirrors, at })
    }

    fn prefix(&self, prefix: &Spanned<String>) -> Result<String, RegistryError> {
        let text = prefix.get_ref().trim_end_matches('/');
        let line = line_of(self.text, prefix.span().start);
        let wrong = |reason: &str| Err(wrong(self.file, line, format!("the prefix `{text}` {reason}")));
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        match text.strip_prefix("*.") {
            Some(rest) if rest.contains('/') => wrong("may have no path after `*.`"),
            Some(rest) if rest.is_empty() || rest.contains('*') => wrong("is no host after `*.`"),
            Some(_) => Ok(text.to_owned()),
            None if text.contains("://") => wrong("may not begin with a scheme"),
            None if text.contains('*') => wrong("may have `*` only as its beginning `*.`"),
            None if path.contains([':', '@']) => wrong("may have no tag and no digest"),
            None if host.is_empty() => wrong("names no registry"),
            None => Ok(text.to_owned()),
        }
    }

    fn location(&self, location: Option<&Spanned<String>>) -> Result<String, RegistryError> {
        let Some(location) = location else { return Ok(String::new()) };
        let text = location.get_ref().trim_end_matches('/');
        let line = line_of(self.text, location.span().start);
        if text.contains("://") {
            let reason =
                format!("the location `{text}` may not begin with a scheme: write host[:port][/path]");
            return Err(wrong(self.file, line, reason));
        }
        let host = text.split('/').next().unwrap_or(text);
        if !text.is_empty() && !is_host(host) {
            return Err(wrong(self.file, line, format!("the location `{text}` names no registry")));
        }
        Ok(text.to_owned())
    }
}

fn security(insecure: bool) -> Security {
    if insecure { Security::Insecure } else { Security::Usual }
}

/// Whether the first part of a name is a host, and no folder of docker.io.
fn is_host(host: &str) -> bool {
    let named = format!("{host}/x").parse::<Reference>();
    named.is_ok_and(|name| name.registry() == host || host == "index.docker.io")
}

/// How many bytes of a name `host/repository` a prefix is.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split('/').next()?;
        let is_below = host.len() > domain.len() && host.ends_with(domain);
        return is_below.then_some(host.len());
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

#[cfg(test)]
#[path = "registries_tests.rs"]
mod tests;
