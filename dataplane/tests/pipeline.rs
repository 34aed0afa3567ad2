//! The packet path without its IO: what goes in sealed comes out as it was, and nothing else comes out at all.

use gemcast_dataplane::pipeline::{Action, Now, Pipeline, Shared, Stop};
use gemcast_dataplane::police::Notice;
use gemcast_dataplane::replay::Windows;
use gemcast_dataplane::tables::{Flow, PortSet, Role, Tables};
use gemcast_lab::{Datagram, Mac};
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite, map};
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::{Class, classify};
use gemcast_proto::wire::frame::{OVERHEAD, PORT, ROOM};
use gemcast_xdp::counters::{BLOCK, Counters};
use gemcast_xdp::layout::Mark;
use gemcast_xdp::seks::{Sek, SekRole, Seks};
use gemcast_xdp::sync::Sync;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

const NOW: u64 = 1_800_000_000_000;
/// The clock that never goes back, at the first batch.
const START: u64 = 5_000_000;
const KEY: KeyId = KeyId(0x1234_5678);
const BUFFER: usize = 2048;
const TRUSTED: usize = 0;
const UNTRUSTED: usize = 1;

/// A gateway's pipeline over maps that outlive it.
struct Gateway {
    seks: Arc<Seks>,
    counters: Arc<Counters>,
    sync: Arc<Sync>,
    pipeline: Pipeline,
}

fn tables(groups: &[&str]) -> Tables {
    let flow = |group: &&str| Flow {
        group: group.parse().unwrap(),
        sealed: true,
        send: true,
        receive: true,
        transit: false,
        send_standby: false,
        receive_standby: false,
        ports: Vec::new(),
        sources: Vec::new(),
    };
    let mut tables = Tables::default().with_flows(groups.iter().map(flow).collect());
    tables.trusted.insert(TRUSTED);
    tables.untrusted.insert(UNTRUSTED);
    tables.replay_window = 64;
    tables.outer_ttl = 64;
    tables
}

impl Gateway {
    fn new(tables: Tables) -> Self {
        let seks = Arc::new(Seks::anonymous(64).unwrap());
        let counters = Arc::new(Counters::anonymous(4).unwrap());
        let sync = Arc::new(Sync::anonymous().unwrap());
        let pipeline = Pipeline::new(
            Shared {
                seks: Arc::clone(&seks),
                counters: Arc::clone(&counters),
                sync: Arc::clone(&sync),
                windows: Arc::new(Windows::new(1)),
            },
            0,
            1,
        );
        let mut gateway = Self { seks, counters, sync, pipeline };
        gateway.pipeline.set_tables(Arc::new(tables));
        gateway.at(0);
        gateway
    }

    /// Begins a batch, so many milliseconds after the first.
    fn at(&mut self, later_ms: u64) {
        self.pipeline.begin_batch(Now { wall_ms: NOW + later_ms, mono_ms: START + later_ms });
    }

    /// A pipeline over the same maps.
    fn worker(&self, windows: &Arc<Windows>) -> Pipeline {
        let (seks, counters) = (Arc::clone(&self.seks), Arc::clone(&self.counters));
        let shared = Shared { seks, counters, sync: Arc::clone(&self.sync), windows: Arc::clone(windows) };
        let mut pipeline = Pipeline::new(shared, 0, 1);
        pipeline.set_tables(Arc::new(self.pipeline.tables().clone()));
        pipeline.begin_batch(Now { wall_ms: NOW, mono_ms: START });
        pipeline
    }

    /// The next data plane over the same maps.
    fn restart(&mut self) {
        self.pipeline = self.worker(&Arc::new(Windows::new(1)));
    }

    fn changed(&mut self) {
        self.sync.bump_generation();
        self.at(0);
    }

