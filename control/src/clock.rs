//! The clocks and the randomness that the engine is not allowed to read for itself.

use gemcast_engine::time::{Instant, Now, UnixMillis};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

/// No machine that runs this version has a clock before: the first of 2026, Unix milliseconds.
pub const EARLIEST_MS: u64 = 1_767_225_600_000;

/// Now, on both clocks. The monotonic one goes on while the machine sleeps, so that a key's life does too.
pub fn now() -> Now {
    let mono = clock_gettime(ClockId::Boottime);
    let wall = clock_gettime(ClockId::Realtime);
    Now {
        mono: Instant(to_u64(mono.tv_sec) * 1_000_000 + to_u64(mono.tv_nsec) / 1_000),
        wall: UnixMillis(to_u64(wall.tv_sec) * 1_000 + to_u64(wall.tv_nsec) / 1_000_000),
    }
}

/// A seed for the engine's generator, from the operating system.
pub fn seed() -> Result<Zeroizing<[u8; 32]>, ring::error::Unspecified> {
    let mut seed = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *seed)?;
    Ok(seed)
}

/// A random number in `0.0..1.0`, to spread retries; not for secrets.
pub fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness retries are not spread, which is no reason to fail.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// Clocks before their epoch read as the epoch.
fn to_u64(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
