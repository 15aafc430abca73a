//! Claims about the built binary, each a test that runs it as a process.

mod advice;
mod ahead;
mod as_buildkit;
mod attestations;
mod bounded;
mod cache_mounts;
mod caching;
mod contexts;
mod debug;
mod devices;
mod docker_daemon;
mod early_cut_off;
mod estargz;
mod examples;
mod explain;
mod failures;
mod faulty_registry;
mod fsck;
mod full_disk;
mod image_commands;
mod image_commands_archives;
mod image_commands_copy;
mod image_commands_files;
mod image_commands_manifest;
mod instructions;
mod interruption;
mod layouts;
mod lazy_bases;
mod lock;
mod many_processes;
mod memory;
mod mistake_table;
mod mistakes;
mod multi_platform;
mod mutation;
mod output_names;
mod output_options;
mod outputs;
mod pull_policy;
mod registries;
mod registry_config;
mod registry_login;
mod remote_contexts;
mod same_digest;
mod shared_cache;
mod ssh;
mod store;

use kiln_tests::{Registry, TestContext};

/// The base of tests that need one: busybox in the shared registry.
fn busybox() -> String {
    Registry::shared().busybox()
}

/// A context whose Dockerfile is `text`, with `@` for the reference of busybox.
fn on_busybox(text: &str) -> TestContext {
    TestContext::with_dockerfile(&text.replace('@', &busybox()))
}

/// No arguments.
const NONE: [&str; 0] = [];
