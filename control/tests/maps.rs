//! F13: the maps are a cache, and the control process rebuilds them. Real BPF maps, made and pinned by the test in the
//! data plane's place, in a network and mount namespace of each test's own. Needs root.

mod site;

use gemcast_control::maps::Maps;
use gemcast_proto::id::{Group, KeyId};
use gemcast_xdp::counters::{CounterBlock, Counters};
use gemcast_xdp::layout::{GtagKey, SipKey};
use gemcast_xdp::seks::{Sek, SekRole, SekSlot, Seks};
use gemcast_xdp::sync::{Sync, SyncPage};
use gemcast_xdp::{LAYOUT_VERSION, name};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use site::{Daemon, PATIENCE, Peer, Site};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

const SLOTS: u32 = 64;
const BLOCKS: u32 = 8;

/// The maps of a data plane that the test plays, pinned where a real one pins them.
struct Cache {
    dir: PathBuf,
    maps: Vec<(&'static str, MapHandle)>,
    sync: Sync,
    seks: Seks,
    counters: Counters,
}

impl Cache {
    fn pin(site: &Site, incarnation: u64) -> Self {
        let dir = site.path("run/default/bpf").join(format!("v{LAYOUT_VERSION}"));
        fs::create_dir_all(&dir).unwrap();
        let make = |name, kind, key, value, entries, flags| {
            let options = libbpf_sys::bpf_map_create_opts {
                sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
                map_flags: flags,
                ..Default::default()
            };
            let mut map = MapHandle::create(kind, Some(name), key, value as u32, entries, &options).unwrap();
            map.pin(dir.join(name)).unwrap();
            (name, map)
        };
        let array = |name, value, entries| make(name, MapType::Array, 4, value, entries, libbpf_sys::BPF_F_MMAPABLE);
        let hash = |name, key, value| make(name, MapType::Hash, key, value, 64, 0);
        let maps = vec![
            array(name::SYNC, size_of::<SyncPage>(), 1),
            array(name::SEKS, size_of::<SekSlot>(), SLOTS),
            array(name::COUNTERS, size_of::<CounterBlock>(), BLOCKS),
            hash(name::GTAG, size_of::<GtagKey>() as u32, size_of::<SipKey>()),
            hash(name::TRANSIT, 4, 4),
            hash(name::BANS, 4, 1),
        ];
        let sync = Sync::new(&maps[0].1).unwrap();
        sync.initialize(incarnation, SLOTS.into(), BLOCKS.into());
        let seks = Seks::new(&maps[1].1, SLOTS as usize).unwrap();
        let counters = Counters::new(&maps[2].1, BLOCKS as usize).unwrap();
        Self { dir, maps, sync, seks, counters }
    }

    fn map(&self, name: &str) -> &MapHandle {
        &self.maps.iter().find(|(other, _)| *other == name).unwrap().1
    }

    fn gtags(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let map = self.map(name::GTAG);
        let value = |key: &[u8]| map.lookup(key, MapFlags::ANY).unwrap().unwrap();
        map.keys().map(|key| (key.clone(), value(&key))).collect()
    }

