//! What `--output` says, parsed. It does not know how an output is written.

mod daemon;
mod options;

use crate::error::CommandError;
use kiln_oci::Reference;
use kiln_worker::{Form, LayerForm, Output, Spelling};
use options::{Kind, Options};
use std::path::PathBuf;

/// What allows an output to remove files anywhere.
pub(crate) const LOCAL_DELETE: &str = "buildx.local.delete";
/// What people call standard output.
const STANDARD_OUTPUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// A name of an image, or a usage error that says which argument is wrong.
pub(crate) fn reference(argument: &str, name: &str) -> Result<Reference, CommandError> {
    name.parse().map_err(|e: kiln_oci::ReferenceError| CommandError::usage(argument, e.to_string()))
}

/// What a build wants besides its outputs.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// That it is pushed by its names.
    pub push: bool,
    /// That the store has it by its names, and a Docker daemon, if one is there.
    pub load: bool,
    /// That it is an index.
    pub is_index: bool,
}

/// The outputs of a build.
pub(crate) fn parse_all(
    outputs: &[String],
    tags: &[String],
    wanted: Wanted,
) -> Result<Vec<Output>, CommandError> {
    let names = tags.iter().map(|t| reference("--tag", t)).collect::<Result<Vec<_>, _>>()?;
    let one = |output: &String| one(output, tags, &names, wanted.is_index);
    let mut all = outputs.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    if wanted.push {
        if names.is_empty() {
            return Err(CommandError::usage("--push", "needs a name: give one with --tag"));
        }
        all.push(Output::new(Form::Registry, names.clone()));
    }
    if wanted.load || all.is_empty() {
        all.push(Output::new(Form::Store, names.clone()));
    }
    if wanted.load && !all.iter().any(|output| matches!(output.form, Form::Daemon(_))) {
        all.push(Output::new(Form::Daemon(daemon::daemon()?), names));
    }
    if all.iter().filter(|output| is_on_standard_output(&output.form)).count() > 1 {
        let problem = "only one output can go to standard output: give the others dest=FILE";
        return Err(CommandError::usage("--output", problem));
    }
    Ok(all)
}

/// Refuses what holds one image only, where the result is an index.
pub(crate) fn refuse_docker(outputs: &[Output]) -> Result<(), CommandError> {
    match outputs.iter().find(|output| matches!(output.form, Form::Docker(_) | Form::Daemon(Some(_)))) {
        Some(output) => {
            let flag = match output.form {
                Form::Docker(_) => "--output type=docker",
                _ => "--load",
            };
            let problem = "what `docker load` reads holds one image: write type=oci, or build for one platform and without attestations";
            Err(CommandError::usage(flag, problem))
        }
        None => Ok(()),
    }
}

/// Whether standard output belongs to an output, so that nothing else may be printed there.
pub(crate) fn any_on_standard_output(outputs: &[String], tags: &[String]) -> bool {
    // It was parsed before, so that what is refused without an index is refused already.
    let wanted = Wanted { push: false, load: false, is_index: true };
    parse_all(outputs, tags, wanted)
        .is_ok_and(|all| all.iter().any(|output| is_on_standard_output(&output.form)))
}

fn is_on_standard_output(form: &Form) -> bool {
    matches!(form, Form::Oci(None) | Form::Docker(None) | Form::Tar(None))
}

