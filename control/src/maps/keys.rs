//! `SEKS` and `COUNTERS` with everything that belongs into them: each key is remembered as it was written, so that the
//! map can be compared with it and rebuilt.

use super::{Description, Gtags, MapError};
use gemcast_engine::input::AdoptedKey;
use gemcast_engine::output::InstallKey;
use gemcast_engine::time::UnixMillis;
use gemcast_proto::id::{Group, KeyId};
use gemcast_xdp::counters::Counters;
use gemcast_xdp::seks::{LANES, Sek, SekRole, Seks};
use gemcast_xdp::sync::Sync;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// `SEKS`, `COUNTERS` and `SYNC`.
pub struct KeyTable {
    seks: Seks,
    counters: Counters,
    sync: Sync,
    /// What has to be in `SEKS`.
    wanted: BTreeMap<KeyId, Sek>,
    /// Own keys that there are no counters for yet; the one before goes on sealing.
    waiting: BTreeMap<KeyId, Sek>,
    /// The counters of each own key as they were seen last.
    seen: BTreeMap<KeyId, [u64; LANES]>,
    changed: bool,
}

/// What was wrong with the keys in the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyRepairs {
    /// Keys that were missing or altered, and were written again.
    pub written: usize,
    /// Keys for which there is no room; tried again the next time.
    pub unfit: usize,
    /// Slots that held something else than a key of ours, and were wiped.
    pub wiped: usize,
    /// Own keys whose counters are gone or fell, so that they must not seal again.
    pub uncounted: usize,
}

impl KeyTable {
    /// Takes over what is in the maps.
    pub(super) fn new(seks: Seks, counters: Counters, sync: Sync) -> Self {
        let wanted = seks.iter().map(|sek| (sek.key_id, sek)).collect();
        Self { seks, counters, sync, wanted, waiting: BTreeMap::new(), seen: BTreeMap::new(), changed: false }
    }

    /// Random number of this set of maps.
    pub fn incarnation(&self) -> u64 {
        self.sync.page().incarnation.load(Ordering::Relaxed)
    }

    /// Writes a key. One that seals gets fresh counters, unless it is there already, and waits for
    /// [`KeyTable::activate`]; it takes its group's tag key along, which the worker tags packets with.
    pub fn install(&mut self, key: &InstallKey, gtags: &Gtags) -> Result<(), MapError> {
        let gtag = gtags.get(&(key.group, key.epoch)).filter(|_| key.seals);
        if key.seals && gtag.is_none() {
            return Err(MapError::NoGtag { group: key.group, epoch: key.epoch });
        }
        let active = self.wanted.get(&key.key_id).is_some_and(is_active);
        let role = if key.seals { SekRole::Seal { counter_block: 0, active } } else { SekRole::Open };
        let mut sek = Sek {
            key_id: key.key_id,
            origin: key.origin,
            group: key.group,
            epoch: key.epoch,
            suite: key.suite,
            role,
            not_after_ms: key.not_after.0,
            key: *key.traffic_key.expose(),
            salt: *key.salt.expose(),
            gtag: gtag.map_or([0; 16], |gtag| *gtag.expose()),
        };
        if key.seals {
            match self.counter_block(key.key_id) {
                Ok(counter_block) => sek.role = SekRole::Seal { counter_block, active },
                Err(error) => {
                    if matches!(error, MapError::CountersFull(_)) {
                        self.waiting.insert(key.key_id, sek);
                    }
                    return Err(error);
                }
            }
        }
        self.write(sek)
    }

    /// Gives counters to the own keys that wait for them, as far as there are any; returns how many wait on.
    fn place_waiting(&mut self) -> usize {
        let waiting: Vec<_> = self.waiting.keys().copied().collect();
        for key_id in waiting {
            let Some(counter_block) = self.counters.allocate(key_id) else { break };
            let Some(mut sek) = self.waiting.remove(&key_id) else { continue };
            let (group, active) = (sek.group, is_active(&sek));
            sek.role = SekRole::Seal { counter_block, active: false };
            // Without a slot, too, it is counted among those that are wanted and not there.
            let _ = self.write(sek);
            if active {
                let _ = self.activate(&group, key_id);
            }
        }
        self.waiting.len()
    }

