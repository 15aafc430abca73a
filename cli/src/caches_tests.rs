//! Claims on how `--cache-to` and `--cache-from` are read.

use super::*;

fn nothing(_: &str) -> Option<String> {
    None
}

fn import(text: &str) -> Result<CacheKind, String> {
    let all = imports(&[text.to_owned()], &nothing).map_err(|e| e.to_string())?;
    Ok(all[0].kind.clone())
}

fn export(text: &str) -> Result<CacheExport, String> {
    let mut all = exports(&[text.to_owned()], &nothing).map_err(|e| e.to_string())?;
    Ok(all.remove(0))
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_bare_value_is_an_image_at_a_registry() {
    let expected = CacheKind::Registry { reference: reference("localhost:5000/app:cache"), insecure: false };
    assert_eq!(import("localhost:5000/app:cache"), Ok(expected.clone()));
    assert_eq!(import("type=registry,ref=localhost:5000/app:cache"), Ok(expected.clone()));
    assert_eq!(export("localhost:5000/app:cache").map(|e| e.kind), Ok(expected));
}

#[test]
fn the_defaults_are_buildkits() {
    let export = export("type=registry,ref=r.example/x").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(export.mode, CacheMode::Min);
    assert_eq!(export.form, LayerForm::default());
    assert!(export.oci_mediatypes && export.image_manifest && !export.ignore_error);
    assert_eq!(export.mounts, MountsExport::None);
}

#[test]
fn what_an_export_says_is_read() {
    let text = "type=local,dest=/c,mode=max,compression=zstd,compression-level=7,force-compression=true,\
                oci-mediatypes=false,ignore-error=1,\"mounts=a,b\",tag=x,reset";
    let text = text.replace(",reset", ",reset=true");
    let export = export(&text).unwrap_or_else(|e| panic!("{e}"));
    let local = LocalCache { folder: "/c".into(), tag: "x".into(), digest: None, reset: true };
    assert_eq!(export.kind, CacheKind::Local(local));
    assert_eq!(export.mode, CacheMode::Max);
    assert_eq!(export.form, LayerForm { compress: Compress::Zstd, level: Some(7), force: true });
    assert!(!export.oci_mediatypes && !export.image_manifest && export.ignore_error);
    assert_eq!(export.mounts, MountsExport::Named(vec!["a".into(), "b".into()]));
    assert_eq!(super::tests::export("type=inline,mounts=all").map(|e| e.mounts), Ok(MountsExport::All));
}

#[test]
fn the_environment_fills_in_what_is_not_given() {
    let env = |name: &str| {
        let value = match name {
            "AWS_REGION" => "eu-1",
            "AWS_ACCESS_KEY_ID" => "id",
            "AWS_SECRET_ACCESS_KEY" => "secret",
            "AWS_SESSION_TOKEN" => "session",
            "ACTIONS_RESULTS_URL" => "https://results",
            "ACTIONS_RUNTIME_TOKEN" => "t",
            "ACTIONS_CACHE_SERVICE_V2" => "True",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let read =
        |text: &str| imports(&[text.to_owned()], &env).unwrap_or_else(|e| panic!("{e}")).remove(0).kind;
    let CacheKind::S3(s3) = read("type=s3,bucket=b,name=a;b") else { panic!("s3") };
    assert_eq!((s3.region.as_str(), s3.session_token.as_deref()), ("eu-1", Some("session")));
    assert_eq!((s3.access_key_id.as_deref(), s3.names.len()), (Some("id"), 2));
    let CacheKind::S3(own) = read("type=s3,bucket=b,access_key_id=mine,secret_access_key=too") else {
        panic!("s3")
    };
    assert_eq!((own.access_key_id.as_deref(), own.session_token), (Some("mine"), None));
    let CacheKind::Gha(gha) = read("type=gha,timeout=90s") else { panic!("gha") };
    assert_eq!((gha.version, gha.token.as_deref()), (Some(2), Some("t")));
    assert_eq!(gha.timeout, Some(Duration::from_secs(90)));
}

#[test]
fn what_cannot_be_read_says_what_to_do() {
    for (text, expect) in [
        ("type=registry", "ref= is missing"),
        ("type=regstry,ref=x", "did you mean registry?"),
        ("type=registry,ref=x,mdoe=max", "unknown option `mdoe` of type=registry; did you mean mode?"),
        ("type=registry,ref=UPPER", "ref=UPPER"),
        ("ref=x", "type= is missing"),
        ("type=local,src=x", "dest= is missing"),
        ("type=local,dest=x,mode=most", "mode is min or max"),
        ("type=inline,mode=max", "mode=min"),
        ("type=local,dest=x,compression=lz4", "gzip, zstd or uncompressed"),
        ("type=local,dest=x,compression-level=40", "compression-level is 0 to 9"),
        ("type=local,dest=x,image-manifest=true,oci-mediatypes=false", "OCI's media types"),
        ("type=gha,version=3", "version is 1 or 2"),
        ("type=gha,timeout=soon", "timeout is a time"),
        ("type=s3,bucket=b", "region= is missing, and so is $AWS_REGION"),
        ("type=s3,bucket", "write KEY=VALUE, not `bucket`"),
        ("type=azblob", "account_url= is missing"),
    ] {
        match export(text) {
            Err(told) => assert!(told.contains(expect), "{text}: {told}"),
            Ok(export) => panic!("{text}: {export:?}"),
        }
    }
    assert!(import("type=inline").is_err_and(|told| told.contains("type=registry,ref=IMAGE")));
    assert!(import("type=registry,ref=x,mode=max").is_err_and(|told| told.contains("unknown option `mode`")));
}

#[test]
fn secrets_are_not_repeated_in_errors() {
    let told = export("type=gha,token=hush,secret_access_key=hush,nonsense=1").expect_err("nonsense");
    assert!(!told.contains("hush") && told.contains("token=…"), "{told}");
}
