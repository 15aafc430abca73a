//! Runs the claims of `claims/mount_flag.rs` on what libFuzzer makes up. It knows nothing of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_fuzz::mount_flag::check(data));