/// One output: `type=oci,dest=FILE`, or a folder alone. Without names of its own it has the tags.
fn one(text: &str, tags: &[String], tag_names: &[Reference], is_index: bool) -> Result<Output, CommandError> {
    let usage = |problem: String| CommandError::usage(format!("--output {text}"), problem);
    if !text.contains('=') {
        let form = if text == "-" { Form::Tar(None) } else { Form::Local(PathBuf::from(text)) };
        refuse_terminal(&form, text)?;
        return Ok(Output::new(form, Vec::new()));
    }
    let options = Options::read(text, is_index).map_err(usage)?;
    let (texts, mut names) = match options.names.is_empty() {
        true => (tags, tag_names.to_vec()),
        false => {
            let names = options.names.iter().map(|name| reference("--output name", name));
            (options.names.as_slice(), names.collect::<Result<Vec<_>, _>>()?)
        }
    };
    let form = form_of(&options, !names.is_empty()).map_err(usage)?;
    let by_digest = form == Form::Registry && options.push_by_digest;
    if by_digest && let Some(tagged) = texts.iter().find(|name| has_tag(name)) {
        return Err(usage(format!("`{tagged}` can't be pushed by digest: leave out what follows its name")));
    }
    if form == Form::Store && options.store == Some(false) {
        names.clear();
    }
    if options.delete && form_is_not_local(&form) {
        return Err(usage("mode=delete is for type=local".to_owned()));
    }
    let dangling =
        options.dangling_prefix.as_ref().filter(|_| form == Form::Store && options.store != Some(false));
    let dangling = dangling.filter(|_| names.is_empty() || !options.dangling_empty_only);
    let dangling = dangling.map(|prefix| reference("--output dangling-name-prefix", prefix)).transpose()?;
    refuse_terminal(&form, text)?;
    let default = if options.kind == Some(Kind::Docker) { Spelling::Docker } else { Spelling::Oci };
    let spelling = options.oci_media_types.map(|oci| if oci { Spelling::Oci } else { Spelling::Docker });
    Ok(Output {
        by_digest,
        layers: LayerForm {
            compress: options.compress,
            level: options.level,
            force: options.force_compression,
        },
        spelling: spelling.unwrap_or(default),
        annotations: options.annotations,
        rewrite_timestamp: options.rewrite_timestamp,
        platform_split: options.platform_split,
        attestation_artifact: options.attestation_artifact,
        attestation_prefix: options.attestation_prefix,
        insecure: options.insecure,
        source_date_epoch_s: options.source_date_epoch_s,
        name_canonical: options.name_canonical,
        dangling,
        delete: options.delete,
        ..Output::new(form, names)
    })
}

fn form_is_not_local(form: &Form) -> bool {
    !matches!(form, Form::Local(_))
}

/// The registries that outputs allow to be spoken to without TLS.
pub(crate) fn insecure_registries(outputs: &[Output]) -> Vec<String> {
    let insecure = outputs.iter().filter(|output| output.insecure);
    insecure.flat_map(|output| &output.names).map(|name| name.registry().to_owned()).collect()
}

/// Refuses to empty a folder that may hold more than results, unless it was allowed, as buildx does: the current
/// one, and what is not in it.
pub(crate) fn refuse_delete(outputs: &[Output], allowed: &[String]) -> Result<(), CommandError> {
    if allowed.iter().any(|allowed| allowed == LOCAL_DELETE) {
        return Ok(());
    }
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let here = here.map_err(CommandError::file("look at", "."))?;
    for output in outputs.iter().filter(|output| output.delete) {
        let Form::Local(dest) = &output.form else { continue };
        // What is not there yet has nothing to lose, but where it will be counts.
        let there = dest.ancestors().find_map(|folder| match folder.as_os_str().is_empty() {
            true => Some(here.clone()),
            false => folder.canonicalize().ok(),
        });
        let is_beneath =
            there.is_some_and(|there| there.starts_with(&here) && (there != here || !dest.exists()));
        if !is_beneath {
            let problem = format!(
                "mode=delete removes all else from `{}`, which is not a folder below the current one: allow it by --allow {LOCAL_DELETE}",
                dest.display()
            );
            return Err(CommandError::usage("--output", problem));
        }
    }
    Ok(())
}

fn form_of(options: &Options, has_name: bool) -> Result<Form, String> {
    let kind = options.kind.ok_or("needs type=")?;
    let path = options.dest.as_deref().filter(|d| !STANDARD_OUTPUT.contains(d)).map(PathBuf::from);
    if options.into_daemon && (kind != Kind::Docker || options.dest.is_some() || options.tar == Some(false)) {
        return Err("context=default is for type=docker, without dest and tar=false".to_owned());
    }
    let is_pushed = options.push.unwrap_or(kind == Kind::Registry);
    // Where it can't be written to standard output anyway, it goes where docker's own build puts it.
    let nowhere = || options.dest.is_none() && options.tar != Some(false) && is_terminal();
    if kind == Kind::Docker
        && nowhere()
        && let Ok(Some(host)) = daemon::daemon()
    {
        return Ok(Form::Daemon(Some(host)));
    }
    Ok(match kind {
        Kind::Oci | Kind::Docker if options.tar == Some(false) => {
            Form::Layout(path.ok_or("tar=false needs dest=FOLDER")?)
        }
        Kind::Oci => Form::Oci(path),
        Kind::Docker if options.into_daemon => match daemon::daemon().map_err(|e| e.to_string())? {
            Some(host) => Form::Daemon(Some(host)),
            None => return Err("context=default: no Docker daemon listens, see DOCKER_HOST".to_owned()),
        },
        Kind::Docker => Form::Docker(path),
        Kind::Tar => Form::Tar(path),
        Kind::Local => Form::Local(path.ok_or("needs dest=FOLDER")?),
        Kind::Image | Kind::Registry if !is_pushed => Form::Store,
        Kind::Image | Kind::Registry if !has_name => {
            return Err("needs a name: add name=REFERENCE, or --tag".to_owned());
        }
        Kind::Image | Kind::Registry => Form::Registry,
        Kind::CacheOnly => Form::CacheOnly,
    })
}

