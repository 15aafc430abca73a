//! Attestations, read back by code that shares nothing with what made them: where they are kept, what they say,
//! and that nothing is attested that nobody asked for.

use super::{NONE, busybox, on_busybox};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kiln_oci::{Descriptor, Digest, Index, Manifest, Reference};
use kiln_tests::{BaseImage, FakeRegistry, LayerEntry, Registry, Reply, TestContext, members_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const SBOM: &str = "https://spdx.dev/Document";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SECRET: &str = "canary-of-a-secret";
const STATUS: &str =
    "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u4\n";
const LATER: &str =
    "\nPackage: curl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 7.88.1-10\n";

/// Where documents are, by digest.
type Blobs<'a> = &'a dyn Fn(&Digest) -> Option<Vec<u8>>;

fn document<T: serde::de::DeserializeOwned>(blobs: Blobs<'_>, descriptor: &Descriptor) -> T {
    let bytes = blobs(&descriptor.digest).unwrap_or_else(|| panic!("{descriptor:?} is not there"));
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (descriptor.digest, descriptor.size));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The members of an archive, by digest.
fn archive(path: &Path) -> (Index, BTreeMap<Digest, Vec<u8>>) {
    let members = members_of(path);
    let index = serde_json::from_slice(&members["index.json"]).expect("an index");
    let blobs = members.into_iter().filter_map(|(name, bytes)| {
        let digest = Digest::from_hex(name.strip_prefix("blobs/sha256/")?).ok()?;
        Some((digest, bytes))
    });
    (index, blobs.collect())
}

/// The images of an index, each with its statements by their types. Checks BuildKit's layout on the way.
fn attested(blobs: Blobs<'_>, index: &Index) -> Vec<(Descriptor, BTreeMap<String, Value>)> {
    let is_attestation = |d: &&Descriptor| d.annotations.contains_key("vnd.docker.reference.type");
    let (attestations, images): (Vec<&Descriptor>, Vec<&Descriptor>) =
        index.manifests.iter().partition(is_attestation);
    assert_eq!(attestations.len(), images.len(), "an attestation manifest for each image");
    assert!(index.manifests[..images.len()].iter().all(|d| !is_attestation(&d)), "images come first");
    let of_image = |image: &&Descriptor| {
        let digest = image.digest.to_string();
        let listed = attestations
            .iter()
            .find(|d| d.annotations["vnd.docker.reference.digest"] == digest)
            .unwrap_or_else(|| panic!("nothing is attested of {digest}"));
        assert_eq!(listed.annotations["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(listed.platform.as_ref().map(ToString::to_string).as_deref(), Some("unknown/unknown"));
        let manifest: Manifest = document(blobs, listed);
        assert_eq!(manifest.subject.map(|subject| subject.digest), Some(image.digest));
        assert_eq!(
            manifest.artifact_type.as_deref(),
            Some("application/vnd.docker.attestation.manifest.v1+json")
        );
        assert_eq!(document::<Value>(blobs, &manifest.config), json!({}));
        let statements = manifest.layers.iter().map(|layer| statement(blobs, layer, &image.digest));
        (Descriptor::clone(image), statements.collect())
    };
    images.iter().map(of_image).collect()
}

/// A statement of in-toto about an image, with its type.
fn statement(blobs: Blobs<'_>, layer: &Descriptor, image: &Digest) -> (String, Value) {
    assert_eq!(layer.media_type.as_str(), "application/vnd.in-toto+json");
    let statement: Value = document(blobs, layer);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], layer.annotations["in-toto.io/predicate-type"]);
    for subject in statement["subject"].as_array().expect("subjects") {
        assert_eq!(subject["digest"], json!({"sha256": image.hex()}));
        assert!(subject["name"].as_str().is_some_and(|name| name.starts_with("pkg:docker/") || name == "_"));
    }
    (statement["predicateType"].as_str().unwrap_or_default().to_owned(), statement)
}

/// What SPDX 2.3 asks of every document and package, and that every reference leads to something.
fn check_spdx(document: &Value) {
    for (key, want) in
        [("spdxVersion", "SPDX-2.3"), ("dataLicense", "CC0-1.0"), ("SPDXID", "SPDXRef-DOCUMENT")]
    {
        assert_eq!(document[key], want, "{key}");
    }
    let namespace = document["documentNamespace"].as_str().expect("a namespace");
    assert!(namespace.starts_with("https://") && !namespace.contains('#'), "{namespace}");
    let created = document["creationInfo"]["created"].as_str().expect("a time");
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
    assert!(
        document["creationInfo"]["creators"][0].as_str().is_some_and(|who| who.starts_with("Tool: kiln"))
    );
    let packages = document["packages"].as_array().expect("packages");
    let mut ids: Vec<&str> = vec!["SPDXRef-DOCUMENT"];
    for package in packages {
        for key in ["name", "SPDXID", "downloadLocation"] {
            assert!(package[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {package}");
        }
        let id = package["SPDXID"].as_str().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        assert!(id.strip_prefix("SPDXRef-").is_some_and(|rest| rest.chars().all(plain)), "{id}");
        assert!(!ids.contains(&id), "{id} twice");
        ids.push(id);
    }
    for relation in document["relationships"].as_array().expect("relationships") {
        for key in ["spdxElementId", "relatedSpdxElement"] {
            assert!(ids.contains(&relation[key].as_str().unwrap_or_default()), "{relation}");
        }
    }
    let describes = |relation: &&Value| relation["relationshipType"] == "DESCRIBES";
    assert_eq!(document["relationships"].as_array().into_iter().flatten().filter(describes).count(), 1);
}

/// The package URLs of a document, and in which layers they came.
fn purls(document: &Value) -> BTreeMap<String, Option<String>> {
    let listed = document["packages"].as_array().into_iter().flatten().filter_map(|package| {
        let purl = package["externalRefs"][0]["referenceLocator"].as_str()?.to_owned();
        let layer = package["comment"].as_str().and_then(|text| text.strip_prefix("layerID: "));
        Some((purl, layer.map(str::to_owned)))
    });
    listed.collect()
}

/// All texts of a document, those in Base64 too.
fn all_text(bytes: &[u8]) -> String {
    let mut out = String::from_utf8_lossy(bytes).into_owned();
    let mut left = vec![serde_json::from_slice::<Value>(bytes).unwrap_or_default()];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(all) => left.extend(all),
            Value::Object(all) => left.extend(all.into_values()),
            Value::String(text) => {
                let decoded = BASE64_STANDARD.decode(text).unwrap_or_default();
                out.push_str(&String::from_utf8_lossy(&decoded));
            }
            _ => {}
        }
    }
    out
}

#[test]
fn nothing_is_attested_unasked_and_the_image_is_the_same_with_and_without() {
    let context = on_busybox("FROM @\nRUN echo x > /x\n");
    let plain = context.image(NONE);
    let path = context.path("attested.tar");
    let output = format!("type=oci,dest={}", path.display());
    context.build(["--sbom", "--provenance=mode=min", "-o", &output]).success();
    let (top, blobs) = archive(&path);
    let find = |digest: &Digest| blobs.get(digest).cloned();
    let index: Index = document(&find, &top.manifests[0]);
    let all = attested(&find, &index);
    assert_eq!(all.len(), 1);
    // A list of what is in it is the same each time, and so is the index.
    let id = |flags: &[&str]| {
        context.build(flags.iter().copied().chain(["--iidfile", &context.text("id")])).success();
        std::fs::read_to_string(context.path("id")).expect("an id")
    };
    assert_eq!(id(&["--sbom"]), id(&["--sbom"]));
    assert_ne!(id(&["--sbom"]), id(&[]), "the id is that of the index");
    assert_eq!(all[0].0.digest, plain.digest);
    assert_eq!(all[0].1.keys().collect::<Vec<_>>(), [PROVENANCE, SBOM]);
    assert_eq!(all[0].0.platform.as_ref().map(|p| p.os.as_str()), Some("linux"));
}

#[test]
fn packages_are_listed_with_the_layer_that_they_came_in_and_the_same_each_time() {
    let base = BaseImage::of(&[
        LayerEntry::File("etc/os-release", 0o644, b"ID=debian\nVERSION_ID=\"12\"\n".to_vec()),
        LayerEntry::File("var/lib/dpkg/status", 0o644, STATUS.into()),
        LayerEntry::File("usr/lib/sysimage/rpm/Packages.db", 0o644, b"RpmP".to_vec()),
    ]);
    let registry = Registry::shared();
    base.push(registry, "attest/debian", "1");
    let context = TestContext::with_dockerfile(&format!(
        "FROM {}\nCOPY status /var/lib/dpkg/\nCOPY app /app\n",
        registry.reference("attest/debian:1")
    ));
    context.write("status", format!("{STATUS}{LATER}"));
    context.write("app/package-lock.json", r#"{"packages":{"node_modules/@a/b":{"version":"1.0.0"}}}"#);
    context.write("app/Cargo.lock", "[[package]]\nname = \"rand\"\nversion = \"0.8.5\"\n");
    context
        .write("app/x-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: X_y\nVersion: 1\nLicense: odd\n");
    let folder = context.text("files");
    let sbom = || {
        let output = format!("type=local,dest={folder}");
        let finished = context.build(["--sbom", "-o", &output]).success();
        finished.says("WARNING").says("/usr/lib/sysimage/rpm/Packages.db").says("ndb");
        std::fs::read(context.path("files/sbom.spdx.json")).expect("a bill of materials")
    };
    let first = sbom();
    assert_eq!(first, sbom());
    let statement: Value = serde_json::from_slice(&first).expect("JSON");
    let named =
        |name: &str| statement["subject"].as_array().is_some_and(|all| all.iter().any(|s| s["name"] == name));
    assert!(named("app/Cargo.lock") && named("var/lib/dpkg/status"), "files are the subjects");
    let document = &statement["predicate"];
    check_spdx(document);
    let layers = context.image(NONE).config.rootfs.diff_ids;
    let layer = |number: usize| Some(layers[number].to_string());
    let expect = [
        ("pkg:cargo/rand@0.8.5", layer(2)),
        ("pkg:deb/debian/curl@7.88.1-10?arch=amd64&distro=debian-12", layer(1)),
        ("pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12", layer(0)),
        ("pkg:npm/%40a/b@1.0.0", layer(2)),
        ("pkg:pypi/x-y@1", layer(2)),
    ];
    assert_eq!(purls(document), expect.map(|(purl, layer)| (purl.to_owned(), layer)).into());
    assert_eq!(document["hasExtractedLicensingInfos"][0]["extractedText"], "odd");
}

#[test]
fn a_damaged_database_is_a_warning_and_the_rest_is_listed() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY . /\n");
    context
        .write("lib/apk/db/installed", "garbage\n\nP:a\n")
        .write("Cargo.lock", "[[package]]\nname = \"a\"\nversion = \"1\"\n");
    context.write("var/lib/rpm/rpmdb.sqlite", "no database at all");
    let finished =
        context.build(["--sbom", "-o", &format!("type=local,dest={}", context.text("files"))]).success();
    finished.says("/lib/apk/db/installed").says("/var/lib/rpm/rpmdb.sqlite");
    let bytes = std::fs::read(context.path("files/sbom.spdx.json")).expect("a bill of materials");
    let statement: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(purls(&statement["predicate"]).into_keys().collect::<Vec<_>>(), ["pkg:cargo/a@1"]);
}

#[test]
fn provenance_names_the_base_and_tells_no_secret_in_any_mode() {
    let text = "FROM @\nARG A\nRUN --mount=type=secret,id=token,required=true cat /run/secrets/token > /dev/null; echo $A > /x\n";
    let context = on_busybox(text);
    let secret = context.write_beside("token", SECRET);
    let secret = format!("id=token,src={}", secret.display());
    // The user writes the secret, and a password, where they do not belong.
    let proxy = format!("HTTPS_PROXY=http://me:{SECRET}-2@proxy");
    for (mode, told) in [("min", false), ("max", true)] {
        let path = context.path("image.tar");
        let output = format!("type=oci,dest={}", path.display());
        let provenance = format!("--provenance=mode={mode},builder-id=https://ci/1,reproducible=true");
        let args = [
            "--sbom",
            &provenance,
            "--secret",
            &secret,
            "--build-arg",
            &proxy,
            "--build-arg",
            "A=argument-canary",
        ];
        context.build(args.into_iter().chain(["--label", &format!("l={SECRET}"), "-o", &output])).success();
        let (top, blobs) = archive(&path);
        let find = |digest: &Digest| blobs.get(digest).cloned();
        let index: Index = document(&find, &top.manifests[0]);
        let (_, statements) = attested(&find, &index).swap_remove(0);
        let predicate = &statements[PROVENANCE]["predicate"];
        let text = all_text(predicate.to_string().as_bytes());
        assert!(!text.contains(SECRET), "{mode}: {text}");
        assert!(!all_text(statements[SBOM].to_string().as_bytes()).contains(SECRET));
        assert_eq!(text.contains("argument-canary"), told, "{mode}: {text}");
        assert_eq!(text.contains("RUN --mount=type=secret"), told, "{mode}: the Dockerfile");
        let name: Reference = busybox().parse().expect("a reference");
        let base = &predicate["buildDefinition"]["resolvedDependencies"][0];
        let bytes = Registry::shared().manifest(name.repository(), "latest").expect("the base");
        assert_eq!(base["digest"]["sha256"], Digest::of(&bytes).hex());
        assert!(
            base["uri"].as_str().is_some_and(|uri| uri.contains("library/busybox@latest?platform=linux%2F"))
        );
        let definition = &predicate["buildDefinition"];
        assert!(definition["buildType"].as_str().is_some_and(|kind| kind.contains("slsa-definitions")));
        assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
        let run = &predicate["runDetails"];
        assert_eq!(run["builder"]["id"], "https://ci/1");
        assert_eq!(run["metadata"]["buildkit_reproducible"], true);
        let times = ["startedOn", "finishedOn"].map(|key| run["metadata"][key].as_str().unwrap_or_default());
        assert!(times[0] <= times[1] && times[0].ends_with('Z'), "{times:?}");
        assert_eq!(definition["internalParameters"].get("buildConfig").is_some(), told);
    }
}

#[test]
fn files_have_their_attestations_beside_them_for_each_platform() {
    let context = TestContext::with_dockerfile("FROM scratch\nARG TARGETARCH\nCOPY f /f-$TARGETARCH\n");
    context.write("f", "f");
    let platforms = "--platform=linux/amd64,linux/arm64";
    let args = [platforms, "--sbom", "--provenance=mode=min,filename=p.json"];
    let built = |more: &str| {
        let output = format!("type=local,dest={}{more}", context.text("files"));
        context.build(args.into_iter().chain(["-o", &output])).success();
    };
    built(",attestation-prefix=att.");
    for name in ["linux_amd64/att.p.json", "linux_arm64/att.sbom.spdx.json", "linux_arm64/f-arm64"] {
        assert!(context.path("files").join(name).exists(), "{name}");
    }
    built(",platform-split=false");
    for name in ["p.linux_amd64.json", "sbom.spdx.linux_arm64.json", "f-amd64"] {
        assert!(context.path("files").join(name).exists(), "{name}");
    }
    let tar = context.path("files.tar");
    let output = format!("type=tar,dest={}", tar.display());
    context.build(["--sbom", "--provenance=mode=min,inline-only=true", "-o", &output]).success();
    let names: Vec<String> = members_of(&tar).into_keys().collect();
    assert!(names.contains(&"sbom.spdx.json".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("provenance")), "{names:?}");
}

#[test]
fn an_attested_image_is_kept_pushed_and_built_upon_as_any_other() {
    let registry = Registry::start();
    let context = on_busybox("FROM @\nRUN echo x > /x\n");
    let name = registry.reference("att/app:1");
    context.build(["--sbom", "--provenance", "-t", &name]).success();
    context.kiln(["push", &name]).run().success();
    let index: Index =
        serde_json::from_slice(&registry.manifest("att/app", "1").expect("it was pushed")).expect("an index");
    let find = |digest: &Digest| {
        registry.manifest("att/app", &digest.to_string()).or_else(|| registry.blob("att/app", digest))
    };
    assert_eq!(attested(&find, &index).len(), 1);
    let other = TestContext::with_dockerfile(&format!("FROM {name}\nRUN cat /x > /y\n"));
    other.image(NONE).file_is("/y", "x\n");
    context.write("Dockerfile", format!("FROM {name}\nRUN cat /x > /z\n"));
    context.image(["--pull=never"]).file_is("/z", "x\n");
    // What belongs to a name is not given up.
    context.kiln(["prune", "--force"]).run().success();
    context.kiln(["fsck", "--full"]).run().success();
    let again = registry.reference("att/app:2");
    context.kiln(["tag", &name, &again]).run().success();
    context.kiln(["push", &again]).run().success();
    assert_eq!(registry.manifest("att/app", "1"), registry.manifest("att/app", "2"));
}

#[test]
fn each_platform_of_an_index_has_an_attestation_manifest_of_its_own() {
    let context = TestContext::with_dockerfile("FROM scratch\nARG TARGETARCH\nCOPY f /f-$TARGETARCH\n");
    context.write("f", "f");
    let path = context.path("image.tar");
    let output = format!("type=oci,dest={}", path.display());
    let platforms = "--platform=linux/amd64,linux/arm64";
    context
        .build([platforms, "--attest", "type=sbom", "--attest=type=provenance,mode=max", "-o", &output])
        .success();
    let (top, blobs) = archive(&path);
    let find = |digest: &Digest| blobs.get(digest).cloned();
    let all = attested(&find, &document(&find, &top.manifests[0]));
    assert_eq!(all.len(), 2);
    let invocation = |number: usize| {
        check_spdx(&all[number].1[SBOM]["predicate"]);
        all[number].1[PROVENANCE]["predicate"]["runDetails"]["metadata"]["invocationID"].clone()
    };
    assert!(invocation(0).is_string() && invocation(0) == invocation(1), "one build, one name");
    let steps = |number: usize| all[number].1[PROVENANCE]["predicate"]["buildDefinition"].to_string();
    assert!(steps(0).contains("/f-amd64") && !steps(0).contains("/f-arm64"), "only its own steps");
}

/// Runs git in a folder, as somebody without settings.
fn git(folder: &Path, args: &[&str]) -> String {
    let who = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main"];
    let mut command = Command::new("git");
    let output = command.args(who).args(args).current_dir(folder).output().expect("git");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn what_came_from_the_web_is_named_with_its_digest_and_without_passwords() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY f /\n");
    context.write("f", "f");
    let tar = Command::new("tar").args(["-cf", "-", "."]).current_dir(context.context()).output();
    let tar = tar.expect("tar").stdout;
    let (digest, served) = (Digest::of(&tar), tar.clone());
    let web = FakeRegistry::start(move |_, target| match target {
        "/context" | "/added" => Reply::new(200, served.clone()),
        _ => Reply::new(404, ""),
    });
    let address = web.address();
    let built = |context: &TestContext, place: &str| {
        let output = format!("type=local,dest={}", context.text("out"));
        let args = ["build", "--progress=plain", "--provenance=mode=max", "-o", &output, place];
        context.kiln(args).run().success();
        let bytes = std::fs::read(context.path("out/provenance.json")).expect("provenance");
        assert!(!all_text(&bytes).contains("canary"), "{}", all_text(&bytes));
        let statement: Value = serde_json::from_slice(&bytes).expect("JSON");
        statement["predicate"]["buildDefinition"].clone()
    };
    // The second time it is known from before, and no less told.
    for _ in 0..2 {
        let told = built(&context, &format!("http://me:canary@{address}/context"));
        let expect = json!({"uri": format!("http://{address}/context"), "digest": {"sha256": digest.hex()}});
        assert_eq!(told["resolvedDependencies"], json!([expect]));
        let source = &told["externalParameters"]["configSource"];
        assert_eq!((&source["uri"], &source["digest"]), (&expect["uri"], &expect["digest"]));
        assert_eq!(told["externalParameters"]["request"]["locals"], json!([]));
    }
    let text = format!("FROM scratch\nADD http://me:canary@{address}/added /\n");
    context.write("Dockerfile", text);
    for _ in 0..2 {
        let told = built(&context, &context.text("ctx"));
        let expect = json!([{"uri": format!("http://{address}/added"), "digest": {"sha256": digest.hex()}}]);
        assert_eq!(told["resolvedDependencies"], expect);
    }
}

#[test]
fn what_came_from_a_repository_is_named_with_its_commit() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY f /\n");
    context.write("f", "f");
    let work = context.context();
    git(&work, &["init", "-q", "."]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "x"]);
    let commit = git(&work, &["rev-parse", "HEAD"]);
    git(&work, &["update-server-info"]);
    let folder = work.join(".git");
    let web = FakeRegistry::start(move |_, target| {
        let path = target.split('?').next().unwrap_or_default().trim_start_matches("/a.git/");
        std::fs::read(folder.join(path)).map_or_else(|_| Reply::new(404, ""), |bytes| Reply::new(200, bytes))
    });
    let address = format!("http://{}/a.git", web.address());
    let output = format!("type=local,dest={}", context.text("out"));
    for reference in ["#main", "#main"] {
        let place = format!("{address}{reference}");
        context.kiln(["build", "--provenance=mode=min", "-o", &output, &place]).run().success();
        let bytes = std::fs::read(context.path("out/provenance.json")).expect("provenance");
        let statement: Value = serde_json::from_slice(&bytes).expect("JSON");
        let told = &statement["predicate"]["buildDefinition"];
        let expect = json!([{"uri": place, "digest": {"sha1": commit}}]);
        assert_eq!(told["resolvedDependencies"], expect);
        assert_eq!(told["externalParameters"]["configSource"]["digest"]["sha1"], commit);
        let complete = &statement["predicate"]["runDetails"]["metadata"]["buildkit_completeness"];
        assert_eq!(complete["resolvedDependencies"], true);
    }
}

