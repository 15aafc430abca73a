//! Runs the claims of `claims/git_address.rs` on what libFuzzer makes up. It knows nothing of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_fuzz::git_address::check(data));