    fn can_seal(mut self, group: &str, suite: Suite) -> Self {
        let counter_block = self.counters.allocate(KEY).unwrap();
        self.seks.insert(&sek(KEY, group, suite, SekRole::Seal { counter_block, active: true })).unwrap();
        self.changed();
        self
    }

    fn can_open(mut self, group: &str, suite: Suite) -> Self {
        self.seks.insert(&sek(KEY, group, suite, SekRole::Open)).unwrap();
        self.changed();
        self
    }

    /// Seals a cleartext frame as it came from the XDP program.
    fn seal(&mut self, frame: &[u8]) -> Result<Vec<u8>, Stop> {
        let flow = match classify(frame) {
            Class::Datagram(datagram) => self.pipeline.tables().find(&datagram.group),
            _ => None,
        };
        let mut buffer = vec![0; ROOM];
        buffer[..8].copy_from_slice(&Mark::new(Mark::SEAL, flow.unwrap_or(0)).emit());
        buffer.extend_from_slice(frame);
        self.process(Role::Trusted, buffer)
    }

    fn open(&mut self, frame: &[u8]) -> Result<Vec<u8>, Stop> {
        self.marked(Role::Untrusted, Mark::OPEN, frame)
    }

    /// A frame as it came from the XDP program, marked for its group's flow.
    fn marked(&mut self, role: Role, flags: u8, frame: &[u8]) -> Result<Vec<u8>, Stop> {
        let mut frame = frame.to_vec();
        let group = match classify(&*frame) {
            Class::Datagram(datagram) => datagram.group,
            _ => [0; 16],
        };
        let flow = self.pipeline.tables().find(&group).unwrap_or(0);
        if frame.len() >= 8 {
            frame[..8].copy_from_slice(&Mark::new(flags, flow).emit());
        }
        self.process(role, frame)
    }

    fn process(&mut self, role: Role, mut frame: Vec<u8>) -> Result<Vec<u8>, Stop> {
        let length = frame.len();
        frame.resize(BUFFER, 0xa5);
        let emit = self.pipeline.process(role, &mut frame, length)?;
        let mut expected = PortSet::default();
        expected.insert(if emit.action == Action::Opened { TRUSTED } else { UNTRUSTED });
        assert_eq!(emit.egress, expected);
        frame.truncate(emit.length);
        Ok(frame)
    }
}

fn sek(key_id: KeyId, group: &str, suite: Suite, role: SekRole) -> Sek {
    Sek {
        key_id,
        origin: NodeId([1; 8]),
        group: group.parse().unwrap(),
        epoch: Epoch(1),
        suite,
        role,
        not_after_ms: NOW + 1000,
        key: [3; 32],
        salt: [4; 12],
        gtag: [5; 16],
    }
}

fn datagram(group: &str, payload: Vec<u8>) -> Datagram {
    let group: IpAddr = group.parse().unwrap();
    let source: IpAddr = if group.is_ipv4() { "10.1.0.2" } else { "fd00:1::2" }.parse().unwrap();
    Datagram::new(Mac([2, 0, 0, 0, 0, 1]), source, group, 5000, payload)
}

fn reason(result: Result<Vec<u8>, Stop>) -> Reason {
    match result {
        Err(Stop::Drop(reason)) => reason,
        other => panic!("expected a drop, got {other:?}"),
    }
}

fn any_datagram() -> impl Strategy<Value = Datagram> {
    let header = (any::<u16>(), 2u8..=255, any::<u8>(), any::<u16>());
    (any::<bool>(), prop::collection::vec(any::<u8>(), 0..1452), header).prop_map(|(v6, payload, header)| {
        let (port, ttl, tos, source_port) = header;
        let group = if v6 { "ff3e::1:1" } else { "239.1.1.1" };
        let mut datagram = datagram(group, payload);
        datagram.port = if port == PORT { 1 } else { port };
        // An ECN field of CE cannot be told from one marked on the way; the others come back as they were.
        datagram.tos = if tos & 3 == 3 { tos & !1 } else { tos };
        (datagram.ttl, datagram.source_port) = (ttl, source_port);
        datagram
    })
}