#[test]
fn without_artifacts_an_attestation_manifest_looks_like_an_image() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY f /\n");
    context.write("f", "f");
    let path = context.path("image.tar");
    for (more, kind) in [
        ("oci-artifact=false", "application/vnd.oci.image.config.v1+json"),
        ("oci-mediatypes=false", "application/vnd.docker.container.image.v1+json"),
    ] {
        let output = format!("type=oci,dest={},{more}", path.display());
        context.build(["--sbom", "-o", &output]).success();
        let (top, blobs) = archive(&path);
        let find = |digest: &Digest| blobs.get(digest).cloned();
        let index: Index = document(&find, &top.manifests[0]);
        let manifest: Manifest = document(&find, &index.manifests[1]);
        assert_eq!((manifest.subject, manifest.artifact_type), (None, None), "{more}");
        assert_eq!(manifest.config.media_type.as_str(), kind);
        let config: Value = document(&find, &manifest.config);
        assert_eq!((&config["architecture"], &config["os"]), (&json!("unknown"), &json!("unknown")));
        assert_eq!(config["rootfs"]["diff_ids"], json!([manifest.layers[0].digest.to_string()]));
    }
    let output = format!("type=docker,dest={}", path.display());
    context.build(["--sbom", "-o", &output]).fails_with(2).says("docker load");
}

