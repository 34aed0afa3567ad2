//! `COUNTERS`: which packet counters of our own keys are reserved. They outlive the process that uses them, so that no
//! (key, counter) pair is ever used twice.
//!
//! A worker stores the end of a block *before* it uses any counter of the block. After a crash it goes on past that
//! end, whatever it had used. Control makes a block usable by writing the key's id into it, once, for a new key.

use crate::layout::MAX_QUEUES;
use crate::view::{Mapped, Shared};
use core::mem::size_of;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use gemcast_proto::id::KeyId;
use std::io;
use std::os::fd::AsFd;

/// Counters reserved at a time.
pub const BLOCK: u64 = 1 << 16;

/// One value of `COUNTERS`: the counters of one own key, a lane for each worker.
#[repr(C)]
pub struct CounterBlock {
    /// The key these counters belong to; 0 for none.
    key_id: AtomicU64,
    /// First sequence number of each lane that is not reserved.
    lanes: [AtomicU64; MAX_QUEUES as usize],
}

// SAFETY: repr(C), atomics only.
#[allow(unsafe_code)]
unsafe impl Shared for CounterBlock {}

const _: () = assert!(size_of::<CounterBlock>() == 136);

/// A mapped `COUNTERS`.
pub struct Counters(Mapped<CounterBlock>);

impl Counters {
    /// Maps `blocks` blocks of `COUNTERS`.
    pub fn new(map: impl AsFd, blocks: usize) -> io::Result<Self> {
        Mapped::new(map, blocks).map(Self)
    }

    /// Private ones, for tests and benchmarks.
    pub fn anonymous(blocks: usize) -> io::Result<Self> {
        Mapped::anonymous(blocks).map(Self)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.0.len()
    }

    /// Blocks in use, and the keys they belong to.
    pub fn owners(&self) -> impl Iterator<Item = (u32, KeyId)> {
        let owners = self.0.iter().map(|block| block.key_id.load(Ordering::Acquire));
        (0..).zip(owners).filter(|(_, key_id)| *key_id != 0).map(|(block, key_id)| (block, KeyId(key_id as u32)))
    }

    /// Gives a free block to a new key; `None` when every block is in use. For control, and only for a key that has never
    /// sealed: the counters start over.
    pub fn allocate(&self, key_id: KeyId) -> Option<u32> {
        let (index, block) = self.0.iter().enumerate().find(|(_, block)| block.key_id.load(Ordering::Acquire) == 0)?;
        for lane in &block.lanes {
            lane.store(1, Ordering::Relaxed);
        }
        block.key_id.store(u64::from(key_id.0), Ordering::Release);
        u32::try_from(index).ok()
    }

    /// Frees the block of a key that never seals again.
    pub fn release(&self, block: u32, key_id: KeyId) {
        if let Some(block) = self.0.get(block as usize) {
            let _ = block.key_id.compare_exchange(u64::from(key_id.0), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Reserves the next [`BLOCK`] sequence numbers of a lane. `None` when the block is not this key's.
    pub fn reserve(&self, block: u32, key_id: KeyId, lane: u8) -> Option<Range<u64>> {
        let block = self.0.get(block as usize)?;
        if block.key_id.load(Ordering::Acquire) != u64::from(key_id.0) {
            return None;
        }
        let start = block.lanes.get(usize::from(lane))?.fetch_add(BLOCK, Ordering::AcqRel);
        // The block may have changed hands since it was looked at: then the range belongs to the other key.
        if block.key_id.load(Ordering::Acquire) != u64::from(key_id.0) {
            return None;
        }
        (start > 0).then(|| start..start + BLOCK)
    }

    /// Sequence numbers reserved so far, all lanes together: an upper bound of the packets sealed.
    pub fn reserved(&self, block: u32, key_id: KeyId) -> Option<u64> {
        self.lanes(block, key_id).map(|lanes| lanes.iter().map(|lane| lane.saturating_sub(1)).sum())
    }

    /// First sequence number of each lane that is not reserved. It never falls. `None` when the block is not this key's.
    pub fn lanes(&self, block: u32, key_id: KeyId) -> Option<[u64; MAX_QUEUES as usize]> {
        let block = self.0.get(block as usize)?;
        let lanes = core::array::from_fn(|lane| block.lanes[lane].load(Ordering::Relaxed));
        (block.key_id.load(Ordering::Acquire) == u64::from(key_id.0)).then_some(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_never_given_twice() {
        let counters = Counters::anonymous(2).unwrap();
        let block = counters.allocate(KeyId(7)).unwrap();
        assert_eq!(counters.reserve(block, KeyId(7), 0), Some(1..1 + BLOCK));
        assert_eq!(counters.reserve(block, KeyId(7), 0), Some(1 + BLOCK..1 + 2 * BLOCK));
        assert_eq!(counters.reserve(block, KeyId(7), 1), Some(1..1 + BLOCK));
        assert_eq!(counters.reserved(block, KeyId(7)), Some(3 * BLOCK));
    }

    #[test]
    fn a_block_serves_only_its_key() {
        let counters = Counters::anonymous(2).unwrap();
        let first = counters.allocate(KeyId(7)).unwrap();
        assert_eq!(counters.reserve(first, KeyId(8), 0), None);
        counters.release(first, KeyId(8));
        assert!(counters.reserve(first, KeyId(7), 0).is_some(), "released by another key only");
        let second = counters.allocate(KeyId(8)).unwrap();
        assert_ne!(first, second);
        assert_eq!(counters.allocate(KeyId(9)), None);
        counters.release(first, KeyId(7));
        assert_eq!(counters.reserve(first, KeyId(7), 0), None);
        assert_eq!(counters.allocate(KeyId(9)), Some(first));
        assert_eq!(counters.owners().collect::<std::vec::Vec<_>>(), [(first, KeyId(9)), (second, KeyId(8))]);
    }

    #[test]
    fn bounds_are_checked() {
        let counters = Counters::anonymous(1).unwrap();
        let block = counters.allocate(KeyId(7)).unwrap();
        assert_eq!(counters.reserve(block, KeyId(7), 16), None);
        assert_eq!(counters.reserve(9, KeyId(7), 0), None);
    }
}
