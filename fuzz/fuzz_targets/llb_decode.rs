//! Runs the claims of `claims/llb_decode.rs` on what libFuzzer makes up. It knows nothing of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kiln_fuzz::llb_decode::check(data));