#[test]
fn referrers_leave_the_image_as_it_is_and_are_listed_at_the_registry_and_in_layouts() {
    let registry = Registry::start();
    let context = on_busybox("FROM @\nRUN echo x > /x\n");
    let name = registry.reference("ref/app:1");
    let args = ["--sbom", "--provenance=mode=min", "--attest-as=referrers"];
    let plain = context.image(NONE).digest;
    for round in 1..=2 {
        context.build(args.into_iter().chain(["-t", &name, "--push"])).success();
        let bytes = registry.manifest("ref/app", "1").expect("it was pushed");
        assert_eq!(Digest::of(&bytes), plain, "one plain manifest");
        let list = registry.manifest("ref/app", &format!("sha256-{}", plain.hex())).expect("a list");
        let list: Index = serde_json::from_slice(&list).expect("an index");
        // The bill is the same each time; when it was built is not.
        assert_eq!(list.manifests.len(), 1 + round, "{list:?}");
        for listed in &list.manifests {
            assert_eq!(listed.artifact_type.as_deref(), Some("application/vnd.in-toto+json"));
            let find = |digest: &Digest| {
                registry.manifest("ref/app", &digest.to_string()).or_else(|| registry.blob("ref/app", digest))
            };
            let manifest: Manifest = document(&find, listed);
            assert_eq!(manifest.subject.map(|subject| subject.digest), Some(plain));
            statement(&find, &manifest.layers[0], &plain);
        }
    }
    let layout = format!("type=oci,tar=false,dest={}", context.text("layout"));
    context.build(args.into_iter().chain(["-o", &layout])).success();
    let index = std::fs::read(context.path("layout/index.json")).expect("a layout");
    let index: Index = serde_json::from_slice(&index).expect("an index");
    let artifacts = index.manifests.iter().filter(|listed| listed.artifact_type.is_some()).count();
    assert_eq!((artifacts, index.manifests.len()), (2, 3));
    let other = TestContext::with_dockerfile("FROM l\nRUN cat /x > /y\n");
    let named = format!("l=oci-layout://{}:latest", context.text("layout"));
    other.image(["--build-context", &named]).file_is("/y", "x\n");
    // Where the folder lies is not told.
    let output = format!("type=local,dest={}", other.text("out"));
    other.build(["--build-context", &named, "--provenance=mode=max", "-o", &output]).success();
    let bytes = std::fs::read(other.path("out/provenance.json")).expect("provenance");
    let (told, parent) = (all_text(&bytes), context.path("layout"));
    assert!(told.contains("pkg:oci/layout@latest") && told.contains(&plain.hex()), "{told}");
    let parent = parent.parent().expect("a parent").to_string_lossy().into_owned();
    assert!(!told.contains(&parent), "{told}");
    context.build(args).fails_with(2).says("--attest-as");
}

