//! The pinned maps through which keys reach the data plane: opened, checked, written.
//!
//! The data plane makes and pins them; this process is the only writer of keys. Maps are a cache: everything in them is
//! written again from the engine's state when they are found empty or new.

use gemcast_engine::input::AdoptedKey;
use gemcast_engine::output::InstallKey;
use gemcast_engine::secret::Secret;
use gemcast_engine::time::UnixMillis;
use gemcast_proto::id::{Epoch, Group, KeyId};
use gemcast_xdp::counters::Counters;
use gemcast_xdp::layout::{GtagKey, SipKey};
use gemcast_xdp::seks::{Sek, SekRole, Seks};
use gemcast_xdp::sync::Sync;
use gemcast_xdp::{LAYOUT_VERSION, name};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Why the maps cannot be used, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// A pin is absent or not readable.
    #[error("cannot open the map pinned at {path}: {error}; is gemcast-dataplane running in the same mount namespace?")]
    Open {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A map is not what this version expects.
    #[error("the map at {path} has {what} {found}, expected {expected}; restart gemcast-dataplane in the same version")]
    Shape {
        /// The pin.
        path: PathBuf,
        /// The property.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The value of this version.
        expected: u64,
    },
    /// No slot is free.
    #[error("the key table is full ({0} slots): fewer groups or sources, or a data plane with more slots")]
    KeysFull(u64),
    /// No counter block is free.
    #[error("every counter block is in use ({0}): fewer groups, or a data plane with more blocks")]
    CountersFull(usize),
    /// A key that seals comes before its group's tag key.
    #[error("no group tag key of {group} epoch {epoch} for a key that seals")]
    NoGtag {
        /// The group.
        group: Group,
        /// The epoch.
        epoch: Epoch,
    },
    /// A key that has sealed already has no counters any more.
    #[error("the packet counters of key {0} are lost, so it must not seal again; a new key takes over when it is due")]
    CountersLost(KeyId),
    /// A key that is to be activated is not there.
    #[error("key {0} is not in the map")]
    NoSuchKey(KeyId),
    /// The kernel refused to change a map.
    #[error("cannot write {map}: {error}")]
    Write {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Group tag keys, as the engine wants them in the map.
pub type Gtags = BTreeMap<(Group, Epoch), Secret<16>>;

/// The maps of one data plane.
pub struct Maps {
    /// Source encryption keys and their counters.
    pub keys: KeyTable,
    gtag: MapHandle,
}

impl Maps {
    /// Opens the maps pinned under an instance's directory.
    pub fn open(instance_dir: &Path) -> Result<Self, MapError> {
        let pins = instance_dir.join("bpf").join(format!("v{LAYOUT_VERSION}"));
        let open = |name: &str| {
            let path = pins.join(name);
            match MapHandle::from_pinned_path(&path) {
                Ok(map) => Ok((map, path)),
                Err(error) => Err(MapError::Open { path, error: to_io(error) }),
            }
        };

        let (map, path) = open(name::SYNC)?;
        let sync = Sync::new(&map).map_err(|error| MapError::Open { path: path.clone(), error })?;
        let page = sync.page();
        let version = page.layout_version.load(Ordering::Acquire);
        expect(&path, "layout version", version, u64::from(LAYOUT_VERSION))?;
        let slots = page.sek_slots.load(Ordering::Relaxed);
        let blocks = page.counter_blocks.load(Ordering::Relaxed);

        let (map, path) = open(name::SEKS)?;
        expect(&path, "size", u64::from(map.max_entries()), slots)?;
        let seks = Seks::new(&map, slots as usize).map_err(|error| MapError::Open { path, error })?;

        let (map, path) = open(name::COUNTERS)?;
        expect(&path, "size", u64::from(map.max_entries()), blocks)?;
        let counters = Counters::new(&map, blocks as usize).map_err(|error| MapError::Open { path, error })?;

        let (gtag, path) = open(name::GTAG)?;
        expect(&path, "key size", u64::from(gtag.key_size()), size_of::<GtagKey>() as u64)?;
        expect(&path, "value size", u64::from(gtag.value_size()), size_of::<SipKey>() as u64)?;
        Ok(Self { keys: KeyTable { seks, counters, sync, counted: BTreeSet::new(), changed: false }, gtag })
    }

    /// Writes a gtag key.
    pub fn install_gtag(&self, group: &Group, epoch: Epoch, key: &Secret<16>) -> Result<(), MapError> {
        let value = SipKey::new(key.expose());
        let mut bytes = zeroize::Zeroizing::new([0; 16]);
        bytes[..8].copy_from_slice(&value.k0.to_ne_bytes());
        bytes[8..].copy_from_slice(&value.k1.to_ne_bytes());
        let key = gtag_key(group, epoch);
        self.gtag.update(&key, &*bytes, MapFlags::ANY).map_err(|error| write(name::GTAG, error))
    }

    /// Removes a gtag key; one that is not there is removed already.
    pub fn remove_gtag(&self, group: &Group, epoch: Epoch) -> Result<(), MapError> {
        self.remove_gtag_key(&gtag_key(group, epoch))
    }

    fn remove_gtag_key(&self, key: &[u8]) -> Result<(), MapError> {
        match self.gtag.delete(key) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => Err(write(name::GTAG, error)),
            _ => Ok(()),
        }
    }

    /// Removes what an earlier process left and nobody wants: gtag keys other than these, counters of absent keys.
    pub fn tidy(&self, gtags: &Gtags) -> Result<(), MapError> {
        self.keys.release_orphans();
        let wanted: Vec<_> = gtags.keys().map(|(group, epoch)| gtag_key(group, *epoch)).collect();
        // Collected first: deleting while walking a hash map starts the walk over.
        let stale: Vec<_> = self.gtag.keys().filter(|key| !wanted.iter().any(|wanted| wanted == &key[..])).collect();
        stale.iter().try_for_each(|key| self.remove_gtag_key(key))
    }
}

/// `SEKS`, `COUNTERS` and `SYNC`.
pub struct KeyTable {
    seks: Seks,
    counters: Counters,
    sync: Sync,
    /// Own keys that were given counters by this process and are not removed yet.
    counted: BTreeSet<KeyId>,
    changed: bool,
}

impl KeyTable {
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
        let role = if !key.seals {
            SekRole::Open
        } else if let Some(known) = self.own(key.key_id) {
            known.role
        } else {
            SekRole::Seal { counter_block: self.counter_block(key.key_id)?, active: false }
        };
        let sek = Sek {
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
        self.changed = true;
        self.insert(&sek)
    }

    /// Counters for an own key: those it has, or fresh ones for a key that never had any. They never start over.
    fn counter_block(&mut self, key_id: KeyId) -> Result<u32, MapError> {
        if let Some(block) = self.block_of(key_id) {
            return Ok(block);
        }
        if !self.counted.insert(key_id) {
            return Err(MapError::CountersLost(key_id));
        }
        self.counters.allocate(key_id).ok_or_else(|| {
            self.counted.remove(&key_id);
            MapError::CountersFull(self.counters.blocks())
        })
    }

    fn insert(&self, sek: &Sek) -> Result<(), MapError> {
        self.seks.insert(sek).map_err(|_| MapError::KeysFull(self.sync.page().sek_slots.load(Ordering::Relaxed)))
    }

    /// Makes an own key the one that seals its group.
    pub fn activate(&mut self, group: &Group, key_id: KeyId) -> Result<(), MapError> {
        let mut key = self.own(key_id).filter(|key| key.group == *group).ok_or(MapError::NoSuchKey(key_id))?;
        set_active(&mut key, true);
        self.changed = true;
        self.insert(&key)?;
        for mut other in self.seks.iter() {
            let is_active = matches!(other.role, SekRole::Seal { active: true, .. });
            if is_active && other.group == *group && other.key_id != key_id {
                set_active(&mut other, false);
                self.insert(&other)?;
            }
        }
        Ok(())
    }

    /// Wipes a key and frees its counters; one that is not there is removed already.
    pub fn remove(&mut self, key_id: KeyId) {
        self.changed |= self.seks.remove(key_id);
        self.counted.remove(&key_id);
        if let Some(block) = self.block_of(key_id) {
            self.counters.release(block, key_id);
        }
    }

    /// Every key, as the engine wants to hear of it.
    pub fn adoptable(&self) -> Vec<AdoptedKey> {
        let adopt = |key: Sek| AdoptedKey {
            key_id: key.key_id,
            origin: key.origin,
            group: key.group,
            epoch: key.epoch,
            seals: matches!(key.role, SekRole::Seal { .. }),
            not_after: UnixMillis(key.not_after_ms),
        };
        self.seks.iter().map(adopt).collect()
    }

    /// An upper bound of the packets sealed with each own key.
    pub fn sealed(&self) -> Vec<(KeyId, u64)> {
        let reserved = |key: Sek| match key.role {
            SekRole::Seal { counter_block, .. } => {
                Some((key.key_id, self.counters.reserved(counter_block, key.key_id)?))
            }
            SekRole::Open => None,
        };
        self.seks.iter().filter_map(reserved).collect()
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
    fn release_orphans(&self) {
        for (block, key_id) in self.counters.owners() {
            if self.own(key_id).is_none() {
                self.counters.release(block, key_id);
            }
        }
    }

    fn block_of(&self, key_id: KeyId) -> Option<u32> {
        self.counters.owners().find(|(_, owner)| *owner == key_id).map(|(block, _)| block)
    }

    fn own(&self, key_id: KeyId) -> Option<Sek> {
        self.seks.iter().find(|key| key.key_id == key_id && matches!(key.role, SekRole::Seal { .. }))
    }
}

fn set_active(key: &mut Sek, now: bool) {
    if let SekRole::Seal { active, .. } = &mut key.role {
        *active = now;
    }
}

/// The bytes of a [`GtagKey`].
fn gtag_key(group: &Group, epoch: Epoch) -> [u8; size_of::<GtagKey>()] {
    let key = GtagKey::new(group, epoch);
    let mut bytes = [0; size_of::<GtagKey>()];
    bytes[..16].copy_from_slice(&key.group);
    bytes[16] = key.prefix_len;
    bytes[17] = key.reserved;
    bytes[18..].copy_from_slice(&key.epoch.to_ne_bytes());
    bytes
}

fn expect(path: &Path, what: &'static str, found: u64, expected: u64) -> Result<(), MapError> {
    if found == expected { Ok(()) } else { Err(MapError::Shape { path: path.into(), what, found, expected }) }
}

fn write(map: &'static str, error: libbpf_rs::Error) -> MapError {
    MapError::Write { map, error: to_io(error) }
}

/// libbpf-rs hides the kernel's error behind its own kinds and text.
fn to_io(error: libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::NotFound => io::ErrorKind::NotFound,
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        _ => return io::Error::other(error.to_string()),
    };
    kind.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::id::{NodeId, Suite};
    use gemcast_xdp::counters::BLOCK;

    fn table(slots: usize, blocks: usize) -> KeyTable {
        let sync = Sync::anonymous().unwrap();
        sync.initialize(7, slots as u64, blocks as u64);
        KeyTable {
            seks: Seks::anonymous(slots).unwrap(),
            counters: Counters::anonymous(blocks).unwrap(),
            sync,
            counted: BTreeSet::new(),
            changed: false,
        }
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
        table.seks.clear();
        table.release_orphans();
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

    #[test]
    fn absent_pins_are_named() {
        let error = Maps::open(Path::new("/nonexistent")).err().expect("a refusal").to_string();
        assert!(error.contains(&format!("/nonexistent/bpf/v{LAYOUT_VERSION}/SYNC")), "{error}");
        assert!(error.contains("gemcast-dataplane"), "{error}");
    }

    #[test]
    fn gtag_keys_have_the_bytes_of_their_layout() {
        let bytes = gtag_key(&"239.1.0.0/16".parse().unwrap(), Epoch(0x0102));
        assert_eq!(bytes[..16], gemcast_proto::id::map_v4([239, 1, 0, 0]));
        assert_eq!((bytes[16], bytes[17]), (112, 0));
        assert_eq!(u16::from_ne_bytes([bytes[18], bytes[19]]), 0x0102);
    }
}
