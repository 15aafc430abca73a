//! Claims about layers whose tar comes later: they are the same layers, and unfinished until then.

use super::*;
use crate::reuse::tests::copy_in;
use crate::testing::Bench;

const MADE: &str = "rm -rf s; mkdir s; head -c 1000000 /dev/zero > s/big; ln s/big s/second; head -c 20000000 /dev/zero > large; echo a > a";

/// Begins the commit of a copy of what `script` makes, after one of [`MADE`].
fn begun(bench: &Bench, script: &str) -> Begun {
    let (active, _) = copy_in(bench, MADE, None);
    let first = bench.store.commit(active, &[], &CommitOptions::default()).unwrap();
    let (active, earlier) = copy_in(bench, script, Some(&first));
    bench.store.begin_commit(active, &[], &CommitOptions::default(), earlier.as_ref()).unwrap()
}

#[test]
fn a_layer_whose_tar_comes_later_is_the_layer_that_it_would_be() {
    let bench = Bench::new();
    // Two names of one new file are read as well.
    let script = "echo A > a; rm s/second; echo x > s/x; ln s/x s/y";
    let Begun::Digesting(mut layer) = begun(&bench, script) else { panic!("there is enough to be read") };
    let (id, content) = (layer.id(), layer.content());
    let index = bench.store.index(&id).unwrap();
    assert!(bench.store.mount_readonly(&[id]).unwrap().root().unwrap().stat(b"d/large", false).is_ok());
    assert!(!bench.store.ids().contains(&id), "it is not finished");
    // Where the tar goes may fail: then it is done once more.
    assert!(bench.store.complete(&mut layer, Some(&mut &mut [0; 1000][..])).is_err());
    let mut tar = Vec::new();
    let done = bench.store.complete(&mut layer, Some(&mut tar)).unwrap();
    assert_eq!((Digest::of(&tar), tar.len() as u64), (done.diff_id.0, done.tar_bytes));
    drop(layer);
    assert!(bench.store.ids().contains(&id));
    let (active, _) = copy_in(&bench, ":", None);
    let plain = bench.store.commit(active, &[], &CommitOptions::default()).unwrap();
    assert_eq!((done.diff_id, done.tar_bytes), (plain.diff_id, plain.tar_bytes));
    assert_eq!((content, &index, &done.index), (plain.content, &plain.index, &plain.index));
    assert_eq!(Snapshotter::open(&bench.store.path).unwrap().index(&id).unwrap(), plain.index);
}

#[test]
fn one_that_is_given_up_leaves_nothing() {
    let bench = Bench::new();
    let Begun::Digesting(layer) = begun(&bench, "echo A > a") else { panic!("there is enough to be read") };
    let id = layer.id();
    // Another process does not take it for a dead one's.
    Snapshotter::open(&bench.store.path).unwrap().sweep().unwrap();
    assert!(bench.store.path.join(id.to_string()).exists());
    drop(layer);
    assert!(!bench.store.path.join(id.to_string()).exists());
    assert!(matches!(bench.store.index(&id), Err(SnapshotError::Unknown(_))));
}

#[test]
fn what_is_read_anyway_is_read_once() {
    let bench = Bench::new();
    // Most of it is new, so that the tar costs nothing more.
    assert!(matches!(begun(&bench, "head -c 20000001 /dev/zero > large"), Begun::Done(_)));
    // And of a little there is nothing to be gained.
    assert!(matches!(begun(&bench, "rm -r s large; echo b > b"), Begun::Done(_)));
}
