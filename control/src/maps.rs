//! The pinned maps through which keys reach the data plane: opened, checked, written.
//!
//! The data plane makes and pins them; this process is the only writer of keys. Maps are a cache: everything in them is
//! written again from the engine's state when they are found empty or new.

mod keys;

pub use keys::{KeyRepairs, KeyTable};

use gemcast_engine::secret::Secret;
use gemcast_proto::id::{Epoch, Group, KeyId};
use gemcast_xdp::counters::Counters;
use gemcast_xdp::layout::{GtagKey, SipKey};
use gemcast_xdp::seks::Seks;
use gemcast_xdp::sync::Sync;
use gemcast_xdp::{LAYOUT_VERSION, name};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use zeroize::Zeroizing;

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
    /// A pin is gone and cannot be made again.
    #[error("the pin {path} is gone and cannot be made again: {error}; restart gemcast-dataplane")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
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
/// Interface that packets under a key are relayed from, as the engine wants it in the map.
pub type Transits = BTreeMap<KeyId, u32>;

/// What was wrong with the maps and is right again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Repairs {
    /// Keys and their counters.
    pub keys: KeyRepairs,
    /// Entries of `GTAG` written or removed.
    pub gtags: usize,
    /// Entries of `TRANSIT` written or removed.
    pub transits: usize,
    /// Entries of `BANS` written or removed.
    pub bans: usize,
    /// Whether `SYNC` described other maps than these.
    pub sync: bool,
    /// Pins that were gone, or of another map, and were made again.
    pub pins: usize,
}

/// The maps of one data plane.
pub struct Maps {
    /// Source encryption keys and their counters.
    pub keys: KeyTable,
    gtag: MapHandle,
    bans: MapHandle,
    /// Absent when the data plane is of a version without it.
    transit: Option<MapHandle>,
    pins: Pins,
    described: Description,
}

/// Value of `BANS`.
const BANNED: [u8; 1] = [1];

/// What `SYNC` says of the maps.
struct Description {
    incarnation: u64,
    slots: u64,
    blocks: u64,
    hash_key: [u64; 2],
}

