//! Waiting for something to become true, with an end to the patience.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine with two cores.
pub const LONG: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`LONG`]; `what` says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// [`until`] for a condition.
///
/// # Panics
/// When it does not hold within [`LONG`].
#[track_caller]
pub fn holds(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Ends what other threads do until a flag is set, also when a test fails: a scope waits for them.
#[derive(Debug)]
pub struct Stop<'a>(&'a AtomicBool);

impl<'a> Stop<'a> {
    /// Sets that flag when it is dropped.
    #[must_use]
    pub fn at(flag: &'a AtomicBool) -> Self {
        Self(flag)
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