/// Whether a name says more than its repository. A port is followed by a slash.
fn has_tag(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']))
}

/// Whether standard output is one.
fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}

fn refuse_terminal(form: &Form, text: &str) -> Result<(), CommandError> {
    if is_on_standard_output(form) && is_terminal() {
        let problem = "needs dest=FILE where standard output is a terminal";
        return Err(CommandError::usage(format!("--output {text}"), problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_output_takes_one_output_under_all_its_names() {
        let parse = |outputs: &[&str]| {
            let outputs: Vec<String> = outputs.iter().map(|o| (*o).to_owned()).collect();
            let wanted = Wanted { push: false, load: false, is_index: false };
            parse_all(&outputs, &[], wanted).map(|all| all.iter().map(|o| o.form.clone()).collect())
        };
        let forms: Result<Vec<Form>, _> = parse(&["type=tar,dest=/dev/stdout", "type=oci,dest=x.tar"]);
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            assert!(forms.is_err());
        } else {
            assert_eq!(forms.ok(), Some(vec![Form::Tar(None), Form::Oci(Some("x.tar".into()))]));
        }
        for second in ["type=docker", "type=oci,dest=-", "type=tar,dest=/proc/self/fd/1"] {
            assert!(matches!(parse(&["-", second]), Err(CommandError::Usage { .. })), "{second}");
        }
    }

    fn parsed(text: &str, tags: &[&str]) -> Result<Output, String> {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let wanted = Wanted { push: false, load: false, is_index: false };
        let all = parse_all(&[text.to_owned()], &tags, wanted).map_err(|e| e.to_string())?;
        <[Output; 1]>::try_from(all).map(|[one]| one).map_err(|all| format!("{all:?}"))
    }

    #[test]
    fn a_type_has_its_own_media_types_unless_others_are_asked_for() {
        for (text, expect) in [
            ("type=oci,dest=x", Spelling::Oci),
            ("type=oci,dest=x,oci-mediatypes=false", Spelling::Docker),
            ("type=docker,dest=x", Spelling::Docker),
            ("type=docker,dest=x,oci-mediatypes", Spelling::Oci),
            ("type=docker,dest=x,tar=false", Spelling::Docker),
            ("type=image", Spelling::Oci),
            ("type=image,oci-mediatypes=0", Spelling::Docker),
        ] {
            assert_eq!(parsed(text, &[]).map(|output| output.spelling), Ok(expect), "{text}");
        }
    }

    #[test]
    fn what_is_pushed_and_what_is_kept_is_said_by_the_type_and_by_push() {
        for (text, expect) in [
            ("type=image", Form::Store),
            ("type=image,push=true", Form::Registry),
            ("type=image,push=false", Form::Store),
            ("type=registry", Form::Registry),
            ("type=registry,push=false", Form::Store),
            ("type=oci,tar=false,dest=x", Form::Layout("x".into())),
            ("type=oci,tar=true,dest=x", Form::Oci(Some("x".into()))),
            ("type=docker,dest=x", Form::Docker(Some("x".into()))),
        ] {
            assert_eq!(parsed(text, &["a"]).map(|output| output.form), Ok(expect), "{text}");
        }
        for text in ["type=registry", "type=image,push=1", "type=oci,tar=false", "type=local", "dest=x"] {
            assert!(parsed(text, &[]).is_err_and(|told| told.contains("needs")), "{text}");
        }
        let named = |text: &str| parsed(text, &["a"]).map(|output| output.names.len());
        assert_eq!((named("type=image"), named("type=image,store=false")), (Ok(1), Ok(0)));
    }

    #[test]
    fn only_a_name_without_a_tag_is_pushed_by_digest() {
        let text = "type=image,push=true,push-by-digest=true,name-canonical=true";
        for (tag, expect) in
            [("host:5000/a/b", true), ("b", true), ("host:5000/b:1", false), ("a/b:1", false)]
        {
            assert_eq!(parsed(text, &[tag]).is_ok_and(|output| output.by_digest), expect, "{tag}");
        }
        let named = parsed(&format!("{text},name=host:5000/b"), &["a:1"]);
        assert!(named.is_ok_and(|output| output.by_digest));
        assert!(parsed("type=image,push-by-digest=true", &["a:1"]).is_ok_and(|output| !output.by_digest));
    }
}
