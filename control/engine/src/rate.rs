//! Rate limits: a token bucket that is one instant (the generic cell rate algorithm, ITU-T I.371).

use crate::time::Instant;
use core::time::Duration;

/// Allows one event per `interval` in the long run, and bursts of `burst` events.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
}

/// State of one limited thing: when the bucket will be full again.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bucket(Instant);

impl Bucket {
    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant, limit: Limit) -> bool {
        let allowed = self.has(now, limit);
        if allowed {
            self.charge(now, limit, 1);
        }
        allowed
    }

    /// Whether there is a token.
    pub(crate) fn has(&self, now: Instant, limit: Limit) -> bool {
        self.0 - now <= limit.interval * (limit.burst - 1)
    }

    /// Takes so many tokens more, whether or not they are there: what a thing that was allowed turned out to cost.
    pub(crate) fn charge(&mut self, now: Instant, limit: Limit, tokens: u32) {
        self.0 = self.0.max(now) + limit.interval * tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_afterwards_has_to_be_paid_off() {
        let limit = Limit { interval: Duration::from_millis(10), burst: 3 };
        let mut bucket = Bucket::default();
        assert!(bucket.take(Instant(100_000), limit));
        bucket.charge(Instant(100_000), limit, 4);
        assert!(!bucket.take(Instant(129_000), limit) && bucket.take(Instant(130_000), limit));
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let limit = Limit { interval: Duration::from_millis(10), burst: 3 };
        let mut bucket = Bucket::default();
        let passed = |bucket: &mut Bucket, at_ms: u64| bucket.take(Instant(at_ms * 1000), limit);
        assert_eq!((0..5).filter(|_| passed(&mut bucket, 100)).count(), 3);
        assert!(!passed(&mut bucket, 109) && passed(&mut bucket, 110) && !passed(&mut bucket, 111));
        assert_eq!((0..5).filter(|_| passed(&mut bucket, 10_000)).count(), 3);
    }
}