/// Runs openssl, which must succeed.
fn openssl(args: &[&str]) {
    let output = Command::new("openssl").args(args).output().expect("openssl");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_signature_lies_beside_the_image_and_openssl_finds_it_good() {
    let registry = Registry::start();
    let context = on_busybox("FROM @\nRUN echo x > /x\n");
    let path = |name: &str| context.text(name);
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        &path("key.pem"),
    ]);
    openssl(&["pkey", "-in", &path("key.pem"), "-pubout", "-out", &path("key.pub")]);
    let name = registry.reference("sig/app:1");
    for _ in 0..2 {
        context.build(["-t", &name, "--push", "--sign-key", &path("key.pem")]).success();
    }
    let digest = Digest::of(&registry.manifest("sig/app", "1").expect("it was pushed"));
    let tag = format!("sha256-{}.sig", digest.hex());
    let bytes = registry.manifest("sig/app", &tag).expect("a signature");
    let manifest: Manifest = serde_json::from_slice(&bytes).expect("a manifest");
    assert_eq!(manifest.layers.len(), 1, "signed once by one key");
    let layer = &manifest.layers[0];
    assert_eq!(layer.media_type.as_str(), "application/vnd.dev.cosign.simplesigning.v1+json");
    let payload = registry.blob("sig/app", &layer.digest).expect("what was signed");
    let said: Value = serde_json::from_slice(&payload).expect("JSON");
    let expect = json!({"critical": {
        "identity": {"docker-reference": registry.reference("sig/app")},
        "image": {"docker-manifest-digest": digest.to_string()},
        "type": "cosign container image signature",
    }, "optional": null});
    assert_eq!(said, expect);
    let signature = BASE64_STANDARD.decode(&layer.annotations["dev.cosignproject.cosign/signature"]);
    context.write_beside("signature", signature.expect("Base64"));
    let payload = context.write_beside("payload", &payload);
    let verify = ["dgst", "-sha256", "-verify", &path("key.pub"), "-signature", &path("signature")];
    openssl(&[&verify[..], &[&payload.to_string_lossy()]].concat());
    // Another key's stands beside it.
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        &path("other.pem"),
    ]);
    context.build(["-t", &name, "--push", "--sign-key", &path("other.pem")]).success();
    let bytes = registry.manifest("sig/app", &tag).expect("signatures");
    let manifest: Manifest = serde_json::from_slice(&bytes).expect("a manifest");
    assert_eq!(manifest.layers.len(), 2);
}

#[test]
fn a_key_that_can_not_sign_or_has_nothing_to_sign_is_told_before_the_build() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY f /\n");
    context.write("f", "f");
    context.write_beside("rsa.pem", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n");
    let pushed = ["-t", "127.0.0.1:1/x", "--push", "--sign-key"];
    let rsa = context.text("rsa.pem");
    context.build(pushed.into_iter().chain([rsa.as_str()])).fails_with(2).says("RSA PRIVATE KEY");
    let locked = BASE64_STANDARD.encode(r#"{"kdf":{"name":"scrypt"}}"#);
    let kind = "ENCRYPTED SIGSTORE PRIVATE KEY";
    context.write_beside("locked.pem", format!("-----BEGIN {kind}-----\n{locked}\n-----END {kind}-----\n"));
    let locked = context.text("locked.pem");
    context.build(pushed.into_iter().chain([locked.as_str()])).fails_with(2).says("COSIGN_PASSWORD");
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        &context.text("k"),
    ]);
    context.build(["--sign-key", &context.text("k")]).fails_with(2).says("--sign-key").says("--push");
}
