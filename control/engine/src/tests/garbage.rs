//! Whatever bytes a neighbour sends, with the bootstrap key or without: the engine takes them, counts, and goes on.

use super::rig::{Rig, members};
use crate::derive::babel_mac_key;
use crate::input::{Input, Packet};
use crate::mac::{Keys, PseudoHeader};
use crate::output::Event;
use crate::secret::Secret;
use core::net::Ipv6Addr;
use core::time::Duration;
use gemcast_proto::wire::babel::{GROUP, RawTlv, Tlv, Writer, kind};
use proptest::prelude::*;

pub(super) const STRANGER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);

/// A neighbour that holds the key and says what it likes.
pub(super) struct Liar {
    keys: Keys,
    counter: u32,
}

impl Liar {
    pub(super) fn new() -> Self {
        let key = babel_mac_key(&Secret::new([9; 32]));
        Self { keys: Keys::new(crate::config::MacAlgorithm::HmacSha256, [&key]), counter: 0 }
    }

    /// Sends these TLVs, and answers a challenge first if `nonce` is one.
    pub(super) fn send(&mut self, rig: &mut Rig, destination: Ipv6Addr, nonce: Option<&[u8]>, tlvs: &[(u8, Vec<u8>)]) {
        self.counter += 1;
        let mut payload = vec![0; 1400];
        let mut writer = Writer::new(&mut payload, STRANGER);
        writer.push(&Tlv::Pc { counter: self.counter, index: b"liar" }).unwrap();
        if let Some(nonce) = nonce {
            writer.push(&Tlv::ChallengeReply(nonce)).unwrap();
        }
        for (kind, body) in tlvs {
            if writer.push(&Tlv::Other(RawTlv { kind: *kind, body })).is_err() {
                break;
            }
        }
        let len = writer.finish();
        payload.truncate(len);
        let header = PseudoHeader { source: STRANGER, source_port: 6696, destination, destination_port: 6696 };
        self.keys.sign(&header, &mut payload);
        let packet = Packet { ifindex: 0, source: STRANGER, source_port: 6696, destination, payload: &payload };
        rig.handle(0, Input::Packet(packet));
    }

    /// Becomes a neighbour of host 0.
    pub(super) fn introduce(&mut self, rig: &mut Rig) {
        rig.wire.clear();
        self.send(rig, GROUP, None, &[]);
        rig.run(Duration::from_millis(5));
        let nonce = rig.wire.iter().find_map(|sent| sent.find(kind::CHALLENGE_REQUEST)).expect("a challenge");
        self.send(rig, GROUP, Some(&nonce), &[]);
        let up = |event: &Event| matches!(event, Event::NeighbourUp { address, .. } if *address == STRANGER);
        assert!(rig.hosts[0].events.iter().any(up));
    }
}

fn any_tlv() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let kind = prop_oneof![1..12u8, 224..228u8, any::<u8>()];
    (kind, proptest::collection::vec(any::<u8>(), 0..120))
        .prop_filter("PC is ours, Pad1 has no body", |(kind, _)| ![0, 17].contains(kind))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn authenticated_garbage_is_survived(
        packets in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any_tlv(), 0..12), 0..2000u64), 1..30)
    ) {
        let mut rig = Rig::new(members(2), &[&[0, 1]]);
        rig.run_until(Duration::from_secs(3), |rig| rig.opens(0, 1) && rig.opens(1, 0));
        let mut liar = Liar::new();
        liar.introduce(&mut rig);
        for (unicast, tlvs, pause_ms) in packets {
            let destination = if unicast { Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1) } else { GROUP };
            liar.send(&mut rig, destination, None, &tlvs);
            rig.run(Duration::from_millis(pause_ms));
            prop_assert!(rig.opens(0, 1) && rig.opens(1, 0));
        }
    }

    #[test]
    fn bytes_from_nowhere_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut rig = Rig::new(members(1), &[&[0]]);
        for source in [STRANGER, Ipv6Addr::LOCALHOST] {
            let packet = Packet { ifindex: 0, source, source_port: 6696, destination: GROUP, payload: &bytes };
            rig.handle(0, Input::Packet(packet));
        }
        let counters = rig.hosts[0].engine.counters;
        prop_assert_eq!(counters.refused_malformed + counters.refused_mac, 2);
    }
}

#[test]
fn a_flood_of_refused_packets_is_reported_now_and_then() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    for _ in 0..10_000 {
        let packet =
            Packet { ifindex: 0, source: STRANGER, source_port: 6696, destination: GROUP, payload: b"no babel" };
        rig.handle(0, Input::Packet(packet));
    }
    assert_eq!(rig.hosts[0].engine.counters.refused_malformed, 10_000);
    assert!(rig.hosts[0].events.len() < 100, "{} events", rig.hosts[0].events.len());
}

#[test]
fn an_acknowledgement_does_not_wait_for_minutes() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    let mut liar = Liar::new();
    liar.introduce(&mut rig);
    rig.wire.clear();
    liar.send(&mut rig, GROUP, None, &[(kind::ACK_REQUEST, vec![0, 0, 0, 7, 0xff, 0xff])]);
    rig.run(Duration::from_secs(2));
    assert!(rig.wire.iter().any(|sent| sent.find(kind::ACK).is_some()));
}

#[test]
fn a_router_that_passes_routes_and_no_objects_is_noticed() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    let mut router = Liar::new();
    router.introduce(&mut rig);
    let far = [0xfa; 8];
    let hello = |seqno| (kind::HELLO, vec![0, 0, 0, seqno, 0xff, 0xff]);
    let ihu = (kind::IHU, vec![3, 0, 0, 96, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1]);
    let router_id = (kind::ROUTER_ID, [&[0, 0], &far[..]].concat());
    let update = [&[2, 0, 128, 0, 0xff, 0xff, 0, 1, 0, 0, 0xfd], &b"gemcast"[..], &far].concat();
    router.send(&mut rig, GROUP, None, &[hello(1), hello(2), ihu, router_id, (kind::UPDATE, update)]);
    let missing = |rig: &Rig| {
        let events = rig.hosts[0].events.iter();
        events.filter(|event| matches!(event, Event::ObjectsMissing { node } if node.0 == far)).count()
    };
    rig.run(Duration::from_secs(12));
    assert_eq!(missing(&rig), 0, "objects may well take a moment longer than routes");
    rig.run(Duration::from_secs(60));
    assert_eq!(missing(&rig), 1, "said once");
}
