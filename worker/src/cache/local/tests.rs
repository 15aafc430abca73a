//! Claims about a cache in a folder.

use super::*;
use crate::cache::test_server::Fixture;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

fn place(fixture: &Fixture, tag: &str) -> LocalPlace {
    let folder = fixture.folder.path().join("cache");
    let at = LocalCache { folder, tag: tag.to_owned(), digest: None, reset: false };
    LocalPlace::new(at, CacheForm::Manifest, fixture.cancel.clone())
}

/// Exports a cache with one layer.
fn export(fixture: &Fixture, place: &LocalPlace, layer: &[u8]) -> Descriptor {
    let (blob, open) = fixture.blob(layer);
    place.write(&blob, &open).expect("written");
    place.publish(layer, &[blob]).expect("published").expect("a descriptor")
}

fn has(fixture: &Fixture, bytes: &[u8]) -> bool {
    place(fixture, "any").path_of(&Digest::of(bytes)).exists()
}

fn read(place: &LocalPlace, blob: &Descriptor) -> Result<Vec<u8>, CacheError> {
    let mut bytes = Vec::new();
    let mut keep = |piece: &[u8]| -> io::Result<()> {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    place.read(blob, &mut keep)?;
    Ok(bytes)
}

#[test]
fn what_was_published_is_read_back() {
    for form in [CacheForm::Manifest, CacheForm::Index, CacheForm::DockerList] {
        let fixture = Fixture::new();
        let place = LocalPlace { form, ..place(&fixture, "latest") };
        let (blob, open) = fixture.blob(b"a layer");
        assert!(place.write(&blob, &open).expect("written"));
        assert!(!place.write(&blob, &open).expect("there"));
        let about = place.publish(b"{}", std::slice::from_ref(&blob)).expect("published").expect("about it");
        assert_eq!(place.configs().expect("configs"), [b"{}".to_vec()]);
        assert_eq!(read(&place, &blob).expect("read"), b"a layer");
        let mut pinned = super::tests::place(&fixture, "no such tag");
        pinned.at.digest = Some(about.digest);
        assert_eq!(pinned.configs().expect("configs"), [b"{}".to_vec()]);
        let folder = kiln_oci::ImageFolder::open(&place.at.folder).expect("a layout");
        assert_eq!(folder.find(Some("latest")).expect("the tag")[0].digest, about.digest);
        assert!(!place.at.folder.join("index.json.lock").exists());
    }
}

#[test]
fn a_folder_or_a_tag_that_is_not_there_is_no_cache() {
    let fixture = Fixture::new();
    let missing = place(&fixture, "latest");
    assert_eq!(missing.configs().expect("no error"), Vec::<Vec<u8>>::new());
    assert!(!missing.at.folder.exists());
    export(&fixture, &missing, b"one");
    assert_eq!(place(&fixture, "other").configs().expect("no error"), Vec::<Vec<u8>>::new());
    let mut pinned = place(&fixture, "latest");
    pinned.at.digest = Some(Digest::of(b"nothing"));
    assert!(matches!(pinned.configs(), Err(CacheError::NoBlob(_))));
    let (blob, _) = fixture.blob(b"missing");
    assert!(matches!(read(&pinned, &blob), Err(CacheError::NoBlob(_))));
}

#[test]
fn other_tags_stay_and_what_nothing_names_any_more_goes() {
    let fixture = Fixture::new();
    export(&fixture, &place(&fixture, "a"), b"one");
    export(&fixture, &place(&fixture, "b"), b"two");
    export(&fixture, &place(&fixture, "a"), b"three");
    assert!(!has(&fixture, b"one") && has(&fixture, b"two") && has(&fixture, b"three"));
    assert_eq!(place(&fixture, "a").configs().expect("configs"), [b"three".to_vec()]);
    assert_eq!(place(&fixture, "b").configs().expect("configs"), [b"two".to_vec()]);
    // Each has its layer, which here is its config too, and its manifest.
    let blobs = std::fs::read_dir(fixture.folder.path().join("cache/blobs/sha256")).expect("blobs");
    assert_eq!(blobs.count(), 4);
}

#[test]
fn what_nobody_named_goes_when_it_is_old_or_with_reset() {
    let fixture = Fixture::new();
    export(&fixture, &place(&fixture, "a"), b"one");
    let put = |bytes: &[u8], age: u64| {
        let path = place(&fixture, "a").path_of(&Digest::of(bytes));
        std::fs::write(&path, bytes).expect("a file");
        let file = File::options().write(true).open(&path).expect("it");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("its time");
    };
    put(b"old", 2 * 60 * 60);
    put(b"another's", 60);
    export(&fixture, &place(&fixture, "a"), b"two");
    assert!(!has(&fixture, b"old") && has(&fixture, b"another's"));
    let mut reset = place(&fixture, "a");
    reset.at.reset = true;
    export(&fixture, &reset, b"two");
    assert!(has(&fixture, b"two") && !has(&fixture, b"another's"));
}

#[test]
fn what_another_export_has_written_so_far_stays() {
    let fixture = Fixture::new();
    let (slow, fast) = (
        place(&fixture, "slow"),
        LocalPlace::new(
            LocalCache { reset: true, ..place(&fixture, "fast").at },
            CacheForm::Manifest,
            fixture.cancel.clone(),
        ),
    );
    let (blob, open) = fixture.blob(b"of the slow");
    slow.write(&blob, &open).expect("written");
    export(&fixture, &fast, b"of the fast");
    assert!(has(&fixture, b"of the slow"));
    slow.publish(b"{}", &[blob]).expect("published");
    assert_eq!(fast.configs().expect("configs").len(), 1);
    assert_eq!(slow.configs().expect("configs"), [b"{}".to_vec()]);
}

#[test]
fn many_exports_at_once_lose_nothing() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..5 {
                    let layer = format!("{i} {round}").into_bytes();
                    export(fixture, &place(fixture, &i.to_string()), &layer);
                }
            });
        }
    });
    for i in 0..8 {
        let place = place(&fixture, &i.to_string());
        assert_eq!(place.configs().expect("configs"), [format!("{i} 4").into_bytes()]);
        let (blob, _) = fixture.blob(format!("{i} 4").as_bytes());
        assert_eq!(read(&place, &blob).expect("its layer"), format!("{i} 4").as_bytes());
    }
    let index = place(&fixture, "0").index().expect("an index").expect("it");
    let tags: BTreeMap<&str, u64> =
        index.manifests.iter().filter_map(|d| Some((tag_of(d)?, d.size))).collect();
    assert_eq!((index.manifests.len(), tags.len()), (8, 8));
}

