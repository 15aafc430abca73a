//! How much memory kiln takes for layers that are larger than what it may take: they stream, whatever is done with
//! them. A bound on the highest mark of resident memory, as the kernel keeps it for each process.

use super::NONE;
use kiln_tests::{Invocation, Registry, TIME_LIMIT, TestContext};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// What no command may take. One that held the layer would.
const MEMORY_MAX: u64 = 200 << 20;
const LAYER_BYTES: u64 = 232 << 20;
const FILES: usize = 12_000;

/// Writes bytes that nothing compresses.
fn write_noise(path: &Path, bytes: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut file = File::create(path).expect("a file of the context");
    let mut block = Vec::with_capacity(1 << 20);
    for _ in 0..bytes >> 20 {
        block.clear();
        while block.len() < 1 << 20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            block.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
        }
        file.write_all(&block).expect("room on the disk");
    }
}

/// Runs a command, which must succeed, and gives the most memory that it had.
#[track_caller]
fn most_memory(command: Invocation) -> u64 {
    let mut running = command.start();
    let mut most = 0;
    while !running.has_ended() {
        most = most.max(running.memory_peak_bytes().unwrap_or_default());
        std::thread::sleep(Duration::from_millis(1));
    }
    let finished = running.wait(TIME_LIMIT).success();
    assert!(most > 1 << 20, "it was never seen: {finished}");
    assert!(most <= MEMORY_MAX, "{} MiB of memory: {finished}", most >> 20);
    most
}

#[test]
fn a_layer_larger_than_the_memory_is_built_written_pushed_and_pulled() {
    let registry = Registry::start();
    let name = registry.reference("large:1");
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY large /large\n");
    write_noise(&context.context().join("large"), LAYER_BYTES);
    let archive = format!("type=oci,dest={}", context.text("large.tar"));
    most_memory(context.building(["-t", &name, "-o", &archive, "-o", "type=image"]));
    most_memory(context.kiln(["push", "-q", &name]));
    let elsewhere = TestContext::new();
    most_memory(elsewhere.kiln(["pull", "-q", &name]));
    most_memory(elsewhere.kiln(["save", &name, "-o", &elsewhere.text("saved.tar")]));
    let third = TestContext::new();
    most_memory(third.kiln(["load", "-q", "-i", &elsewhere.text("saved.tar")]));
    // The other way in and out: a base whose layer a step reads, and whose files are written as a tar.
    third.write("Dockerfile", format!("FROM {name} AS base\nFROM scratch\nCOPY --from=base /large /again\n"));
    let files = format!("type=tar,dest={}", third.text("files.tar"));
    most_memory(third.building(["-o", &files]));
    let written = std::fs::metadata(third.path("files.tar")).expect("the tar").len();
    assert!(written > LAYER_BYTES, "{written}");
}

#[test]
fn a_tree_of_small_files_takes_little_memory() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY . /tree/\n");
    for i in 0..FILES {
        context.write(&format!("folder-{}/some/what/deeper/file-{i}.txt", i % 120), format!("{i}\n"));
    }
    let archive = format!("type=oci,dest={}", context.text("tree.tar"));
    most_memory(context.building(["-o", &archive]));
    context.build(NONE).success().says("CACHED");
}
