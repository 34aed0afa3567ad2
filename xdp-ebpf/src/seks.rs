//! `SEKS`: the source encryption keys, written by control, read by every worker.
//!
//! An open-addressed table of 256-byte slots. A key that opens is looked up by its key id, a key that seals by its group:
//! each starts probing at the hash of what it is looked up by, under a random key of these maps: others choose key ids, and
//! could fill the chain of slots that a key of ours has to be in if they knew it. Every slot is a sequence lock: its number is odd while
//! it is being written, and a reader that sees it unchanged has read a whole record. There is one writer.

use crate::layout::MAX_QUEUES;
use crate::view::{Mapped, Shared};
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite};
use gemcast_proto::wire::siphash::siphash24;
use std::io;
use std::os::fd::AsFd;

/// Words of a record.
const WORDS: usize = 15;
/// Lanes of a key: sealing workers of its origin.
pub const LANES: usize = MAX_QUEUES as usize;
/// Slots looked at before a key counts as absent.
const PROBE_LIMIT: usize = 64;
/// Key id of a slot whose key was removed while others probe past it.
const REMOVED: u32 = KeyId::RESERVED[1];
const EMPTY: u32 = KeyId::RESERVED[0];

/// One slot of `SEKS`.
#[repr(C)]
pub struct SekSlot {
    sequence: AtomicU32,
    key_id: AtomicU32,
    words: [AtomicU64; WORDS],
    /// Highest sequence number accepted in each lane, stored by the worker that accepts them: a data plane that restarts
    /// goes on from here, so that nothing is accepted a second time. Zeroed when another key moves in.
    tops: [AtomicU64; LANES],
}

// SAFETY: repr(C), atomics only.
#[allow(unsafe_code)]
unsafe impl Shared for SekSlot {}

const _: () = {
    assert!(size_of::<SekSlot>() == 256);
    assert!(offset_of!(SekSlot, words) == 8);
    assert!(offset_of!(SekSlot, tops) == 128);
};

/// A key as it lies in a slot. Holds secrets: no `Debug`, and wiped by [`Sek::wipe`] or on drop.
pub struct Sek {
    /// Its id.
    pub key_id: KeyId,
    /// The node that made it.
    pub origin: NodeId,
    /// The group it protects.
    pub group: Group,
    /// The GAK epoch it is bound to.
    pub epoch: Epoch,
    /// Its AEAD.
    pub suite: Suite,
    /// What it is for.
    pub role: SekRole,
    /// End of its validity, milliseconds since the Unix epoch.
    pub not_after_ms: u64,
    /// Traffic key.
    pub key: [u8; 32],
    /// Nonce salt.
    pub salt: [u8; 12],
    /// Key of the group tag, for a key that seals; zero otherwise.
    pub gtag: [u8; 16],
}

/// What a key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SekRole {
    /// Opens packets of another gateway.
    Open,
    /// Ours: seals, when `active`, with the counters of this block.
    Seal {
        /// Block of `COUNTERS`.
        counter_block: u32,
        /// Whether it is the one in use for its group.
        active: bool,
    },
}

const FLAG_SEALS: u32 = 1;
const FLAG_ACTIVE: u32 = 2;

impl Drop for Sek {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Sek {
    /// Overwrites the secrets.
    pub fn wipe(&mut self) {
        for byte in self.key.iter_mut().chain(&mut self.salt).chain(&mut self.gtag) {
            *byte = 0;
        }
        // Keeps the stores above from being elided as dead.
        std::hint::black_box((&self.key, &self.salt, &self.gtag));
    }

    /// Whether two records are the same, secrets included.
    pub fn is_same(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.to_words(), other.to_words());
        let same = self.key_id == other.key_id && ours == theirs;
        ours.fill(0);
        theirs.fill(0);
        std::hint::black_box((&ours, &theirs));
        same
    }