#[test]
fn what_is_broken_is_an_error_that_names_the_file_and_is_not_overwritten() {
    let fixture = Fixture::new();
    let place = place(&fixture, "a");
    let manifest = export(&fixture, &place, b"one");
    let index = place.index_path();
    let good = std::fs::read(&index).expect("an index");
    for broken in ["no JSON", "[]", r#"{"manifests":7}"#] {
        std::fs::write(&index, broken).expect("written");
        let text = place.configs().expect_err("an error").to_string();
        assert!(text.contains("index.json: it is no index"), "{text}");
        assert!(place.publish(b"{}", &[]).is_err());
        assert_eq!(std::fs::read(&index).expect("it"), broken.as_bytes());
    }
    std::fs::write(&index, good).expect("written");
    let path = place.path_of(&manifest.digest);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("writable");
    std::fs::write(&path, "other").expect("written");
    let text = place.configs().expect_err("an error").to_string();
    assert!(text.contains(&manifest.digest.hex()) && text.contains("its digest is"), "{text}");
}

#[test]
fn a_blob_that_is_not_what_it_should_be_is_not_kept() {
    let fixture = Fixture::new();
    let place = place(&fixture, "a");
    let (blob, _) = fixture.blob(b"right");
    let (_, wrong) = fixture.blob(b"wrong");
    assert!(matches!(place.write(&blob, &wrong), Err(CacheError::Layout(_))));
    assert!(!has(&fixture, b"right") && !has(&fixture, b"wrong"));
}

#[test]
fn a_lock_that_is_held_is_waited_for_until_the_build_is_cancelled() {
    let fixture = Fixture::new();
    let place = place(&fixture, "a");
    std::fs::create_dir_all(&place.at.folder).expect("a folder");
    let lock = File::create(place.at.folder.join("index.json.lock")).expect("a lock");
    assert!(lock.try_lock().is_ok());
    fixture.cancelled_while(|| {
        let error = place.publish(b"{}", &[]);
        assert!(matches!(error, Err(CacheError::Canceled)), "{error:?}");
    });
}
