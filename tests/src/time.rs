//! Durations as tests write them, `5.s()`, and the one clock that sender and receiver share.

use std::time::Duration;

/// `5.s()` and `200.ms()`.
pub trait Seconds {
    /// That many seconds.
    fn s(self) -> Duration;
    /// That many milliseconds.
    fn ms(self) -> Duration;
}

impl Seconds for u64 {
    fn s(self) -> Duration {
        Duration::from_secs(self)
    }

    fn ms(self) -> Duration {
        Duration::from_millis(self)
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which every process and namespace of the machine reads alike.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