    /// Counters for an own key: those it has, or fresh ones for a key that never had any. They never start over.
    fn counter_block(&mut self, key_id: KeyId) -> Result<u32, MapError> {
        if let Some(block) = self.block_of(key_id) {
            return Ok(block);
        }
        if self.own(key_id).is_some() {
            return Err(MapError::CountersLost(key_id));
        }
        self.counters.allocate(key_id).ok_or_else(|| MapError::CountersFull(self.counters.blocks()))
    }

    /// Writes a record, and remembers it.
    fn write(&mut self, sek: Sek) -> Result<(), MapError> {
        self.changed = true;
        let written = self.seks.insert(&sek);
        self.wanted.insert(sek.key_id, sek);
        written.map_err(|_| MapError::KeysFull(self.slots()))
    }

    /// Makes an own key the one that seals its group.
    pub fn activate(&mut self, group: &Group, key_id: KeyId) -> Result<(), MapError> {
        if self.waiting.get(&key_id).is_some_and(|key| key.group == *group) {
            for key in self.waiting.values_mut().filter(|key| key.group == *group) {
                key.role = SekRole::Seal { counter_block: 0, active: key.key_id == key_id };
            }
            return Ok(());
        }
        if self.own(key_id).is_none_or(|key| key.group != *group) {
            return Err(MapError::NoSuchKey(key_id));
        }
        self.changed = true;
        let slots = self.slots();
        let of_group = |key: &&mut Sek| matches!(key.role, SekRole::Seal { .. }) && key.group == *group;
        let mut of_group: Vec<_> = self.wanted.values_mut().filter(of_group).collect();
        // The new one first: at no time is there none.
        of_group.sort_by_key(|key| key.key_id != key_id);
        for key in of_group {
            if let SekRole::Seal { active, .. } = &mut key.role
                && *active != (key.key_id == key_id)
            {
                *active = key.key_id == key_id;
                self.seks.insert(key).map_err(|_| MapError::KeysFull(slots))?;
            }
        }
        Ok(())
    }

    /// Wipes a key and frees its counters; one that is not there is removed already.
    pub fn remove(&mut self, key_id: KeyId) {
        if self.seks.remove(key_id) {
            self.changed = true;
            self.sync.note_removed(key_id);
        }
        self.wanted.remove(&key_id);
        self.waiting.remove(&key_id);
        self.seen.remove(&key_id);
        if let Some(block) = self.block_of(key_id) {
            self.counters.release(block, key_id);
            self.place_waiting();
        }
    }

    /// Every key, as the engine wants to hear of it.
    pub fn adoptable(&self) -> Vec<AdoptedKey> {
        let adopt = |key: &Sek| AdoptedKey {
            key_id: key.key_id,
            origin: key.origin,
            group: key.group,
            epoch: key.epoch,
            seals: matches!(key.role, SekRole::Seal { .. }),
            not_after: UnixMillis(key.not_after_ms),
        };
        self.wanted.values().map(adopt).collect()
    }

    /// An upper bound of the packets sealed with each own key.
    pub fn sealed(&self) -> Vec<(KeyId, u64)> {
        let reserved = |key: &Sek| match key.role {
            SekRole::Seal { counter_block, .. } => {
                Some((key.key_id, self.counters.reserved(counter_block, key.key_id)?))
            }
            SekRole::Open => None,
        };
        self.wanted.values().filter_map(reserved).collect()
    }

    /// How far the workers have come in opening: the highest sequence numbers accepted under each key, added up.
    pub fn opened(&self) -> Vec<(KeyId, u64)> {
        let opening = self.wanted.values().filter(|key| key.role == SekRole::Open);
        let highest = opening.filter_map(|key| {
            let (slot, ..) = self.seks.find_open(key.key_id)?;
            Some((key.key_id, (0..LANES).fold(0, |sum: u64, lane| sum.wrapping_add(self.seks.top(slot, lane)))))
        });
        highest.collect()
    }

