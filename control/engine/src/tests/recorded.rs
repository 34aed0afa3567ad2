//! Packets of babeld and BIRD as they were on the wire: every TLV is read, every MAC is right, and what they say is
//! understood.

use crate::config::MacAlgorithm;
use crate::mac::{Keys, PseudoHeader};
use crate::secret::Secret;
use core::net::Ipv6Addr;
use gemcast_proto::wire::babel::{Announcement, Context, INFINITY, Packet, Tlv, kind};
use std::collections::BTreeSet;

struct Recorded {
    make: &'static str,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    payload: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let lines = include_str!("recorded.txt").lines().filter(|line| !line.starts_with('#'));
    let byte = |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
    let packet = |line: &'static str| {
        let [make, source, destination, payload] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let payload = payload.as_bytes().chunks(2).map(byte).collect();
        Recorded { make, source: source.parse().unwrap(), destination: destination.parse().unwrap(), payload }
    };
    lines.map(packet).collect()
}

impl Recorded {
    fn tlvs(&self) -> Vec<Tlv<'_>> {
        let packet = Packet::parse(&self.payload).unwrap();
        packet.body().map(|raw| Tlv::parse(raw.unwrap()).unwrap()).collect()
    }

    fn announcements(&self) -> Vec<Announcement> {
        let mut context = Context::new(self.source);
        let mut announcements = Vec::new();
        for tlv in self.tlvs() {
            match tlv {
                Tlv::RouterId(id) => context.set_router_id(id),
                Tlv::NextHop(address) => context.set_next_hop(address),
                Tlv::Update(update) => announcements.push(context.update(&update).unwrap()),
                _ => {}
            }
        }
        announcements
    }
}

#[test]
fn macs_of_other_makes_verify_and_others_do_not() {
    let key = Secret::new(core::array::from_fn(|n| n as u8));
    let keys = Keys::new(MacAlgorithm::HmacSha256, [&key]);
    let other = Keys::new(MacAlgorithm::HmacSha256, [&Secret::new([0; 32])]);
    for Recorded { make, source, destination, payload } in recorded() {
        let header = PseudoHeader { source, source_port: 6696, destination, destination_port: 6696 };
        let packet = Packet::parse(&payload).unwrap();
        assert!(keys.verify(&header, &packet) && !other.verify(&header, &packet), "{make}");
        let mut bent = payload.clone();
        bent[5] ^= 1;
        assert!(!keys.verify(&header, &Packet::parse(&bent).unwrap()), "{make}");
    }
}

#[test]
fn every_tlv_of_other_makes_is_read() {
    let all = recorded();
    let mut kinds = BTreeSet::new();
    for packet in &all {
        for (tlv, raw) in packet.tlvs().iter().zip(Packet::parse(&packet.payload).unwrap().body()) {
            assert!(!matches!(tlv, Tlv::Other(_)), "{}: {tlv:?}", packet.make);
            kinds.insert((packet.make, raw.unwrap().kind));
        }
    }
    let common = [kind::HELLO, kind::IHU, kind::ROUTER_ID, kind::NEXT_HOP, kind::UPDATE, kind::ROUTE_REQUEST, kind::PC];
    for make in ["babeld", "bird"] {
        for kind in common.into_iter().chain([kind::CHALLENGE_REQUEST, kind::CHALLENGE_REPLY]) {
            assert!(kinds.contains(&(make, kind)), "{make}: no TLV {kind} was recorded");
        }
    }
    let stamped = |tlv: &Tlv<'_>| matches!(tlv, Tlv::Hello { sent_us: Some(_), .. });
    assert!(all.iter().any(|packet| packet.make == "babeld" && packet.tlvs().iter().any(stamped)));
}

#[test]
fn routes_of_other_makes_are_understood() {
    let mut announced = BTreeSet::new();
    for packet in recorded() {
        for route in packet.announcements() {
            let prefix = route.prefix.map_or("all".to_owned(), |prefix| prefix.to_string());
            if let (true, Some(next_hop)) = (route.metric != INFINITY, route.next_hop) {
                assert!(route.router_id.is_some());
                announced.insert((packet.make, prefix, next_hop.to_string()));
            }
        }
    }
    let expected = [
        ("babeld", "10.88.0.0/24", "10.77.1.1"),
        ("babeld", "2001:db8:88::/64", "fe80::47:43ff:fe00:101"),
        ("bird", "10.99.0.0/24", "10.77.1.2"),
        ("bird", "2001:db8:99::/64", "fe80::47:43ff:fe00:102"),
    ];
    let expected = expected.map(|(make, prefix, next_hop)| (make, prefix.to_owned(), next_hop.to_owned()));
    assert_eq!(announced, BTreeSet::from(expected));
}
