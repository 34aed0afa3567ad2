//! Round-trip time of a link from timestamps in Hellos and IHUs (RFC 9616), without synchronised clocks.

use crate::time::Instant;
use core::time::Duration;

/// An echo older than this says nothing about the link now.
const ECHO_LIFETIME: Duration = Duration::from_secs(60);
/// A sample longer than this is a clock that jumped.
const MAX_SAMPLE_US: u32 = 10_000_000;

/// Low 32 bits of a clock in microseconds, as timestamps travel.
pub(crate) fn timestamp(now: Instant) -> u32 {
    u32::try_from(now.0 & u64::from(u32::MAX)).expect("masked")
}

/// What is known about one neighbour's timestamps.
#[derive(Clone, Copy, Default)]
pub(crate) struct RoundTrip {
    /// Its last Hello: when it says it was sent, when it came in.
    last_hello: Option<(u32, Instant)>,
    smoothed_us: Option<u32>,
}

impl RoundTrip {
    /// A Hello with a timestamp came in.
    pub(crate) fn received_hello(&mut self, now: Instant, sent_us: u32) {
        self.last_hello = Some((sent_us, now));
    }

    /// What our next IHU tells it.
    pub(crate) fn echo(&self, now: Instant) -> Option<(u32, u32)> {
        let (sent_us, received) = self.last_hello?;
        (now - received < ECHO_LIFETIME).then(|| (sent_us, timestamp(received)))
    }

    /// An IHU echoed our Hello, in the same packet as a Hello sent at `sent_us`.
    pub(crate) fn received_echo(&mut self, now: Instant, (origin_us, received_us): (u32, u32), sent_us: u32) {
        let total = timestamp(now).wrapping_sub(origin_us);
        let held = sent_us.wrapping_sub(received_us);
        let Some(sample) = total.checked_sub(held).filter(|_| total <= MAX_SAMPLE_US) else { return };
        // RFC 9616 §3.3: exponential average with weight 0.836.
        let smoothed =
            self.smoothed_us.map_or(u64::from(sample), |old| (u64::from(old) * 836 + u64::from(sample) * 164) / 1000);
        self.smoothed_us = u32::try_from(smoothed).ok();
    }

    /// The smoothed round-trip time.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed_us.map(|us| Duration::from_micros(us.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_neighbour_held_the_echo_is_not_the_links() {
        let mut round_trip = RoundTrip::default();
        // We sent at 1000; it received at 77000 of its clock, answered at 97000; we are at 31000: 30 ms − 20 ms.
        round_trip.received_echo(Instant(31_000), (1_000, 77_000), 97_000);
        assert_eq!(round_trip.smoothed(), Some(Duration::from_millis(10)));
        // A clock that wraps changes nothing, one that lies is ignored.
        let wrapped = u32::MAX - 999;
        round_trip.received_echo(Instant((1 << 32) + 29_000), (u32::MAX - 999, wrapped), 19_000);
        assert_eq!(round_trip.smoothed(), Some(Duration::from_millis(10)));
        round_trip.received_echo(Instant(31_000), (1_000, 0), 40_000);
        assert_eq!(round_trip.smoothed(), Some(Duration::from_millis(10)));
    }
}
