//! How much memory a piece of work holds at once. It does not know the work, nor how much it may hold.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Does the work, and says how many bytes it held at most beyond those that were held before. A block
/// that grows counts twice while it is copied.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let value = work();
    (value, ALLOCATOR.peak_usage().saturating_sub(before))
}
