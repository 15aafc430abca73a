//! `kiln manifest` and `search`: indexes made by hand, and what registries have. It does not know how registries
//! are asked.

use super::args::{ManifestCommand, SearchArgs};
use super::print;
use super::rows::Form;
use crate::error::CommandError;
use crate::outputs::reference;
use crate::plain::Plain;
use crate::table::table;
use kiln_oci::{DEFAULT_REGISTRY, Reference};
use kiln_worker::{ManifestEdit, ProgressSink, RegistryError, Worker, WorkerError};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

pub(crate) fn run(
    what: ManifestCommand,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    let plain = Plain::new(true);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let sink = ProgressSink::new(&show);
    match what {
        ManifestCommand::Create { annotation, insecure_registry, name, images } => {
            let members =
                images.iter().map(|image| reference("IMAGE", image)).collect::<Result<Vec<_>, _>>()?;
            let name = reference("NAME", &name)?;
            let annotations = annotations(&annotation)?;
            let digest = open(&insecure_registry)?.create_index(&name, &members, annotations, &sink)?;
            print(format!("{digest}\n"))
        }
        ManifestCommand::Annotate { os, arch, variant, os_version, annotation, name, image } => {
            let annotations = annotations(&annotation)?;
            let edit = ManifestEdit { os, architecture: arch, variant, os_version, annotations };
            let digest = open(&[])?.annotate_index(&reference("NAME", &name)?, &image, &edit, &sink)?;
            print(format!("{digest}\n"))
        }
        ManifestCommand::Inspect { verbose, insecure_registry, name } => {
            let name = reference("NAME", &name)?;
            let all = open(&insecure_registry)?.manifests(&name, verbose)?;
            if !verbose {
                // As it is: its digest can be taken of what is shown.
                return print(all.first().map_or(&[][..], |(_, bytes)| bytes));
            }
            let shown = all.iter().map(|(descriptor, bytes)| {
                let manifest: Json = serde_json::from_slice(bytes).unwrap_or_default();
                json!({"Ref": name.with_digest(descriptor.digest).to_string(), "Descriptor": descriptor, "Manifest": manifest})
            });
            let text = serde_json::to_string_pretty(&shown.collect::<Vec<_>>()).unwrap_or_default();
            print(format!("{text}\n"))
        }
        ManifestCommand::Push { insecure_registry, name, destination } => {
            let name = reference("NAME", &name)?;
            let to = destination.map_or(Ok(name.clone()), |to| reference("DESTINATION", &to))?;
            print(format!("{}\n", open(&insecure_registry)?.push(&name, &to, &sink)?))
        }
    }
}

fn annotations(texts: &[String]) -> Result<BTreeMap<String, String>, CommandError> {
    let pair = |text: &String| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = pair
            .ok_or_else(|| CommandError::usage(format!("--annotation {text}"), "write it as NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

const HEADS: [(&str, &str); 2] = [("Name", "NAME"), ("Tag", "TAG")];

pub(crate) fn search(worker: &Worker, args: &SearchArgs) -> Result<(), CommandError> {
    let form = Form::read(args.format.as_deref())?;
    let rows: Vec<Json> = if args.list_tags {
        let repository = reference("TERM", &args.term)?;
        let name = repository.familiar();
        let name = name.strip_suffix(":latest").unwrap_or(&name);
        let tags = worker.tags(&repository, args.limit)?;
        tags.into_iter().map(|tag| json!({"Name": name, "Tag": tag})).collect()
    } else {
        let (registry, term) = registry_and_term(&args.term);
        let any: Reference = reference("TERM", &format!("{registry}/any"))?;
        let found =
            worker.search(&any, term, args.limit).map_err(|error| without_catalogue(error, registry))?;
        found.into_iter().map(|name| json!({"Name": format!("{registry}/{name}"), "Tag": ""})).collect()
    };
    print(form.show(&HEADS, &rows, || {
        let keys: &[(&str, &str)] = if args.list_tags { &HEADS } else { &HEADS[..1] };
        let head = keys.iter().map(|(_, head)| (*head).to_owned()).collect::<Vec<_>>();
        let cell = |row: &Json, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let cells = rows.iter().map(|row| keys.iter().map(|(key, _)| cell(row, key)).collect());
        table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
    })?)
}

/// The registry that is asked, and what its names must contain.
fn registry_and_term(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((host, term)) if host.contains(['.', ':']) || host == "localhost" => (host, term),
        _ => (DEFAULT_REGISTRY, text),
    }
}

/// A registry that does not tell what it has says so in many ways.
fn without_catalogue(error: WorkerError, registry: &str) -> CommandError {
    let is_refusal = match &error {
        WorkerError::Registry(error) => matches!(
            error,
            RegistryError::NotFound { .. }
                | RegistryError::Unauthorized { .. }
                | RegistryError::Status { status: 400..=499, .. }
        ),
        _ => false,
    };
    if !is_refusal {
        return error.into();
    }
    let text = format!(
        "{registry} does not tell which repositories it has ({error}); the tags of one are listed by \
         kiln search --list-tags {registry}/REPOSITORY"
    );
    CommandError::Image { text, registry: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_host_is_the_registry() {
        for (text, want) in [
            ("busybox", ("docker.io", "busybox")),
            ("team/app", ("docker.io", "team/app")),
            ("localhost:5000/app", ("localhost:5000", "app")),
            ("example.org/", ("example.org", "")),
        ] {
            assert_eq!(registry_and_term(text), want);
        }
    }
}