    /// Tells the workers that keys changed, if they did: once for a batch of changes.
    pub fn publish(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.sync.bump_generation();
        }
    }

    /// Leaves a sign of life, milliseconds of CLOCK_BOOTTIME.
    pub fn heartbeat(&self, boottime_ms: u64) {
        self.sync.page().control_heartbeat_ms.store(boottime_ms, Ordering::Relaxed);
    }

    /// Frees counters whose keys are not there: of a process that ended between the two steps of an installation.
    pub(super) fn release_orphans(&self) {
        for (block, key_id) in self.counters.owners() {
            if self.own(key_id).is_none() {
                self.counters.release(block, key_id);
            }
        }
    }

    fn slots(&self) -> u64 {
        self.sync.page().sek_slots.load(Ordering::Relaxed)
    }

    fn block_of(&self, key_id: KeyId) -> Option<u32> {
        self.counters.owners().find(|(_, owner)| *owner == key_id).map(|(block, _)| block)
    }

    fn own(&self, key_id: KeyId) -> Option<&Sek> {
        self.wanted.get(&key_id).filter(|key| matches!(key.role, SekRole::Seal { .. }))
    }

    /// Workers that were alive and have left no sign of life since, with the milliseconds since the last one.
    pub fn silent_workers(&self, boottime_ms: u64, silence_ms: u64) -> Vec<(usize, u64)> {
        let beats = self.sync.page().worker_heartbeat_ms.iter().map(|beat| beat.load(Ordering::Relaxed));
        let silent = beats.enumerate().filter(|(_, beat)| *beat != 0);
        let silent = silent.map(|(worker, beat)| (worker, boottime_ms.saturating_sub(beat)));
        silent.filter(|(_, silence)| *silence > silence_ms).collect()
    }

    /// Makes `SYNC` describe these maps; `true` when it did not.
    pub(super) fn describe(&self, described: &Description) -> bool {
        let &Description { incarnation, slots, blocks, hash_key } = described;
        let page = self.sync.page();
        let fields = [&page.incarnation, &page.sek_slots, &page.counter_blocks];
        let same = fields.map(|field| field.load(Ordering::Relaxed)) == [incarnation, slots, blocks];
        let right = same && self.sync.is_current() && self.sync.hash_key() == hash_key;
        if !right {
            self.sync.set_hash_key(hash_key);
            self.sync.initialize(incarnation, slots, blocks);
        }
        !right
    }

    /// Compares every key with the map, and puts right what is not as it was written.
    pub fn repair(&mut self) -> KeyRepairs {
        let waiting = self.place_waiting();
        let mut repairs = self.write_missing();
        let wanted = &self.wanted;
        repairs.wiped = self.seks.sweep(|found| wanted.get(&found.key_id).is_some_and(|sek| sek.is_same(found)));
        self.changed |= repairs.wiped > 0;
        if repairs.unfit > 0 && repairs.wiped > 0 {
            // What filled the table was not ours, and is gone.
            let again = self.write_missing();
            (repairs.written, repairs.unfit) = (repairs.written + again.written, again.unfit);
        }
        repairs.unfit += waiting;
        for sek in self.wanted.values() {
            let SekRole::Seal { counter_block, .. } = sek.role else { continue };
            let Some(lanes) = self.counters.lanes(counter_block, sek.key_id) else {
                repairs.uncounted += 1;
                continue;
            };
            let seen = self.seen.insert(sek.key_id, lanes).unwrap_or_default();
            repairs.uncounted += usize::from(lanes.iter().zip(seen).any(|(now, before)| *now < before));
        }
        repairs
    }

    /// Writes the keys that are not there as they should be. Those that seal first: where there is no room for all, this
    /// gateway's own senders have it.
    fn write_missing(&mut self) -> KeyRepairs {
        let mut repairs = KeyRepairs::default();
        let missing = self.wanted.values().filter(|sek| !self.seks.holds(sek));
        let (own, others): (Vec<_>, Vec<_>) = missing.partition(|sek| matches!(sek.role, SekRole::Seal { .. }));
        for sek in own.into_iter().chain(others) {
            match self.seks.insert(sek) {
                Ok(()) => repairs.written += 1,
                Err(_) => repairs.unfit += 1,
            }
        }
        self.changed |= repairs.written > 0;
        repairs
    }

    /// Declares the counters to be without history: another incarnation of the maps, with no key that seals.
    pub fn forget_own(&mut self, incarnation: u64) {
        self.waiting.clear();
        let own = self.wanted.values().filter(|key| matches!(key.role, SekRole::Seal { .. }));
        let own: Vec<_> = own.map(|key| key.key_id).collect();
        own.into_iter().for_each(|key_id| self.remove(key_id));
        self.release_orphans();
        self.sync.page().incarnation.store(incarnation, Ordering::Relaxed);
    }
}