    fn sealing(&self) -> Sek {
        self.seks.find_seal(&group()).expect("a key that seals").2
    }
}

fn group() -> Group {
    "239.1.1.1".parse().unwrap()
}

/// Runs a test with a daemon, its data plane's connection, and maps.
fn with_maps(test: impl FnOnce(&Site, &mut Daemon, &mut Peer, &mut Cache) + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("namespaces: run the tests as root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let site = Site::new();
        let bpf = site.path("run/default/bpf");
        fs::create_dir_all(&bpf).unwrap();
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let mut cache = Cache::pin(&site, 0xabc);
        let listener = site.data_plane();
        let mut daemon = site.start();
        let mut peer = Peer::accept(&listener);
        peer.greet(LAYOUT_VERSION);
        daemon.await_line("key maps in use");
        daemon.await_line("key made");
        eventually(|| cache.seks.find_seal(&group()).is_some() && cache.gtags().len() == 1);
        test(&site, &mut daemon, &mut peer, &mut cache);
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Waits for something that no process announces.
fn eventually(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came true");
        std::thread::yield_now();
    }
}

#[test]
fn f13_emptied_maps_are_filled_again() {
    with_maps(|site, daemon, _, cache| {
        let (key, gtags) = (cache.sealing(), cache.gtags());
        let generation = cache.sync.generation();
        cache.seks.clear();
        for (entry, _) in &gtags {
            cache.map(name::GTAG).delete(entry).unwrap();
        }
        eventually(|| cache.seks.find_seal(&group()).is_some() && cache.gtags().len() == 1);
        let line = daemon.await_line("the maps were changed by another");
        assert!(cache.sealing().is_same(&key), "the same key with the same counters: {line}");
        assert_eq!(cache.gtags(), gtags);
        eventually(|| cache.sync.generation() > generation);
        let events = site.gemctl(&["-o", "json", "events"]);
        let lines = String::from_utf8(events.stdout).unwrap();
        let repaired = lines.lines().find(|line| line.contains("\"maps_repaired\"")).expect("an event");
        assert!(repaired.contains("\"keys_written\":\"1\""), "{repaired}");
    });
}

#[test]
fn f13_scribbled_maps_are_put_right() {
    with_maps(|_, daemon, _, cache| {
        let (key, gtags, foreign) = (cache.sealing(), cache.gtags(), cache.sealing());
        let map = cache.map(name::SEKS);
        // A key of somebody else's that would seal, and noise in every other slot.
        let mut foreign = foreign;
        foreign.key_id = KeyId(77);
        cache.seks.insert(&foreign).unwrap();
        for slot in (0..SLOTS).step_by(2) {
            let noise: Vec<_> = (0..size_of::<SekSlot>()).map(|i| (i as u32 * 31 + slot * 7 + 2) as u8).collect();
            map.update(&slot.to_ne_bytes(), &noise, MapFlags::ANY).unwrap();
        }
        let stray = [0xee; size_of::<GtagKey>()];
        cache.map(name::GTAG).update(&stray, &[1; 16], MapFlags::ANY).unwrap();
        cache.map(name::GTAG).update(&gtags[0].0, &[1; 16], MapFlags::ANY).unwrap();
        cache.map(name::TRANSIT).update(&[1, 2, 3, 4], &[9, 0, 0, 0], MapFlags::ANY).unwrap();
        cache.sync.page().incarnation.store(1, Ordering::Relaxed);
        cache.sync.page().layout_version.store(0, Ordering::Relaxed);
        daemon.await_line("the maps were changed by another");
        eventually(|| cache.seks.iter().count() == 1 && cache.seks.find_seal(&group()).is_some());
        eventually(|| cache.gtags() == gtags && cache.map(name::TRANSIT).keys().count() == 0);
        assert!(cache.sealing().is_same(&key));
        eventually(|| cache.sync.is_current());
        assert_eq!(cache.sync.page().incarnation.load(Ordering::Relaxed), 0xabc);
    });
}

#[test]
fn f13_lost_counters_end_the_key_and_a_new_one_seals_at_once() {
    with_maps(|_, daemon, _, cache| {
        let key = cache.sealing();
        let SekRole::Seal { counter_block, .. } = key.role else { panic!("seals") };
        cache.counters.reserve(counter_block, key.key_id, 0).unwrap();
        let none = [0; size_of::<CounterBlock>()];
        cache.map(name::COUNTERS).update(&counter_block.to_ne_bytes(), &none, MapFlags::ANY).unwrap();
        daemon.await_line("packet counters are lost, so new keys replace every own one");
        eventually(|| cache.seks.find_seal(&group()).is_some_and(|(_, _, sek)| sek.key_id != key.key_id));
        let SekRole::Seal { counter_block, .. } = cache.sealing().role else { panic!("seals") };
        assert_eq!(cache.counters.reserved(counter_block, cache.sealing().key_id), Some(0), "counters of its own");
        assert_ne!(cache.sync.page().incarnation.load(Ordering::Relaxed), 0xabc, "maps without that history");
    });
}

#[test]
fn f13_pins_that_are_gone_or_false_are_made_again() {
    with_maps(|_, daemon, _, cache| {
        let id = |map: &MapHandle| map.info().unwrap().info.id;
        fs::remove_file(cache.dir.join(name::SEKS)).unwrap();
        fs::remove_file(cache.dir.join(name::GTAG)).unwrap();
        fs::rename(cache.dir.join(name::TRANSIT), cache.dir.join(name::GTAG)).unwrap();
        daemon.await_line("the maps were changed by another");
        for name in [name::SEKS, name::GTAG, name::TRANSIT] {
            eventually(|| {
                MapHandle::from_pinned_path(cache.dir.join(name)).is_ok_and(|map| id(&map) == id(cache.map(name)))
            });
        }
    });
}

#[test]
fn f13_a_data_plane_that_starts_anew_gets_everything_anew() {
    with_maps(|site, daemon, peer, cache| {
        let key = cache.sealing();
        fs::remove_dir_all(&cache.dir).unwrap();
        let _ = fs::remove_file(site.path("run/default/dataplane.sock"));
        let listener = site.data_plane();
        peer.hang_up();
        daemon.await_line("data plane lost");
        let fresh = Cache::pin(site, 0xdef);
        let mut peer = Peer::accept(&listener);
        peer.greet_with(LAYOUT_VERSION, 0xdef);
        daemon.await_line("key maps in use");
        eventually(|| fresh.seks.find_seal(&group()).is_some() && fresh.gtags() == cache.gtags());
        assert_ne!(fresh.sealing().key_id, key.key_id, "no key seals under counters without history");
    });
}

#[test]
fn a_stuck_worker_is_a_problem_and_control_leaves_signs_of_life() {
    with_maps(|site, _, _, cache| {
        let page = cache.sync.page();
        eventually(|| page.control_heartbeat_ms.load(Ordering::Relaxed) > 0);
        let beat = page.control_heartbeat_ms.load(Ordering::Relaxed);
        page.worker_heartbeat_ms[2].store(1, Ordering::Relaxed);
        eventually(|| page.control_heartbeat_ms.load(Ordering::Relaxed) > beat);
        let stalled = || {
            let problems = site.json(&["status"])["problems"].clone();
            problems.as_array().unwrap().iter().any(|problem| problem["code"] == "dataplane_stalled")
        };
        eventually(stalled);
        page.worker_heartbeat_ms[2].store(u64::MAX, Ordering::Relaxed);
        eventually(|| !stalled());
    });
}

#[test]
fn r5_a_map_without_room_keeps_no_other_from_being_repaired() {
    with_maps(|site, _, peer, cache| {
        peer.hang_up();
        let mut maps = Maps::open(&site.path("run/default")).unwrap();
        let transits = (1..=65).map(|id| (KeyId(id), 1)).collect();
        let bans = [KeyId(7)].into();
        fs::remove_file(cache.dir.join(name::BANS)).unwrap();
        let SekRole::Seal { counter_block, .. } = cache.sealing().role else { panic!("seals") };
        let none = [0; size_of::<CounterBlock>()];
        cache.map(name::COUNTERS).update(&counter_block.to_ne_bytes(), &none, MapFlags::ANY).unwrap();
        let (repairs, written) = maps.repair(&BTreeMap::new(), &transits, &bans, true);
        let refused = written.unwrap_err().to_string();
        assert!(refused.contains(name::TRANSIT), "{refused}");
        assert_eq!(cache.map(name::TRANSIT).keys().count(), 64, "as many as there is room for");
        assert_eq!((repairs.transits, repairs.bans, repairs.pins, repairs.keys.uncounted), (64, 1, 1, 1));
        assert!(cache.dir.join(name::BANS).exists());
    });
}
