//! `SYNC`: one entry through which the processes see each other's versions, changes and life.

use crate::view::{Mapped, Shared};
use crate::{LAYOUT_VERSION, layout::MAX_QUEUES};
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use gemcast_proto::id::KeyId;
use std::io;
use std::os::fd::AsFd;

/// Removed keys that are remembered.
pub const REMOVED_KEYS: usize = 1024;

/// The single value of `SYNC`.
#[repr(C)]
pub struct SyncPage {
    /// [`LAYOUT_VERSION`] of the maps; 0 until the data plane that made them has finished.
    pub layout_version: AtomicU64,
    /// Random number drawn when the maps were made: another value means another set of maps, without any history.
    pub incarnation: AtomicU64,
    /// Slots of `SEKS`, a power of two.
    pub sek_slots: AtomicU64,
    /// Blocks of `COUNTERS`.
    pub counter_blocks: AtomicU64,
    /// Data planes that have used these maps so far.
    pub lives: AtomicU64,
    /// Random key of the hash that places keys in `SEKS`.
    pub hash_key: [AtomicU64; 2],
    reserved: AtomicU64,
    /// Counts changes to `SEKS`; bumped by control after each batch of writes. Alone on its cache line.
    generation: AtomicU64,
    reserved2: [AtomicU64; 7],
    /// Control's last sign of life, milliseconds of CLOCK_BOOTTIME.
    pub control_heartbeat_ms: AtomicU64,
    reserved3: [AtomicU64; 7],
    /// The workers' last signs of life, milliseconds of CLOCK_BOOTTIME; 0 for a worker that does not run.
    pub worker_heartbeat_ms: [AtomicU64; MAX_QUEUES as usize],
    /// Keys removed so far; the next one goes to this place of the ring. Written by control.
    removals: AtomicU64,
    reserved4: [AtomicU64; 7],
    /// Ids of the keys removed last, 0 for none. One of them that is in `SEKS` is back.
    removed: [AtomicU32; REMOVED_KEYS],
}

// SAFETY: repr(C), atomics only.
#[allow(unsafe_code)]
unsafe impl Shared for SyncPage {}

const _: () = {
    assert!(size_of::<SyncPage>() == 4480);
    assert!(offset_of!(SyncPage, generation) == 64);
    assert!(offset_of!(SyncPage, control_heartbeat_ms) == 128);
    assert!(offset_of!(SyncPage, removed) == 384);
};

/// A mapped `SYNC`.
pub struct Sync(Mapped<SyncPage>);

impl Sync {
    /// Maps `SYNC`.
    pub fn new(map: impl AsFd) -> io::Result<Self> {
        Mapped::new(map, 1).map(Self)
    }

    /// A private one, for tests and benchmarks.
    pub fn anonymous() -> io::Result<Self> {
        Mapped::anonymous(1).map(Self)
    }

    /// The page.
    pub fn page(&self) -> &SyncPage {
        &self.0[0]
    }

    /// Key of the hash that places keys in `SEKS`.
    pub fn hash_key(&self) -> [u64; 2] {
        self.page().hash_key.each_ref().map(|half| half.load(Ordering::Relaxed))
    }

    /// Sets that key, before [`Sync::initialize`].
    pub fn set_hash_key(&self, key: [u64; 2]) {
        self.page().hash_key.iter().zip(key).for_each(|(half, value)| half.store(value, Ordering::Relaxed));
    }

    /// Describes freshly made maps. The layout version goes last: until then nobody trusts the rest.
    pub fn initialize(&self, incarnation: u64, sek_slots: u64, counter_blocks: u64) {
        let page = self.page();
        page.incarnation.store(incarnation, Ordering::Relaxed);
        page.sek_slots.store(sek_slots, Ordering::Relaxed);
        page.counter_blocks.store(counter_blocks, Ordering::Relaxed);
        page.layout_version.store(u64::from(LAYOUT_VERSION), Ordering::Release);
    }

    /// Whether the maps are of this layout and complete.
    pub fn is_current(&self) -> bool {
        self.page().layout_version.load(Ordering::Acquire) == u64::from(LAYOUT_VERSION)
    }

    /// The number of changes to `SEKS` so far. What was written before a change is visible after this.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.page().generation.load(Ordering::Acquire)
    }

    /// Remembers that a key was removed, in place of the one longest ago. One writer only.
    pub fn note_removed(&self, key_id: KeyId) {
        let page = self.page();
        let place = page.removals.fetch_add(1, Ordering::Relaxed) as usize % REMOVED_KEYS;
        page.removed[place].store(key_id.0, Ordering::Relaxed);
    }

    /// Whether a key is one of the last [`REMOVED_KEYS`] that were removed.
    pub fn was_removed(&self, key_id: KeyId) -> bool {
        self.page().removed.iter().any(|removed| removed.load(Ordering::Relaxed) == key_id.0)
    }

    /// Tells the workers that `SEKS` changed.
    pub fn bump_generation(&self) {
        self.page().generation.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_removed_keys_are_remembered_until_so_many_more_are() {
        let sync = Sync::anonymous().unwrap();
        let last = REMOVED_KEYS as u32 + 1;
        (1..last).for_each(|id| sync.note_removed(KeyId(id)));
        assert!((1..last).all(|id| sync.was_removed(KeyId(id))));
        assert!(!sync.was_removed(KeyId(last)));
        sync.note_removed(KeyId(last));
        assert!(sync.was_removed(KeyId(last)) && !sync.was_removed(KeyId(1)) && sync.was_removed(KeyId(2)));
    }
}