impl Maps {
    /// Opens the maps pinned under an instance's directory.
    pub fn open(instance_dir: &Path) -> Result<Self, MapError> {
        let dir = instance_dir.join("bpf").join(format!("v{LAYOUT_VERSION}"));
        let open = |name: &str| {
            let path = dir.join(name);
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
        let seks = seks.under(sync.hash_key());

        let (map, path) = open(name::COUNTERS)?;
        expect(&path, "size", u64::from(map.max_entries()), blocks)?;
        let counters = Counters::new(&map, blocks as usize).map_err(|error| MapError::Open { path, error })?;

        let (gtag, path) = open(name::GTAG)?;
        expect(&path, "key size", u64::from(gtag.key_size()), size_of::<GtagKey>() as u64)?;
        expect(&path, "value size", u64::from(gtag.value_size()), size_of::<SipKey>() as u64)?;
        let (bans, path) = open(name::BANS)?;
        expect(&path, "key size", u64::from(bans.key_size()), size_of::<u32>() as u64)?;
        expect(&path, "value size", u64::from(bans.value_size()), 1)?;
        let transit = match open(name::TRANSIT) {
            Ok((map, path)) => {
                expect(&path, "key size", u64::from(map.key_size()), size_of::<u32>() as u64)?;
                expect(&path, "value size", u64::from(map.value_size()), size_of::<u32>() as u64)?;
                Some(map)
            }
            Err(_) => None,
        };
        let described = Description {
            incarnation: page.incarnation.load(Ordering::Relaxed),
            slots,
            blocks,
            hash_key: sync.hash_key(),
        };
        let pins = Pins::open(dir);
        Ok(Self { keys: KeyTable::new(seks, counters, sync), described, gtag, bans, transit, pins })
    }

    /// Writes a gtag key.
    pub fn install_gtag(&self, group: &Group, epoch: Epoch, key: &Secret<16>) -> Result<(), MapError> {
        let updated = self.gtag.update(&gtag_key(group, epoch), &*sip_key(key), MapFlags::ANY);
        updated.map_err(|error| write(name::GTAG, error))
    }

    /// Removes a gtag key; one that is not there is removed already.
    pub fn remove_gtag(&self, group: &Group, epoch: Epoch) -> Result<(), MapError> {
        delete(&self.gtag, name::GTAG, &gtag_key(group, epoch))
    }

    /// Has every packet under a key dropped before it is copied.
    pub fn ban(&self, key_id: KeyId) -> Result<(), MapError> {
        self.bans.update(&key_id.0.to_ne_bytes(), &BANNED, MapFlags::ANY).map_err(|error| write(name::BANS, error))
    }

    /// Lets packets under a key in again; one that is not banned is let in already.
    pub fn unban(&self, key_id: KeyId) -> Result<(), MapError> {
        delete(&self.bans, name::BANS, &key_id.0.to_ne_bytes())
    }

    /// Relays packets under a key, when they come in by this interface; under none with `None`.
    pub fn set_transit(&self, key_id: KeyId, ifindex: Option<u32>) -> Result<(), MapError> {
        let Some(transit) = &self.transit else { return Ok(()) };
        let key = key_id.0.to_ne_bytes();
        match ifindex {
            Some(ifindex) => {
                let updated = transit.update(&key, &ifindex.to_ne_bytes(), MapFlags::ANY);
                updated.map_err(|error| write(name::TRANSIT, error))
            }
            None => delete(transit, name::TRANSIT, &key),
        }
    }

    /// Whether sealed packets can be relayed.
    pub fn has_transit(&self) -> bool {
        self.transit.is_some()
    }

    /// Keys whose packets can be relayed at a time.
    pub fn transit_room(&self) -> usize {
        self.transit.as_ref().map_or(0, |transit| transit.max_entries() as usize)
    }

    /// Frees counters that an earlier process left and nobody wants.
    pub fn tidy(&self) {
        self.keys.release_orphans();
    }

    /// Compares everything with what was written, and puts right what differs. `pins`: those, too; only while the data
    /// plane of these maps runs, as another one may be pinning its own. A map that refuses something keeps no other from
    /// being repaired: the first refusal is returned with what was done.
    pub fn repair(
        &mut self,
        gtags: &Gtags,
        transits: &Transits,
        bans: &BTreeSet<KeyId>,
        pins: bool,
    ) -> (Repairs, Result<(), MapError>) {
        let sync = self.keys.describe(&self.described);
        let keys = self.keys.repair();
        let gtags = gtags.iter().map(|((group, epoch), key)| (gtag_key(group, *epoch).to_vec(), sip_key(key)));
        let (gtags, gtags_refused) = reconcile(&self.gtag, name::GTAG, &gtags.collect());
        let bans = bans.iter().map(|key_id| (key_id.0.to_ne_bytes().to_vec(), Zeroizing::new(BANNED)));
        let (bans, bans_refused) = reconcile(&self.bans, name::BANS, &bans.collect());
        let transits = transits
            .iter()
            .map(|(key_id, ifindex)| (key_id.0.to_ne_bytes().to_vec(), Zeroizing::new(ifindex.to_ne_bytes())));
        let (transits, transits_refused) = match &self.transit {
            Some(transit) => reconcile(transit, name::TRANSIT, &transits.collect()),
            None => (0, Ok(())),
        };
        let (pins, pins_refused) = if pins { self.pins.repair() } else { (0, Ok(())) };
        let refused = gtags_refused.and(bans_refused).and(transits_refused).and(pins_refused);
        (Repairs { keys, gtags, transits, bans, sync, pins }, refused)
    }

    /// Declares the counters to be without history, and says what the maps are called now.
    pub fn forget_own(&mut self, incarnation: u64) {
        self.keys.forget_own(incarnation);
        self.described.incarnation = incarnation;
    }
}

/// Makes a hash map hold these entries and no others; returns how many differed, and the first that was refused. What has
/// no place there goes first, so that there is room for what has.
fn reconcile<const N: usize>(
    map: &MapHandle,
    name: &'static str,
    wanted: &BTreeMap<Vec<u8>, Zeroizing<[u8; N]>>,
) -> (usize, Result<(), MapError>) {
    let (mut differing, mut refused) = (0, Ok(()));
    // Collected first: deleting while walking a hash map starts the walk over.
    let stale: Vec<_> = map.keys().filter(|key| !wanted.contains_key(key)).collect();
    for key in &stale {
        differing += 1;
        refused = refused.and(delete(map, name, key));
    }
    for (key, value) in wanted {
        let found = map.lookup(key, MapFlags::ANY).ok().flatten().map(Zeroizing::new);
        if found.is_none_or(|found| found[..] != value[..]) {
            match map.update(key, &value[..], MapFlags::ANY) {
                Ok(()) => differing += 1,
                Err(error) => refused = refused.and(Err(write(name, error))),
            }
        }
    }
    (differing, refused)
}

/// Removes an entry; one that is not there is removed already.
fn delete(map: &MapHandle, name: &'static str, key: &[u8]) -> Result<(), MapError> {
    match map.delete(key) {
        Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => Err(write(name, error)),
        _ => Ok(()),
    }
}

/// The pinned maps as they were found: a pin is what a data plane that restarts finds its maps by. Pins of programs and
/// links come and go with interfaces, and are the data plane's own.
struct Pins {
    dir: PathBuf,
    maps: Vec<(String, MapHandle, u32)>,
}

impl Pins {
    fn open(dir: PathBuf) -> Self {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let pinned = entries.filter_map(|entry| {
            let map = MapHandle::from_pinned_path(entry.path()).ok()?;
            let id = id(&map)?;
            Some((entry.file_name().into_string().ok()?, map, id))
        });
        let maps = pinned.collect();
        Self { dir, maps }
    }

    /// Pins again what is not pinned any more, or hides behind another map; returns how many, and the first that cannot be.
    fn repair(&mut self) -> (usize, Result<(), MapError>) {
        let (mut repaired, mut refused) = (0, Ok(()));
        for (name, map, id_of_map) in &mut self.maps {
            let path = self.dir.join(&*name);
            let pinned = path.exists().then(|| MapHandle::from_pinned_path(&path).ok()).flatten();
            if pinned.as_ref().and_then(id) == Some(*id_of_map) {
                continue;
            }
            // Made again only where a file system for pins still is; a plain directory takes none.
            let made = std::fs::create_dir_all(&self.dir).and_then(|()| match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => map.pin(&path).map_err(to_io),
            });
            match made {
                Ok(()) => repaired += 1,
                Err(error) => refused = refused.and(Err(MapError::Pin { path, error })),
            }
        }
        (repaired, refused)
    }
}

fn id(map: &MapHandle) -> Option<u32> {
    map.info().ok().map(|info| info.info.id)
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

/// The bytes of a [`SipKey`].
fn sip_key(key: &Secret<16>) -> Zeroizing<[u8; size_of::<SipKey>()]> {
    let value = SipKey::new(key.expose());
    let mut bytes = Zeroizing::new([0; 16]);
    bytes[..8].copy_from_slice(&value.k0.to_ne_bytes());
    bytes[8..].copy_from_slice(&value.k1.to_ne_bytes());
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
