//! Time as the engine sees it: always an argument, never read.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// A point on the owner's monotonic clock, in microseconds since an arbitrary start. Timers use only this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// A point on the wall clock, in milliseconds since the Unix epoch. Only validity periods and versions use this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

/// Now, on both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Monotonic, for timers.
    pub mono: Instant,
    /// Wall clock, for validity.
    pub wall: UnixMillis,
}

impl Now {
    /// How far the wall clock is ahead of the monotonic one, in milliseconds; it changes when the wall clock is set.
    pub(crate) fn clock_offset(self) -> i64 {
        self.wall.0.wrapping_sub(self.mono.0 / 1000).cast_signed()
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Time since `earlier`; zero when `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for UnixMillis {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl fmt::Debug for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}