    //  0  group address 16 | 16 prefix_len u8, suite u8, epoch u16, flags u32 | 24 origin 8 | 32 counter block u32,
    // 36 zero u32 | 40 not_after u64 | 48 key 32 | 80 salt 12, zero 4 | 96 gtag key 16 | 112 zero 8
    fn to_words(&self) -> [u64; WORDS] {
        let mut bytes = [0u8; WORDS * 8];
        let (flags, block) = match self.role {
            SekRole::Open => (0, 0),
            SekRole::Seal { counter_block, active } => {
                (FLAG_SEALS | if active { FLAG_ACTIVE } else { 0 }, counter_block)
            }
        };
        bytes[..16].copy_from_slice(self.group.mapped());
        bytes[16] = self.group.mapped_prefix_len();
        bytes[17] = self.suite as u8;
        bytes[18..20].copy_from_slice(&self.epoch.0.to_ne_bytes());
        bytes[20..24].copy_from_slice(&flags.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.origin.0);
        bytes[32..36].copy_from_slice(&block.to_ne_bytes());
        bytes[40..48].copy_from_slice(&self.not_after_ms.to_ne_bytes());
        bytes[48..80].copy_from_slice(&self.key);
        bytes[80..92].copy_from_slice(&self.salt);
        bytes[96..112].copy_from_slice(&self.gtag);
        let words = core::array::from_fn(|i| u64::from_ne_bytes(array(&bytes, i * 8)));
        bytes.fill(0);
        std::hint::black_box(&bytes);
        words
    }

    fn from_words(key_id: KeyId, words: &[u64; WORDS]) -> Option<Self> {
        let mut bytes = [0u8; WORDS * 8];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        let flags = u32::from_ne_bytes(array(&bytes, 20));
        let sek = (|| {
            Some(Self {
                key_id,
                origin: NodeId(array(&bytes, 24)),
                group: Group::from_mapped(array(&bytes, 0), bytes[16]).ok()?,
                epoch: Epoch(u16::from_ne_bytes(array(&bytes, 18))),
                suite: Suite::from_wire(bytes[17])?,
                role: if flags & FLAG_SEALS != 0 {
                    let counter_block = u32::from_ne_bytes(array(&bytes, 32));
                    SekRole::Seal { counter_block, active: flags & FLAG_ACTIVE != 0 }
                } else {
                    SekRole::Open
                },
                not_after_ms: u64::from_ne_bytes(array(&bytes, 40)),
                key: array(&bytes, 48),
                salt: array(&bytes, 80),
                gtag: array(&bytes, 96),
            })
        })();
        bytes.fill(0);
        std::hint::black_box(&bytes);
        sek
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    core::array::from_fn(|i| bytes[at + i])
}

impl SekSlot {
    /// The record, whole, and the sequence number it was read at. `None` while it is being written, when the slot is
    /// free, or when what is in it is no key.
    fn read(&self) -> Option<(u32, Sek)> {
        let before = self.sequence.load(Ordering::Acquire);
        if before % 2 == 1 {
            return None;
        }
        let key_id = self.key_id.load(Ordering::Relaxed);
        if key_id == EMPTY || key_id == REMOVED {
            return None;
        }
        let mut words: [u64; WORDS] = core::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let whole = self.sequence.load(Ordering::Relaxed) == before;
        let sek = if whole { Sek::from_words(KeyId(key_id), &words) } else { None };
        words.fill(0);
        std::hint::black_box(&words);
        sek.map(|sek| (before, sek))
    }

    fn write(&self, key_id: u32, words: &[u64; WORDS]) {
        // A crash in the middle of an earlier write left the number odd; this write ends it.
        let odd = self.sequence.load(Ordering::Relaxed) | 1;
        self.sequence.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        if self.key_id.swap(key_id, Ordering::Relaxed) != key_id {
            for top in &self.tops {
                top.store(0, Ordering::Relaxed);
            }
        }
        for (slot, word) in self.words.iter().zip(words) {
            slot.store(*word, Ordering::Relaxed);
        }
        self.sequence.store(odd.wrapping_add(1), Ordering::Release);
    }
}

/// Position of a slot in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotIndex(u32);

/// `SEKS` has no free slot within reach of a key's probe sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableFull;

impl std::fmt::Display for TableFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the key map is full (raise the data plane's --max-keys)")
    }
}

impl std::error::Error for TableFull {}