fn is_active(key: &Sek) -> bool {
    matches!(key.role, SekRole::Seal { active: true, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_engine::secret::Secret;
    use gemcast_proto::id::{Epoch, NodeId, Suite};
    use gemcast_xdp::counters::BLOCK;

    fn table(slots: usize, blocks: usize) -> KeyTable {
        let sync = Sync::anonymous().unwrap();
        sync.initialize(7, slots as u64, blocks as u64);
        KeyTable::new(Seks::anonymous(slots).unwrap(), Counters::anonymous(blocks).unwrap(), sync)
    }

    fn gtags() -> Gtags {
        BTreeMap::from([(("239.1.1.1".parse().unwrap(), Epoch(1)), Secret::new([3; 16]))])
    }

    fn key(id: u32, seals: bool) -> InstallKey {
        InstallKey {
            key_id: KeyId(id),
            origin: NodeId([1; 8]),
            group: "239.1.1.1".parse().unwrap(),
            epoch: Epoch(1),
            suite: Suite::Aes256Gcm,
            seals,
            traffic_key: Secret::new([id as u8; 32]),
            salt: Secret::new([id as u8; 12]),
            not_after: UnixMillis(5),
        }
    }

    #[test]
    fn an_own_key_seals_only_once_activated_and_replaces_the_one_before() {
        let mut table = table(64, 4);
        let group = "239.1.1.1".parse().unwrap();
        table.install(&key(1, true), &gtags()).unwrap();
        assert!(table.seks.find_seal(&group).is_none());
        table.activate(&group, KeyId(1)).unwrap();
        table.install(&key(2, true), &gtags()).unwrap();
        assert_eq!(table.seks.find_seal(&group).unwrap().2.key_id, KeyId(1));
        table.activate(&group, KeyId(2)).unwrap();
        assert_eq!(table.seks.find_seal(&group).unwrap().2.key_id, KeyId(2));
        let active = |key: &Sek| matches!(key.role, SekRole::Seal { active: true, .. });
        assert_eq!(table.seks.iter().filter(active).count(), 1);
        assert!(matches!(table.activate(&group, KeyId(9)), Err(MapError::NoSuchKey(KeyId(9)))));
        assert!(matches!(table.activate(&"239.9.9.9".parse().unwrap(), KeyId(1)), Err(MapError::NoSuchKey(_))));
    }

    #[test]
    fn a_key_that_seals_carries_its_group_tag_key() {
        let mut table = table(64, 4);
        assert!(matches!(table.install(&key(1, true), &Gtags::new()), Err(MapError::NoGtag { .. })));
        table.install(&key(1, true), &gtags()).unwrap();
        assert_eq!(table.own(KeyId(1)).unwrap().gtag, [3; 16]);
        table.install(&key(2, false), &Gtags::new()).unwrap();
    }

    #[test]
    fn writing_an_own_key_again_keeps_its_counters() {
        let mut table = table(64, 4);
        let group = "239.1.1.1".parse().unwrap();
        table.install(&key(1, true), &gtags()).unwrap();
        table.activate(&group, KeyId(1)).unwrap();
        let SekRole::Seal { counter_block, .. } = table.own(KeyId(1)).unwrap().role else { panic!("seals") };
        table.counters.reserve(counter_block, KeyId(1), 0).unwrap();
        table.install(&key(1, true), &gtags()).unwrap();
        assert_eq!(table.sealed(), [(KeyId(1), BLOCK)], "no (key, counter) pair is used twice");
        assert!(table.seks.find_seal(&group).is_some(), "still active");
    }

    #[test]
    fn a_key_whose_record_was_lost_goes_on_with_its_counters() {
        let mut table = table(64, 4);
        table.install(&key(1, true), &gtags()).unwrap();
        let block = table.block_of(KeyId(1)).unwrap();
        table.counters.reserve(block, KeyId(1), 0).unwrap();
        table.seks.clear();
        table.install(&key(1, true), &gtags()).unwrap();
        assert_eq!(table.sealed(), [(KeyId(1), BLOCK)], "no (key, counter) pair is used twice");
    }

    #[test]
    fn counters_without_a_key_are_freed() {
        let mut table = table(64, 4);
        table.install(&key(1, true), &gtags()).unwrap();
        table.counters.allocate(KeyId(9)).unwrap();
        table.release_orphans();
        assert_eq!(table.counters.owners().map(|(_, key_id)| key_id).collect::<Vec<_>>(), [KeyId(1)]);
    }

    #[test]
    fn removed_keys_give_slots_and_counters_back() {
        let mut table = table(64, 1);
        table.install(&key(1, true), &gtags()).unwrap();
        assert!(matches!(table.install(&key(2, true), &gtags()), Err(MapError::CountersFull(1))));
        table.remove(KeyId(1));
        table.remove(KeyId(1));
        table.install(&key(2, true), &gtags()).unwrap();
        assert_eq!(table.adoptable().iter().map(|key| key.key_id).collect::<Vec<_>>(), [KeyId(2)]);
    }

    #[test]
    fn a_key_without_counters_waits_while_the_one_before_seals_and_follows_it() {
        let mut table = table(64, 1);
        let group = "239.1.1.1".parse().unwrap();
        table.install(&key(1, true), &gtags()).unwrap();
        table.activate(&group, KeyId(1)).unwrap();
        assert!(matches!(table.install(&key(2, true), &gtags()), Err(MapError::CountersFull(1))));
        table.activate(&group, KeyId(2)).unwrap();
        let seals = |table: &KeyTable| table.seks.find_seal(&group).map(|(_, _, sek)| sek.key_id);
        assert_eq!((table.repair().unfit, seals(&table)), (1, Some(KeyId(1))), "told, and nothing is lost");
        table.remove(KeyId(1));
        assert_eq!((table.repair().unfit, seals(&table)), (0, Some(KeyId(2))));
        assert!(matches!(table.install(&key(3, true), &gtags()), Err(MapError::CountersFull(1))));
        table.remove(KeyId(3));
        assert_eq!(table.repair().unfit, 0, "one that is not wanted any more does not wait");
    }

    #[test]
    fn a_full_table_is_an_error_and_keeps_no_counters() {
        let mut table = table(4, 8);
        for id in 1..=4 {
            table.install(&key(id, false), &gtags()).unwrap();
        }
        for id in 5..9 {
            assert!(matches!(table.install(&key(id, true), &gtags()), Err(MapError::KeysFull(4))));
            table.remove(KeyId(id));
        }
        assert_eq!(table.counters.owners().count(), 0);
    }

    #[test]
    fn a_key_whose_counters_were_lost_never_seals_again() {
        let mut table = table(64, 4);
        table.install(&key(1, true), &gtags()).unwrap();
        table.counters.release(table.block_of(KeyId(1)).unwrap(), KeyId(1));
        assert!(matches!(table.install(&key(1, true), &gtags()), Err(MapError::CountersLost(KeyId(1)))));
    }

    #[test]
    fn what_is_found_is_reported_for_adoption() {
        let mut table = table(64, 4);
        table.install(&key(1, true), &gtags()).unwrap();
        table.install(&key(2, false), &gtags()).unwrap();
        let mut found = table.adoptable();
        found.sort_by_key(|key| key.key_id);
        assert_eq!(found.iter().map(|key| (key.key_id.0, key.seals)).collect::<Vec<_>>(), [(1, true), (2, false)]);
        assert_eq!((found[0].origin, found[0].epoch, found[0].not_after), (NodeId([1; 8]), Epoch(1), UnixMillis(5)));
    }

    #[test]
    fn a_batch_of_changes_is_published_once() {
        let mut table = table(64, 4);
        table.publish();
        assert_eq!(table.sync.generation(), 0, "nothing changed");
        table.install(&key(1, false), &gtags()).unwrap();
        table.install(&key(2, false), &gtags()).unwrap();
        table.publish();
        table.publish();
        assert_eq!(table.sync.generation(), 1);
        table.remove(KeyId(77));
        table.publish();
        assert_eq!(table.sync.generation(), 1, "nothing was removed");
    }

    /// A table with an active own key and two others, and the incarnation 7.
    fn busy_table() -> KeyTable {
        let mut table = table(64, 4);
        table.install(&key(1, true), &gtags()).unwrap();
        table.activate(&"239.1.1.1".parse().unwrap(), KeyId(1)).unwrap();
        table.install(&key(2, false), &gtags()).unwrap();
        table.install(&key(3, false), &gtags()).unwrap();
        assert_eq!(table.repair(), KeyRepairs::default());
        table.publish();
        table
    }

    #[test]
    fn an_emptied_map_is_filled_again_and_the_workers_are_told() {
        let mut table = busy_table();
        let generation = table.sync.generation();
        let block = table.block_of(KeyId(1)).unwrap();
        table.counters.reserve(block, KeyId(1), 0).unwrap();
        table.seks.clear();
        assert_eq!(table.repair(), KeyRepairs { written: 3, ..Default::default() });
        table.publish();
        assert_eq!(table.sync.generation(), generation + 1);
        let group = "239.1.1.1".parse().unwrap();
        let (_, _, sek) = table.seks.find_seal(&group).expect("it seals again");
        assert!(matches!(sek.role, SekRole::Seal { counter_block, active: true } if counter_block == block));
        assert!(table.seks.find_open(KeyId(2)).is_some() && table.seks.find_open(KeyId(3)).is_some());
        assert_eq!(table.repair(), KeyRepairs::default(), "once is enough");
    }

    #[test]
    fn altered_and_foreign_records_are_put_right() {
        let mut table = busy_table();
        let mut altered = table.seks.find_open(KeyId(2)).unwrap().2;
        altered.key[0] ^= 1;
        table.seks.insert(&altered).unwrap();
        let mut foreign = table.seks.find_open(KeyId(3)).unwrap().2;
        foreign.key_id = KeyId(99);
        foreign.role = SekRole::Seal { counter_block: 0, active: true };
        table.seks.insert(&foreign).unwrap();
        assert_eq!(table.repair(), KeyRepairs { written: 1, wiped: 1, ..KeyRepairs::default() });
        assert_eq!(table.seks.find_open(KeyId(2)).unwrap().2.key, [2; 32]);
        assert_eq!(table.seks.iter().count(), 3);
    }

    #[test]
    fn a_table_full_of_foreign_records_is_put_right_at_once() {
        let mut table = busy_table();
        let mut foreign = table.seks.find_open(KeyId(2)).unwrap().2;
        table.seks.clear();
        foreign.key_id = KeyId(100);
        while table.seks.insert(&foreign).is_ok() {
            foreign.key_id.0 += 1;
        }
        let repairs = table.repair();
        assert_eq!((repairs.written, repairs.unfit), (3, 0));
        assert_eq!(table.repair(), KeyRepairs::default(), "once is enough");
    }

    #[test]
    fn counters_that_fall_or_vanish_end_every_own_key() {
        let mut table = busy_table();
        let block = table.block_of(KeyId(1)).unwrap();
        table.counters.reserve(block, KeyId(1), 2).unwrap();
        assert_eq!(table.repair(), KeyRepairs::default());
        // The same key's counters from the start, as if the map had been put back to an older state.
        table.counters.release(block, KeyId(1));
        assert_eq!(table.counters.allocate(KeyId(1)), Some(block));
        assert_eq!(table.repair().uncounted, 1);
        table.counters.release(block, KeyId(1));
        assert_eq!(table.repair().uncounted, 1);
        table.forget_own(8);
        assert_eq!((table.repair(), table.incarnation()), (KeyRepairs::default(), 8));
        assert!(table.seks.find_seal(&"239.1.1.1".parse().unwrap()).is_none());
        assert!(table.seks.find_open(KeyId(2)).is_some(), "keys that open need no counters");
        assert_eq!(table.counters.owners().count(), 0);
    }

    #[test]
    fn a_worker_that_stops_is_noticed() {
        let table = table(4, 1);
        let beat = |worker: usize, at| table.sync.page().worker_heartbeat_ms[worker].store(at, Ordering::Relaxed);
        beat(0, 9_500);
        beat(3, 4_000);
        assert_eq!(table.silent_workers(10_000, 3_000), [(3, 6_000)]);
        beat(3, 0);
        assert_eq!(table.silent_workers(10_000, 3_000), [], "it does not run any more");
    }
}
