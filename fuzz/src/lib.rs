//! What the fuzz targets share: the claims, and an allocator that counts. It does not know libFuzzer.

pub mod meter;

#[path = "../claims/assembler.rs"]
pub mod assembler;
#[path = "../claims/expansion.rs"]
pub mod expansion;
#[path = "../claims/git_address.rs"]
pub mod git_address;
#[path = "../claims/grammar.rs"]
pub mod grammar;
#[path = "../claims/ignore.rs"]
pub mod ignore;
#[path = "../claims/llb_decode.rs"]
pub mod llb_decode;
#[path = "../claims/lowering.rs"]
pub mod lowering;
#[path = "../claims/memory.rs"]
pub mod memory;
#[path = "../claims/mount_flag.rs"]
pub mod mount_flag;
#[path = "../claims/tree.rs"]
pub mod tree;