/// A mapped `SEKS`.
pub struct Seks {
    slots: Mapped<SekSlot>,
    mask: usize,
    hash_key: [u64; 2],
}

impl Seks {
    /// Places keys by a hash under this key, which is [`crate::sync::Sync::hash_key`]; without it, by one that is known.
    pub fn under(mut self, hash_key: [u64; 2]) -> Self {
        self.hash_key = hash_key;
        self
    }

    /// Maps `slots` slots, a power of two.
    pub fn new(map: impl AsFd, slots: usize) -> io::Result<Self> {
        assert!(slots.is_power_of_two(), "the number of slots is a power of two");
        Ok(Self { slots: Mapped::new(map, slots)?, mask: slots - 1, hash_key: [0; 2] })
    }

    /// A private table, for tests and benchmarks.
    pub fn anonymous(slots: usize) -> io::Result<Self> {
        assert!(slots.is_power_of_two(), "the number of slots is a power of two");
        Ok(Self { slots: Mapped::anonymous(slots)?, mask: slots - 1, hash_key: [0; 2] })
    }

    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.mask;
        (0..PROBE_LIMIT.min(mask + 1)).map(move |step| (hash as usize).wrapping_add(step) & mask)
    }

    fn start(&self, sek: &Sek) -> u64 {
        match sek.role {
            SekRole::Open => self.hash_key_id(sek.key_id),
            SekRole::Seal { .. } => self.hash_group(&sek.group),
        }
    }

    fn hash_key_id(&self, key_id: KeyId) -> u64 {
        let [k0, k1] = self.hash_key;
        siphash24(k0, k1, [], key_id.0.into(), 4)
    }

    fn hash_group(&self, group: &Group) -> u64 {
        let ([k0, k1], bytes) = (self.hash_key, group.mapped());
        let words = [0, 8].map(|at| u64::from_le_bytes(array(bytes, at)));
        siphash24(k0, k1, words, group.mapped_prefix_len().into(), 17)
    }

    fn find(&self, hash: u64, wanted: impl Fn(&Sek) -> bool, key_id: Option<KeyId>) -> Option<(SlotIndex, u32, Sek)> {
        for index in self.probe(hash) {
            let slot = &self.slots[index];
            let id = slot.key_id.load(Ordering::Relaxed);
            if id == EMPTY {
                return None;
            }
            if id == REMOVED || key_id.is_some_and(|wanted| wanted.0 != id) {
                continue;
            }
            if let Some((sequence, sek)) = slot.read()
                && wanted(&sek)
            {
                return Some((SlotIndex(index as u32), sequence, sek));
            }
        }
        None
    }

    /// The key that opens packets with this key id, its slot, and the sequence number it was read at.
    pub fn find_open(&self, key_id: KeyId) -> Option<(SlotIndex, u32, Sek)> {
        self.find(self.hash_key_id(key_id), |sek| sek.role == SekRole::Open, Some(key_id))
    }

    /// The active key that seals this group, its slot, and the sequence number it was read at.
    pub fn find_seal(&self, group: &Group) -> Option<(SlotIndex, u32, Sek)> {
        let active = |sek: &Sek| matches!(sek.role, SekRole::Seal { active: true, .. }) && sek.group == *group;
        self.find(self.hash_group(group), active, None)
    }

    /// Whether a key id is one of our own for this group, active or not.
    pub fn is_own(&self, group: &Group, key_id: KeyId) -> bool {
        let seals = |sek: &Sek| matches!(sek.role, SekRole::Seal { .. });
        self.find(self.hash_group(group), seals, Some(key_id)).is_some()
    }

    /// Whether a slot still holds what was read from it at `sequence`.
    #[inline]
    pub fn is_unchanged(&self, slot: SlotIndex, sequence: u32) -> bool {
        self.slots[slot.0 as usize & self.mask].sequence.load(Ordering::Acquire) == sequence
    }

    /// Highest sequence number of a lane that was accepted under the key in this slot; 0 before the first.
    pub fn top(&self, slot: SlotIndex, lane: usize) -> u64 {
        self.slots[slot.0 as usize & self.mask].tops[lane].load(Ordering::Relaxed)
    }

    /// Remembers a sequence number of a lane that was accepted, if it is the highest. `exclusive`: no other thread does.
    #[inline]
    pub fn raise_top(&self, slot: SlotIndex, lane: usize, accepted: u64, exclusive: bool) {
        let top = &self.slots[slot.0 as usize & self.mask].tops[lane];
        if top.load(Ordering::Relaxed) >= accepted {
            return;
        }
        if exclusive {
            top.store(accepted, Ordering::Relaxed);
        } else {
            // Never downwards: another worker may have accepted a higher one in the meantime.
            top.fetch_max(accepted, Ordering::Relaxed);
        }
    }

    /// Writes a key, over an earlier record of the same id and role. One writer only.
    pub fn insert(&self, sek: &Sek) -> Result<(), TableFull> {
        let mut free = None;
        for index in self.probe(self.start(sek)) {
            let id = self.slots[index].key_id.load(Ordering::Relaxed);
            if id == sek.key_id.0 && self.seals(index) == matches!(sek.role, SekRole::Seal { .. }) {
                free = Some(index);
                break;
            }
            if id == REMOVED || id == EMPTY {
                free = free.or(Some(index));
            }
            if id == EMPTY {
                break;
            }
        }
        let mut words = sek.to_words();
        self.slots[free.ok_or(TableFull)?].write(sek.key_id.0, &words);
        words.fill(0);
        std::hint::black_box(&words);
        Ok(())
    }

    /// Whether a key is where readers look for it, as it was written.
    pub fn holds(&self, sek: &Sek) -> bool {
        self.find(self.start(sek), |found| found.is_same(sek), Some(sek.key_id)).is_some()
    }

    /// Wipes every slot in use that holds no whole record, or one that is not `wanted`; returns how many. One writer only.
    pub fn sweep(&self, wanted: impl Fn(&Sek) -> bool) -> usize {
        let mut swept = 0;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let free = matches!(slot.key_id.load(Ordering::Relaxed), EMPTY | REMOVED);
            if !free && !slot.read().is_some_and(|(_, sek)| wanted(&sek)) {
                self.vacate(index);
                swept += 1;
            }
        }
        swept
    }

    fn seals(&self, index: usize) -> bool {
        // Word 2 holds prefix length, suite, epoch and flags.
        let bytes = self.slots[index].words[2].load(Ordering::Relaxed).to_ne_bytes();
        u32::from_ne_bytes(array(&bytes, 4)) & FLAG_SEALS != 0
    }

    /// Wipes a key. `true` when it was there. One writer only.
    pub fn remove(&self, key_id: KeyId) -> bool {
        let mut found = false;
        for index in 0..self.slots.len() {
            if self.slots[index].key_id.load(Ordering::Relaxed) == key_id.0 && key_id.0 != EMPTY {
                self.vacate(index);
                found = true;
            }
        }
        found
    }

    /// Frees a slot; as removed while a probe may have to get past it, else as empty together with removed ones before it.
    fn vacate(&self, index: usize) {
        let after = &self.slots[(index + 1) & self.mask];
        if after.key_id.load(Ordering::Relaxed) != EMPTY {
            self.slots[index].write(REMOVED, &[0; WORDS]);
            return;
        }
        self.slots[index].write(EMPTY, &[0; WORDS]);
        let mut before = index.wrapping_sub(1) & self.mask;
        while before != index && self.slots[before].key_id.load(Ordering::Relaxed) == REMOVED {
            self.slots[before].write(EMPTY, &[0; WORDS]);
            before = before.wrapping_sub(1) & self.mask;
        }
    }

    /// Every key, in no order. Slots that hold no valid record are left out.
    pub fn iter(&self) -> impl Iterator<Item = Sek> {
        self.slots.iter().filter_map(|slot| slot.read().map(|(_, sek)| sek))
    }

    /// Wipes every slot, whatever is in it.
    pub fn clear(&self) {
        for slot in self.slots.iter() {
            slot.write(EMPTY, &[0; WORDS]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sek(key_id: u32, group: &str, role: SekRole) -> Sek {
        Sek {
            key_id: KeyId(key_id),
            origin: NodeId([7; 8]),
            group: group.parse().unwrap(),
            epoch: Epoch(3),
            suite: Suite::ChaCha20Poly1305,
            role,
            not_after_ms: 1 << 41,
            key: [key_id as u8; 32],
            salt: [9; 12],
            gtag: [4; 16],
        }
    }

    fn seal(key_id: u32, active: bool) -> Sek {
        sek(key_id, "239.1.1.1", SekRole::Seal { counter_block: 5, active })
    }

    #[test]
    fn what_is_written_is_read() {
        let seks = Seks::anonymous(64).unwrap();
        seks.insert(&sek(0x1234, "ff3e::1:1", SekRole::Open)).unwrap();
        let (slot, sequence, read) = seks.find_open(KeyId(0x1234)).unwrap();
        assert_eq!(read.group, "ff3e::1:1".parse().unwrap());
        assert_eq!((read.origin, read.epoch, read.suite), (NodeId([7; 8]), Epoch(3), Suite::ChaCha20Poly1305));
        assert_eq!((read.key, read.salt, read.not_after_ms), ([0x34; 32], [9; 12], 1 << 41));
        assert!(seks.is_unchanged(slot, sequence));
        seks.insert(&sek(0x1234, "ff3e::1:1", SekRole::Open)).unwrap();
        assert!(!seks.is_unchanged(slot, sequence), "a rewrite shows");
        assert_eq!(seks.iter().count(), 1);
    }

    #[test]
    fn a_seal_key_is_found_by_its_group_only_while_active() {
        let seks = Seks::anonymous(64).unwrap();
        let group = "239.1.1.1".parse().unwrap();
        seks.insert(&seal(1, true)).unwrap();
        seks.insert(&seal(2, false)).unwrap();
        assert_eq!(seks.find_seal(&group).unwrap().2.key_id, KeyId(1));
        seks.insert(&seal(2, true)).unwrap();
        seks.insert(&seal(1, false)).unwrap();
        assert_eq!(seks.find_seal(&group).unwrap().2.key_id, KeyId(2));
        assert!(seks.find_open(KeyId(1)).is_none(), "our own key opens nothing");
    }

    #[test]
    fn removal_keeps_every_other_key_reachable() {
        let seks = Seks::anonymous(64).unwrap();
        let ids: std::vec::Vec<u32> = (1..=40).collect();
        for &id in &ids {
            seks.insert(&sek(id, "239.1.1.1", SekRole::Open)).unwrap();
        }
        for &gone in &ids {
            assert!(seks.remove(KeyId(gone)));
            assert!(seks.find_open(KeyId(gone)).is_none());
            for &kept in ids.iter().filter(|&&id| id > gone) {
                assert!(seks.find_open(KeyId(kept)).is_some(), "{kept} after {gone}");
            }
        }
        assert!(!seks.remove(KeyId(1)));
        assert!(seks.slots.iter().all(|slot| slot.words.iter().all(|word| word.load(Ordering::Relaxed) == 0)), "wiped");
    }

    #[test]
    fn accepted_counters_stay_with_their_key() {
        let seks = Seks::anonymous(1).unwrap();
        seks.insert(&sek(1, "239.1.1.1", SekRole::Open)).unwrap();
        let slot = seks.find_open(KeyId(1)).unwrap().0;
        for (accepted, exclusive) in [(75, true), (77, false), (76, true), (70, false)] {
            seks.raise_top(slot, 3, accepted, exclusive);
        }
        seks.insert(&sek(1, "239.1.1.1", SekRole::Open)).unwrap();
        assert_eq!(seks.top(slot, 3), 77, "a rewrite of the same key keeps them");
        seks.remove(KeyId(1));
        seks.insert(&sek(2, "239.1.1.1", SekRole::Open)).unwrap();
        assert_eq!(seks.top(slot, 3), 0, "another key starts over");
    }

    #[test]
    fn a_full_table_says_so() {
        let seks = Seks::anonymous(4).unwrap();
        for id in 1..=4 {
            seks.insert(&sek(id, "239.1.1.1", SekRole::Open)).unwrap();
        }
        assert_eq!(seks.insert(&sek(5, "239.1.1.1", SekRole::Open)), Err(TableFull));
        seks.remove(KeyId(2));
        seks.insert(&sek(5, "239.1.1.1", SekRole::Open)).unwrap();
        assert!(seks.find_open(KeyId(5)).is_some());
    }

    #[test]
    fn a_half_written_or_scribbled_slot_is_no_key() {
        let seks = Seks::anonymous(4).unwrap();
        seks.insert(&sek(1, "239.1.1.1", SekRole::Open)).unwrap();
        let (SlotIndex(index), ..) = seks.find_open(KeyId(1)).unwrap();
        let slot = &seks.slots[index as usize];
        slot.sequence.fetch_add(1, Ordering::Relaxed);
        assert!(seks.find_open(KeyId(1)).is_none(), "being written");
        slot.sequence.fetch_add(1, Ordering::Relaxed);
        slot.words[0].store(0, Ordering::Relaxed);
        slot.words[1].store(0, Ordering::Relaxed);
        assert!(seks.find_open(KeyId(1)).is_none(), "not a group");
        seks.insert(&sek(1, "239.1.1.1", SekRole::Open)).unwrap();
        assert!(seks.find_open(KeyId(1)).is_some());
    }

    #[test]
    fn r9_key_ids_chosen_to_crowd_a_group_out_miss_under_another_hash_key() {
        let known = Seks::anonymous(1 << 12).unwrap();
        let start = known.hash_group(&"239.1.1.1".parse().unwrap()) as usize & known.mask;
        let near =
            |id: &u32| ((known.hash_key_id(KeyId(*id)) as usize & known.mask).wrapping_sub(start)) & known.mask < 8;
        let chosen: std::vec::Vec<_> = (1..).filter(near).take(100).collect();
        let crowd = |seks: &Seks| {
            for &id in &chosen {
                let _ = seks.insert(&sek(id, "239.1.1.1", SekRole::Open));
            }
            seks.insert(&seal(0xffff_0000, true))
        };
        assert_eq!(crowd(&known), Err(TableFull), "known to who chose them");
        assert_eq!(crowd(&Seks::anonymous(1 << 12).unwrap().under([0x1234_5678, 0x9abc_def0])), Ok(()));
    }

    #[test]
    fn a_sweep_leaves_what_is_wanted_and_nothing_else() {
        let seks = Seks::anonymous(16).unwrap();
        for id in 1..=6 {
            seks.insert(&sek(id, "239.1.1.1", SekRole::Open)).unwrap();
        }
        let mut altered = sek(2, "239.1.1.1", SekRole::Open);
        altered.key[5] ^= 1;
        assert!(seks.holds(&sek(2, "239.1.1.1", SekRole::Open)) && !seks.holds(&altered));
        let (SlotIndex(torn), ..) = seks.find_open(KeyId(3)).unwrap();
        seks.slots[torn as usize].sequence.fetch_add(1, Ordering::Relaxed);
        assert_eq!(seks.sweep(|sek| sek.key_id.0 != 5), 2, "the torn one and the unwanted one");
        let left: std::collections::BTreeSet<_> = seks.iter().map(|sek| sek.key_id.0).collect();
        assert_eq!(left, [1, 2, 4, 6].into());
        assert!(left.iter().all(|&id| seks.holds(&sek(id, "239.1.1.1", SekRole::Open))), "and readers find it");
        assert_eq!(seks.sweep(|_| true), 0);
    }

    #[test]
    fn readers_never_see_a_torn_record() {
        let seks = Seks::anonymous(4).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..20_000u32 {
                    let mut record = sek(1, "239.1.1.1", SekRole::Open);
                    record.key = [round as u8; 32];
                    record.salt = [round as u8; 12];
                    seks.insert(&record).unwrap();
                }
            });
            while !writer.is_finished() {
                if let Some((_, _, read)) = seks.find_open(KeyId(1)) {
                    assert!(read.key.iter().chain(&read.salt).all(|byte| *byte == read.key[0]));
                }
            }
        });
    }
}