proptest! {
    #[test]
    fn sealing_and_opening_is_the_identity(datagram in any_datagram(), chacha in any::<bool>(), checksum in any::<u16>()) {
        let suite = if chacha { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm };
        let group = datagram.group.to_string();
        let mut gateway = Gateway::new(tables(&[&group])).can_seal(&group, suite).can_open(&group, suite);
        let mut frame = datagram.to_frame();
        // Right or wrong, the checksum is the sender's: it comes back as it was.
        let at = datagram.headers_len() - 2;
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        let length = frame.len();
        // What Ethernet pads a short frame with is not part of the datagram.
        frame.resize(length.max(60), 0);
        let sealed = gateway.seal(&frame).unwrap();
        prop_assert_eq!(sealed.len(), length + OVERHEAD);
        if datagram.payload.len() >= 8 {
            prop_assert!(!sealed.windows(8).any(|window| window == &datagram.payload[..8]), "cleartext in the sealed packet");
        }
        let outer = Datagram::parse(&sealed).expect("a sealed packet is a datagram");
        prop_assert_eq!((outer.source, outer.group, outer.port), (datagram.source, datagram.group, PORT));
        prop_assert_eq!((outer.ttl, outer.tos), (64, datagram.tos));
        let opened = gateway.open(&sealed).unwrap();
        let inner = Datagram::parse(&opened).expect("an opened packet is a datagram");
        prop_assert_eq!(&opened[length - datagram.payload.len()..], &datagram.payload[..]);
        prop_assert_eq!(inner.checksum, checksum);
        prop_assert_eq!(
            (inner.source, inner.group, inner.source_port, inner.port, inner.ttl, inner.tos),
            (datagram.source, datagram.group, datagram.source_port, datagram.port, datagram.ttl, datagram.tos)
        );
    }

    #[test]
    fn one_flipped_bit_is_never_delivered(datagram in any_datagram(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let group = datagram.group.to_string();
        let suite = Suite::Aes256Gcm;
        let mut gateway = Gateway::new(tables(&[&group])).can_seal(&group, suite).can_open(&group, suite);
        let sealed = gateway.seal(&datagram.to_frame()).unwrap();
        let mut altered = sealed.clone();
        let at = at.index(altered.len());
        altered[at] ^= 1 << bit;
        if let Ok(opened) = gateway.open(&altered) {
            // Only what is not protected may differ: Ethernet addresses, and the IP fields that routers change.
            let inner = Datagram::parse(&opened).unwrap();
            prop_assert_eq!((inner.source, inner.group, inner.port), (datagram.source, datagram.group, datagram.port));
            prop_assert_eq!(inner.payload, datagram.payload);
            prop_assert_eq!(inner.ttl, datagram.ttl);
        }
    }

    #[test]
    fn no_frame_makes_it_panic(frame in prop::collection::vec(any::<u8>(), 0..200), trusted in any::<bool>()) {
        let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
        let role = if trusted { Role::Trusted } else { Role::Untrusted };
        for flags in 0..8 {
            prop_assert!(gateway.marked(role, flags, &frame).is_err());
        }
        prop_assert!(gateway.process(role, frame).is_err());
    }

    #[test]
    fn no_altered_header_makes_it_panic(
        datagram in any_datagram(),
        changes in prop::collection::vec((0usize..100, any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let group = datagram.group.to_string();
        let mut gateway = Gateway::new(tables(&[&group]))
            .can_seal(&group, Suite::Aes256Gcm)
            .can_open(&group, Suite::Aes256Gcm);
        let mut frame = datagram.to_frame();
        let mut sealed = gateway.seal(&frame).unwrap();
        for bytes in [&mut frame, &mut sealed] {
            for (at, value) in &changes {
                let at = at % bytes.len();
                bytes[at] = *value;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        let _ = gateway.seal(&frame);
        let _ = gateway.open(&sealed);
    }
}

#[test]
fn a_packet_is_opened_once() {
    let mut gateway = Gateway::new(tables(&["239.1.1.1"]))
        .can_seal("239.1.1.1", Suite::Aes256Gcm)
        .can_open("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 100]).to_frame();
    let sealed: Vec<Vec<u8>> = (0..100).map(|_| gateway.seal(&clear).unwrap()).collect();
    gateway.open(&sealed[50]).unwrap();
    assert_eq!(reason(gateway.open(&sealed[50])), Reason::Replay);
    gateway.open(&sealed[99]).unwrap();
    gateway.open(&sealed[40]).unwrap();
    assert_eq!(reason(gateway.open(&sealed[30])), Reason::TooOld);
}

#[test]
fn a_restarted_data_plane_accepts_nothing_a_second_time() {
    let mut gateway = Gateway::new(tables(&["239.1.1.1"]))
        .can_seal("239.1.1.1", Suite::Aes256Gcm)
        .can_open("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 100]).to_frame();
    let sealed: Vec<Vec<u8>> = (0..10).map(|_| gateway.seal(&clear).unwrap()).collect();
    gateway.open(&sealed[5]).unwrap();
    gateway.restart();
    for old in &sealed[..=5] {
        assert!(matches!(reason(gateway.open(old)), Reason::Replay | Reason::TooOld));
    }
    gateway.open(&sealed[6]).unwrap();
}

#[test]
fn no_counter_is_used_twice_whatever_is_killed() {
    let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    let mut seen = HashSet::new();
    for life in 0..20u64 {
        for _ in 0..life * 7 {
            let sealed = gateway.seal(&clear).unwrap();
            assert!(seen.insert(sealed[46..58].to_vec()), "key id and counter repeated");
        }
        gateway.restart();
    }
    let last = seen.iter().map(|bytes| u64::from_be_bytes(bytes[4..].try_into().unwrap())).max().unwrap();
    assert!(last > 18 * BLOCK, "each life has a block of its own");
}

#[test]
fn a_rewritten_slot_goes_on_with_its_counters() {
    let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    let counter = |sealed: Vec<u8>| u64::from_be_bytes(sealed[50..58].try_into().unwrap());
    assert_eq!(counter(gateway.seal(&clear).unwrap()), 1);
    let record = sek(KEY, "239.1.1.1", Suite::Aes256Gcm, SekRole::Seal { counter_block: 0, active: true });
    gateway.seks.insert(&record).unwrap();
    gateway.changed();
    assert_eq!(counter(gateway.seal(&clear).unwrap()), 2);
}

#[test]
fn a_counter_map_that_was_rolled_back_stops_the_key() {
    let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    gateway.seal(&clear).unwrap();
    gateway.counters.release(0, KEY);
    gateway.counters.allocate(KEY).unwrap();
    for _ in 1..BLOCK {
        gateway.seal(&clear).unwrap();
    }
    assert_eq!(reason(gateway.seal(&clear)), Reason::NoSealKey, "the block it would get now was used before");
}

#[test]
fn without_a_valid_key_nothing_leaves() {
    let mut gateway = Gateway::new(tables(&["239.1.1.1"]));
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    assert_eq!(reason(gateway.seal(&clear)), Reason::NoSealKey);
    gateway = gateway.can_seal("239.1.1.1", Suite::Aes256Gcm);
    gateway.seal(&clear).unwrap();
    gateway.at(1000);
    assert_eq!(reason(gateway.seal(&clear)), Reason::NoSealKey, "expired");
    gateway.seks.remove(KEY);
    gateway.changed();
    assert_eq!(reason(gateway.seal(&clear)), Reason::NoSealKey, "removed");
    // The same frame without room in front of it, as if the program had taken the group for a plain one.
    assert_eq!(reason(gateway.marked(Role::Trusted, 0, &clear)), Reason::StaleFlow);
}

#[test]
fn an_unknown_key_is_waited_for_and_then_opens() {
    let mut source = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let sealed = source.seal(&datagram("239.1.1.1", vec![7; 10]).to_frame()).unwrap();
    let mut gateway = Gateway::new(tables(&["239.1.1.1"]));
    let hold = Err(Stop::Hold { key_id: KEY, flow: 0, epoch: 1 });
    assert_eq!(gateway.open(&sealed), hold);
    gateway.seks.insert(&sek(KEY, "239.1.1.1", Suite::Aes256Gcm, SekRole::Open)).unwrap();
    assert_eq!(gateway.open(&sealed), hold, "keys appear between batches only, so that order is kept");
    gateway.changed();
    gateway.open(&sealed).unwrap();
    gateway.seks.remove(KEY);
    gateway.changed();
    assert_eq!(gateway.open(&sealed), hold, "a removed key opens nothing");
}

#[test]
fn a_key_opens_only_its_group_and_epoch() {
    let groups = ["239.1.1.1", "239.1.1.2"];
    let mut source = Gateway::new(tables(&groups)).can_seal("239.1.1.2", Suite::Aes256Gcm);
    let sealed = source.seal(&datagram("239.1.1.2", vec![7; 10]).to_frame()).unwrap();
    let mut gateway = Gateway::new(tables(&groups)).can_open("239.1.1.1", Suite::Aes256Gcm);
    assert_eq!(reason(gateway.open(&sealed)), Reason::WrongGroup);
    let mut gateway = Gateway::new(tables(&groups)).can_open("239.1.1.2", Suite::Aes256Gcm);
    let mut other_epoch = sealed.clone();
    other_epoch[44..46].copy_from_slice(&[0, 2]);
    assert_eq!(reason(gateway.open(&other_epoch)), Reason::WrongGroup);
    let mut other_port = sealed.clone();
    other_port[34] ^= 1;
    assert_eq!(reason(gateway.open(&other_port)), Reason::SourcePort);
    gateway.open(&sealed).unwrap();
}

#[test]
fn what_was_decrypted_is_held_to_the_groups_ports() {
    let mut tables = tables(&["239.1.1.1"]);
    let mut source = Gateway::new(tables.clone()).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let sealed = source.seal(&datagram("239.1.1.1", vec![7; 10]).to_frame()).unwrap();
    let mut flow = tables.flow(0).unwrap().clone();
    flow.ports = vec![5001];
    tables = tables.with_flows(vec![flow]);
    let mut gateway = Gateway::new(tables).can_open("239.1.1.1", Suite::Aes256Gcm);
    assert_eq!(reason(gateway.open(&sealed)), Reason::InnerPort);
}

#[test]
fn a_plain_group_is_relayed_as_it_is_and_a_prefix_covers_its_groups() {
    let mut tables = tables(&["239.2.0.0/16"]);
    let flow = Flow { sealed: false, ..tables.flow(0).unwrap().clone() };
    tables = tables.with_flows(vec![flow]);
    let mut gateway = Gateway::new(tables.clone());
    let clear = datagram("239.2.7.7", vec![7; 10]);
    let relayed = gateway.marked(Role::Trusted, 0, &clear.to_frame()).unwrap();
    assert_eq!(relayed[..6], clear.to_frame()[..6]);
    let expected = Datagram { mac: Mac(relayed[6..12].try_into().unwrap()), ttl: clear.ttl - 1, ..clear };
    assert_eq!(relayed, expected.to_frame(), "one hop less to live");
    let group: Group = "239.2.0.0/16".parse().unwrap();
    assert_eq!(tables.find(&map("239.2.7.7".parse().unwrap())), tables.find_group(&group));
}

#[test]
fn congestion_on_the_way_is_shown_to_the_receiver() {
    let mut gateway = Gateway::new(tables(&["ff3e::1:1"]))
        .can_seal("ff3e::1:1", Suite::Aes256Gcm)
        .can_open("ff3e::1:1", Suite::Aes256Gcm);
    let mut clear = datagram("ff3e::1:1", vec![7; 10]);
    clear.tos = 0xb8 | 0b10;
    let mut sealed = gateway.seal(&clear.to_frame()).unwrap();
    sealed[15] |= 0b0001_0000;
    let opened = Datagram::parse(&gateway.open(&sealed).unwrap()).unwrap();
    assert_eq!(opened.tos, 0xb8 | 0b11);
}

#[test]
fn a_sealed_packet_in_transit_changes_nothing_but_its_ttl() {
    for group in ["239.1.1.1", "ff3e::1:1"] {
        let mut source = Gateway::new(tables(&[group])).can_seal(group, Suite::Aes256Gcm);
        let clear = datagram(group, vec![7; 100]);
        let sealed = source.seal(&clear.to_frame()).unwrap();
        let mut relay = tables(&[group]);
        let flow = Flow { transit: true, send: false, receive: false, ..relay.flow(0).unwrap().clone() };
        relay = relay.with_flows(vec![flow]);
        let mut relay = Gateway::new(relay);
        let relayed = relay.marked(Role::Untrusted, Mark::TRANSIT, &sealed).unwrap();
        let (before, after) = (Datagram::parse(&sealed).unwrap(), Datagram::parse(&relayed).unwrap());
        assert_eq!((after.ttl, &after.payload), (before.ttl - 1, &before.payload));
        assert_eq!(relayed[..6], sealed[..6], "to the group's Ethernet address");
        let mut receiver = Gateway::new(tables(&[group])).can_open(group, Suite::Aes256Gcm);
        assert_eq!(Datagram::parse(&receiver.open(&relayed).unwrap()).unwrap().payload, clear.payload);
        let mut expiring = sealed;
        for _ in 0..63 {
            expiring = relay.marked(Role::Untrusted, Mark::TRANSIT, &expiring).unwrap();
        }
        assert_eq!(reason(relay.marked(Role::Untrusted, Mark::TRANSIT, &expiring)), Reason::TtlExpired);
        assert_eq!(reason(relay.marked(Role::Untrusted, Mark::TRANSIT, &clear.to_frame())), Reason::StaleFlow);
    }
}

#[test]
fn a_key_that_left_and_came_back_accepts_nothing_a_second_time() {
    let mut source = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    let sealed: Vec<_> = (0..3).map(|_| source.seal(&clear).unwrap()).collect();
    let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_open("239.1.1.1", Suite::Aes256Gcm);
    gateway.open(&sealed[0]).unwrap();
    gateway.seks.remove(KEY);
    gateway.changed();
    gateway.pipeline.sweep();
    gateway = gateway.can_open("239.1.1.1", Suite::Aes256Gcm);
    assert_eq!(reason(gateway.open(&sealed[0])), Reason::Replay);
    gateway.open(&sealed[1]).unwrap();
}

#[test]
fn our_own_packets_coming_back_are_not_waited_for() {
    let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let sealed = gateway.seal(&datagram("239.1.1.1", vec![7; 10]).to_frame()).unwrap();
    for _ in 0..2 {
        assert_eq!(reason(gateway.open(&sealed)), Reason::OwnKey);
    }
}

#[test]
fn a_straggler_of_a_wiped_key_is_not_waited_for() {
    let mut source = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let sealed = source.seal(&datagram("239.1.1.1", vec![7; 10]).to_frame()).unwrap();
    let mut gateway = Gateway::new(tables(&["239.1.1.1"]));
    gateway.sync.note_removed(KEY);
    assert_eq!(reason(gateway.open(&sealed)), Reason::KeyRetired);
    gateway = gateway.can_open("239.1.1.1", Suite::Aes256Gcm);
    gateway.open(&sealed).expect("a key that is back opens");
}

#[test]
fn two_workers_open_one_copy_of_a_packet() {
    let mut source = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    let gateway = Gateway::new(tables(&["239.1.1.1"])).can_open("239.1.1.1", Suite::Aes256Gcm);
    let windows = Arc::new(Windows::new(2));
    let mut workers = [gateway.worker(&windows), gateway.worker(&windows)];
    let mut copies = |sealed: &[u8], first: usize| {
        [first, 1 - first].map(|worker| {
            let mut frame = sealed.to_vec();
            frame[..8].copy_from_slice(&Mark::new(Mark::OPEN, 0).emit());
            let length = frame.len();
            workers[worker].process(Role::Untrusted, &mut frame, length).map(|emit| emit.action)
        })
    };
    for turn in 0..200 {
        let sealed = source.seal(&clear).unwrap();
        assert_eq!(copies(&sealed, turn % 2), [Ok(Action::Opened), Err(Stop::Drop(Reason::Replay))]);
    }
}

/// Packets with everything right but the payload, from so many sources in turn.
fn garbage(sealed: &[u8], source: u32) -> Vec<u8> {
    let mut frame = Datagram::parse(sealed).unwrap();
    frame.source = std::net::Ipv4Addr::from(source).into();
    // A counter that was not used yet, so that no window stops it.
    frame.payload[12] = 0x80;
    *frame.payload.last_mut().unwrap() ^= 1;
    frame.to_frame()
}

#[test]
fn r8_garbage_costs_one_aead_each_and_strangers_are_limited() {
    let mut source = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_open("239.1.1.1", Suite::Aes256Gcm);
    let first = source.seal(&clear).unwrap();
    gateway.open(&first).unwrap();
    let (mut failed, mut limited) = (0, 0);
    for n in 0..20_000 {
        match reason(gateway.open(&garbage(&first, 0x0a02_0000 + n % 3))) {
            Reason::Aead => failed += 1,
            Reason::AeadLimited => limited += 1,
            other => panic!("{other:?}"),
        }
        gateway.open(&source.seal(&clear).unwrap()).expect("the honest source is known, and loses nothing");
    }
    assert_eq!((failed, limited), (3 * 512, 20_000 - 3 * 512));
    let notices: Vec<Notice> = gateway.pipeline.notices().collect();
    assert!(matches!(notices[..], [Notice { key_id: KEY, ban: false, .. }]), "{notices:?}");
}

#[test]
fn r8_garbage_in_the_name_of_the_honest_source_is_reported_before_the_source_is_hurt() {
    let mut source = Gateway::new(tables(&["239.1.1.1"])).can_seal("239.1.1.1", Suite::Aes256Gcm);
    let clear = datagram("239.1.1.1", vec![7; 10]).to_frame();
    let mut gateway = Gateway::new(tables(&["239.1.1.1"])).can_open("239.1.1.1", Suite::Aes256Gcm);
    let first = source.seal(&clear).unwrap();
    gateway.open(&first).unwrap();
    let honest = u32::from_be_bytes([10, 1, 0, 2]);
    let mut failed = 0;
    while !gateway.pipeline.has_notices() {
        assert_eq!(reason(gateway.open(&garbage(&first, honest))), Reason::Aead);
        failed += 1;
        gateway.open(&source.seal(&clear).unwrap()).expect("nothing is lost before the ban");
    }
    let notices: Vec<Notice> = gateway.pipeline.notices().collect();
    let source_address = map("10.1.0.2".parse().unwrap());
    assert_eq!(notices, [Notice { key_id: KEY, failed, limited: 0, source: source_address, ban: true }]);
    for _ in 0..4_000 {
        assert_eq!(
            reason(gateway.open(&garbage(&first, honest))),
            Reason::Aead,
            "there is room until the ban is in force"
        );
    }
    gateway.open(&source.seal(&clear).unwrap()).unwrap();
}
