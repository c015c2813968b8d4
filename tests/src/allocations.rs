//! An allocator that counts, for each thread, the bytes that it holds and the most that it held.
//!
//! For tests that say "no room for what was claimed" and "no growth".

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator with counters; a test program makes it its `#[global_allocator]`.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

fn count(bytes: isize) {
    LIVE.set(LIVE.get().wrapping_add(bytes));
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: every call goes to the system's allocator as it came; counting touches thread-local cells without
// destructors, which allocate nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The bytes that this thread has allocated and not freed.
#[must_use]
pub fn live() -> isize {
    LIVE.get()
}

/// Runs it, and gives how many bytes more than before this thread held at the most.
pub fn peak<T>(run: impl FnOnce() -> T) -> (T, isize) {
    let before = live();
    PEAK.set(before);
    let result = run();
    (result, PEAK.get() - before)
}
