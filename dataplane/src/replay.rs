//! Replay window of one lane of one key, after RFC 6479: a ring of 64-bit blocks, so that advancing clears whole blocks
//! and shifts nothing.
//!
//! Checking and marking are apart: a packet is checked before it is decrypted and marked only when it proved authentic.

use gemcast_proto::reason::Reason;

/// Default number of packets behind the newest that are still accepted.
pub const DEFAULT_WINDOW: usize = 8192;
const BLOCK_BITS: u64 = 64;

/// Sequence numbers seen so far. Sequence numbers start at 1.
pub struct ReplayWindow {
    /// Highest sequence number marked.
    top: u64,
    /// One block more than the window covers: the one that is being entered.
    blocks: Box<[u64]>,
    window: u64,
}

impl ReplayWindow {
    /// A window that accepts `window` packets (rounded up to whole blocks, at least one) behind the newest. Everything up
    /// to `top` counts as seen: 0 for a new key.
    pub fn new(window: usize, top: u64) -> Self {
        let blocks = (window as u64).div_ceil(BLOCK_BITS).max(1) + 1;
        // A power of two, so that the ring index is a mask.
        let blocks = blocks.next_power_of_two();
        Self {
            top,
            blocks: vec![if top == 0 { 0 } else { u64::MAX }; blocks as usize].into(),
            window: window.max(1) as u64,
        }
        .cleared_above(top)
    }

    fn cleared_above(mut self, top: u64) -> Self {
        if top != 0 {
            // In the block of `top`, what lies above it is not seen yet.
            let index = self.index(top);
            self.blocks[index] = u64::MAX >> (BLOCK_BITS - 1 - top % BLOCK_BITS);
        }
        self
    }

    #[inline]
    fn index(&self, seq: u64) -> usize {
        (seq / BLOCK_BITS) as usize & (self.blocks.len() - 1)
    }

    /// Whether a sequence number may still be accepted.
    #[inline]
    pub fn check(&self, seq: u64) -> Result<(), Reason> {
        if seq > self.top {
            return Ok(());
        }
        if seq == 0 || self.top - seq >= self.window {
            return Err(Reason::TooOld);
        }
        if self.blocks[self.index(seq)] & (1 << (seq % BLOCK_BITS)) != 0 { Err(Reason::Replay) } else { Ok(()) }
    }

    /// Marks a sequence number that passed [`ReplayWindow::check`] and whose packet is authentic. `true` when it is the new
    /// highest.
    #[inline]
    pub fn mark(&mut self, seq: u64) -> bool {
        let newest = seq > self.top;
        if newest {
            let blocks = self.blocks.len() as u64;
            let entered = (seq / BLOCK_BITS - self.top / BLOCK_BITS).min(blocks);
            for step in 0..entered {
                let index = self.index(seq - step * BLOCK_BITS);
                self.blocks[index] = 0;
            }
            self.top = seq;
        }
        let index = self.index(seq);
        self.blocks[index] |= 1 << (seq % BLOCK_BITS);
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What a window must do, told with a set.
    struct Model {
        window: u64,
        top: u64,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, seq: u64) -> Result<(), Reason> {
            if seq == 0 || (seq <= self.top && self.top - seq >= self.window) {
                return Err(Reason::TooOld);
            }
            if !self.seen.insert(seq) {
                return Err(Reason::Replay);
            }
            self.top = self.top.max(seq);
            Ok(())
        }
    }

    fn accept(window: &mut ReplayWindow, seq: u64) -> Result<(), Reason> {
        window.check(seq).map(|()| {
            window.mark(seq);
        })
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            size in 1usize..300,
            steps in prop::collection::vec((any::<bool>(), 0u64..400), 1..400),
        ) {
            let mut window = ReplayWindow::new(size, 0);
            let mut model = Model { window: size as u64, top: 0, seen: BTreeSet::new() };
            for (ahead, distance) in steps {
                let seq = if ahead { model.top + distance } else { model.top.saturating_sub(distance) };
                prop_assert_eq!(accept(&mut window, seq), model.accept(seq), "seq {}", seq);
            }
        }

        #[test]
        fn goes_on_after_a_restart(top in 1u64..1_000_000, ahead in 1u64..300) {
            let mut window = ReplayWindow::new(128, top);
            for old in top.saturating_sub(200)..=top {
                prop_assert!(window.check(old).is_err(), "{} was accepted before the restart", old);
            }
            prop_assert_eq!(accept(&mut window, top + ahead), Ok(()));
            prop_assert_eq!(accept(&mut window, top + ahead), Err(Reason::Replay));
            for between in top + 1..top + ahead {
                if top + ahead - between < 128 {
                    prop_assert_eq!(window.check(between), Ok(()), "{} was never seen", between);
                }
            }
        }
    }

    #[test]
    fn a_jump_over_the_whole_ring_forgets_everything_before_it() {
        let mut window = ReplayWindow::new(64, 0);
        for seq in 1..=64 {
            assert_eq!(accept(&mut window, seq), Ok(()));
        }
        assert_eq!(accept(&mut window, 1 << 40), Ok(()));
        assert_eq!(accept(&mut window, (1 << 40) - 63), Ok(()));
        assert_eq!(accept(&mut window, (1 << 40) - 64), Err(Reason::TooOld));
    }
}
