//! What a link does to the packets that it carries.

use core::time::Duration;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

/// Faults of a link. Probabilities are in per mille, so that equal seeds mean equal runs on every machine.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Packets lost, each receiver on its own.
    pub loss_per_mille: u32,
    /// Packets that arrive twice.
    pub duplicate_per_mille: u32,
    /// Packets with a flipped bit.
    pub corrupt_per_mille: u32,
    /// Time on the way.
    pub delay: Duration,
    /// Added to it, evenly between nothing and this: packets overtake each other.
    pub jitter: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            corrupt_per_mille: 0,
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
        }
    }
}

impl Faults {
    /// Loses this share of packets.
    pub fn loss(percent: u32) -> Self {
        Self { loss_per_mille: percent * 10, ..Self::default() }
    }

    /// A bit of everything.
    pub fn rough() -> Self {
        Self {
            loss_per_mille: 100,
            duplicate_per_mille: 50,
            corrupt_per_mille: 10,
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(40),
        }
    }

    /// The delays after which copies of a packet arrive: none, one or two.
    pub(super) fn copies(&self, rng: &mut ChaCha8Rng) -> Vec<Duration> {
        if chance(rng, self.loss_per_mille) {
            return vec![];
        }
        let copies = if chance(rng, self.duplicate_per_mille) { 2 } else { 1 };
        let jitter_us = u64::try_from(self.jitter.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        (0..copies).map(|_| self.delay + Duration::from_micros(rng.next_u64() % jitter_us)).collect()
    }

    /// The packet, perhaps damaged.
    pub(super) fn damage(&self, rng: &mut ChaCha8Rng, payload: &mut [u8]) {
        if !payload.is_empty() && chance(rng, self.corrupt_per_mille) {
            let bit = usize::try_from(rng.next_u64() % (8 * payload.len() as u64)).expect("below a usize");
            payload[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

fn chance(rng: &mut ChaCha8Rng, per_mille: u32) -> bool {
    rng.next_u32() % 1000 < per_mille
}
