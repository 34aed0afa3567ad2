use super::*;
use crate::id::NodeId;
use core::net::IpAddr;
use proptest::prelude::*;
use std::vec::Vec;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn tlvs(datagram: &[u8]) -> Vec<Result<Tlv<'_>, Error>> {
    Packet::parse(datagram).unwrap().body().map(|raw| raw.and_then(Tlv::parse)).collect()
}

#[test]
fn a_hello_and_an_ihu_as_babeld_sends_them() {
    // RFC 8966 §4.6.5 and §4.6.6: Hello seqno 0x1234 every 4 s; IHU to fe80::2, rxcost 96, every 12 s.
    let datagram = [
        42, 2, 0, 24, // header
        4, 6, 0, 0, 0x12, 0x34, 0x01, 0x90, // Hello
        5, 14, 3, 0, 0, 96, 0x04, 0xb0, 0, 0, 0, 0, 0, 0, 0, 2, // IHU
    ];
    let hello = Tlv::Hello { unicast: false, seqno: Seqno(0x1234), interval: 400, sent_us: None };
    let ihu = Tlv::Ihu {
        address: Some("fe80::2".parse().unwrap()),
        rxcost: 96,
        interval: 1200,
        echo_us: None,
        multicast_lost: false,
    };
    assert_eq!(tlvs(&datagram), [Ok(hello), Ok(ihu)]);

    let mut buffer = [0; 64];
    let mut writer = Writer::new(&mut buffer, SOURCE);
    writer.push(&hello).unwrap();
    writer.push(&ihu).unwrap();
    let len = writer.finish();
    assert_eq!(buffer[..len], datagram);
}

#[test]
fn headers_that_are_not_babel_are_refused_by_name() {
    assert_eq!(Packet::parse(&[42, 2, 0]), Err(Error::Header { len: 3 }));
    assert_eq!(Packet::parse(&[43, 2, 0, 0]), Err(Error::Magic(43)));
    assert_eq!(Packet::parse(&[42, 3, 0, 0]), Err(Error::Version(3)));
    assert_eq!(Packet::parse(&[42, 2, 0, 2, 0]), Err(Error::Body { declared: 2, available: 1 }));
}

#[test]
fn an_overrun_ends_the_walk() {
    let datagram = [42, 2, 0, 5, 0, 4, 6, 0, 0];
    assert_eq!(tlvs(&datagram), [Ok(Tlv::Pad1), Err(Error::Overrun { kind: 4 })]);
}

#[test]
fn the_trailer_is_not_covered_and_not_part_of_the_body() {
    let datagram = [42, 2, 0, 1, 0, 16, 2, 7, 7];
    let packet = Packet::parse(&datagram).unwrap();
    assert_eq!(packet.signed(), &datagram[..5]);
    let trailer: Vec<_> = packet.trailer().map(|raw| raw.and_then(Tlv::parse)).collect();
    assert_eq!(trailer, [Ok(Tlv::Mac(&[7, 7]))]);
}

#[test]
fn unknown_sub_tlvs_are_skipped_unless_mandatory() {
    let with_sub = |sub: u8| [42, 2, 0, 11, 4, 9, 0, 0, 0, 1, 0, 100, sub, 1, 0xaa];
    let hello = Tlv::Hello { unicast: false, seqno: Seqno(1), interval: 100, sent_us: None };
    assert_eq!(tlvs(&with_sub(99)), [Ok(hello)]);
    assert_eq!(tlvs(&with_sub(200)), [Err(Error::Mandatory { kind: 4, sub: 200 })]);
}

#[test]
fn an_ignored_update_still_sets_the_parser_state() {
    // RFC 8966 §4.6.9: default prefix and router-id count "even if this TLV is otherwise ignored".
    let octets = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let first = Update {
        ae: 2,
        sets_prefix: true,
        sets_router_id: true,
        plen: 128,
        omitted: 0,
        interval: 400,
        seqno: Seqno(1),
        metric: 0,
        octets: &octets,
        source: None,
        mandatory: Some(255),
    };
    let mut context = Context::new(SOURCE);
    assert_eq!(context.update(&first), Err(Error::Mandatory { kind: 8, sub: 255 }));
    let second =
        Update { sets_prefix: false, sets_router_id: false, omitted: 15, octets: &[9], mandatory: None, ..first };
    let announcement = context.update(&second).unwrap();
    assert_eq!(announcement.prefix, Some("2001:db8::102:304:506:709/128".parse().unwrap()));
    assert_eq!(announcement.router_id, Some(NodeId([1, 2, 3, 4, 5, 6, 7, 8])));
    assert_eq!(announcement.next_hop, Some(IpAddr::V6(SOURCE)));
}

#[test]
fn what_an_update_lacks_is_named() {
    let update = Update {
        ae: 1,
        sets_prefix: false,
        sets_router_id: false,
        plen: 24,
        omitted: 1,
        interval: 400,
        seqno: Seqno(1),
        metric: 0,
        octets: &[0, 0],
        source: None,
        mandatory: None,
    };
    let mut context = Context::new(SOURCE);
    assert_eq!(context.update(&update), Err(Error::NoDefaultPrefix));
    let update = Update { omitted: 0, octets: &[10, 0, 0], ..update };
    assert_eq!(context.update(&update), Err(Error::NoRouterId));
    context.set_router_id(NodeId([1; 8]));
    assert_eq!(context.update(&update), Err(Error::NoNextHop));
    context.set_next_hop(IpAddr::from([10, 0, 0, 1]));
    assert_eq!(context.update(&update).unwrap().prefix, Some("10.0.0.0/24".parse().unwrap()));
    assert_eq!(context.update(&Update { ae: 0, plen: 0, octets: &[], ..update }), Err(Error::WildcardUpdate));
}

#[test]
fn a_packet_over_ipv4_is_the_next_hop_of_ipv4_routes_only() {
    let own = IpAddr::from([192, 0, 2, 7]);
    let mut context = Context::new("::ffff:192.0.2.7".parse().unwrap());
    context.set_router_id(NodeId([1; 8]));
    let update = |ae, plen, octets| Update {
        ae,
        sets_prefix: false,
        sets_router_id: false,
        plen,
        omitted: 0,
        interval: 400,
        seqno: Seqno(1),
        metric: 0,
        octets,
        source: None,
        mandatory: None,
    };
    assert_eq!(context.update(&update(1, 8, &[10])).unwrap().next_hop, Some(own));
    assert_eq!(context.update(&update(2, 8, &[0xfd])), Err(Error::NoNextHop));
    context.set_next_hop("fd00::7".parse().unwrap());
    assert_eq!(context.update(&update(2, 8, &[0xfd])).unwrap().next_hop, Some("fd00::7".parse().unwrap()));
}

#[test]
fn the_word_of_lost_multicast_is_a_sub_tlv_that_others_skip() {
    let ihu = Tlv::Ihu { address: None, rxcost: 96, interval: 300, echo_us: None, multicast_lost: true };
    let mut packet = [0; 64];
    let mut writer = Writer::new(&mut packet, SOURCE);
    writer.push(&ihu).unwrap();
    let len = writer.finish();
    assert_eq!(packet[4..len], [5, 8, 0, 0, 0, 96, 1, 44, 112, 0]);
    const { assert!(sub_kind::MULTICAST_LOST < 128, "not mandatory (RFC 8966 §4.4)") };
}

#[test]
fn seqnos_compare_on_the_circle() {
    assert!(Seqno(1).is_newer_than(Seqno(0)));
    assert!(Seqno(0).is_newer_than(Seqno(65535)));
    assert!(!Seqno(65535).is_newer_than(Seqno(0)));
    assert!(!Seqno(7).is_newer_than(Seqno(7)));
    assert!(!Seqno(0x8000).is_newer_than(Seqno(0)) && !Seqno(0).is_newer_than(Seqno(0x8000)));
}

#[test]
fn prefixes_hold_no_bits_past_their_length() {
    assert_eq!(Prefix::new("10.1.2.3".parse().unwrap(), 8).unwrap(), "10.0.0.0/8".parse().unwrap());
    assert_eq!(Prefix::new("10.1.2.3".parse().unwrap(), 0).unwrap(), Prefix::IPV4_DEFAULT);
    assert_eq!(Prefix::new("10.1.2.3".parse().unwrap(), 33), Err(PrefixError::Length(33)));
    assert!("10.0.0.1/8".parse::<Prefix>().is_err());
}

#[test]
fn a_full_packet_takes_all_of_an_announcement_or_nothing() {
    let route = announcement("10.1.0.0/16", "192.0.2.1", 7);
    let mut buffer = [0; 4 + 12 + 8 + 13];
    let mut writer = Writer::new(&mut buffer, SOURCE);
    assert_eq!(writer.announce(&route), Err(Full));
    assert!(writer.is_empty());
}

fn announcement(prefix: &str, next_hop: &str, id: u8) -> Announcement {
    Announcement {
        prefix: Some(prefix.parse().unwrap()),
        source: None,
        router_id: Some(NodeId([id; 8])),
        next_hop: Some(next_hop.parse().unwrap()),
        interval: 1000,
        seqno: Seqno(3),
        metric: 256,
    }
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, len)| Prefix::new(IpAddr::from(a), len).unwrap()),
        (any::<[u8; 16]>(), 0..=128u8).prop_map(|(a, len)| Prefix::new(IpAddr::from(a), len).unwrap()),
    ]
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn any_id() -> impl Strategy<Value = NodeId> {
    (1..0xffu8, any::<[u8; 7]>()).prop_map(|(first, rest)| {
        let mut id = [first; 8];
        id[1..].copy_from_slice(&rest);
        NodeId(id)
    })
}

fn any_source(ipv4: bool) -> impl Strategy<Value = Option<Prefix>> {
    proptest::option::of(any_prefix().prop_map(move |prefix| match (ipv4, prefix.len()) {
        (_, 0) => Prefix::host(if ipv4 { [10, 0, 0, 1].into() } else { IpAddr::V6(SOURCE) }),
        (ipv4, _) if prefix.is_ipv4() == ipv4 => prefix,
        (true, _) => "10.9.0.0/16".parse().unwrap(),
        (false, _) => "2001:db8::/33".parse().unwrap(),
    }))
}

fn any_announcement() -> impl Strategy<Value = Announcement> {
    let rest = (any_id(), any::<[u8; 4]>(), any::<[u8; 16]>(), any::<bool>(), any::<(u16, u16, u16)>());
    (any_prefix(), rest).prop_flat_map(|(prefix, (id, v4, v6, via_v6, (interval, seqno, metric)))| {
        any_source(prefix.is_ipv4()).prop_map(move |source| Announcement {
            prefix: Some(prefix),
            source,
            router_id: Some(id),
            next_hop: Some(if prefix.is_ipv4() && !via_v6 { IpAddr::from(v4) } else { IpAddr::from(v6) }),
            interval,
            seqno: Seqno(seqno),
            metric: metric.min(INFINITY - 1),
        })
    })
}

/// A TLV built from owned parts, checked by `check` after a round trip.
fn round_trip(tlv: &Tlv<'_>) {
    let mut buffer = [0; 300];
    let mut writer = Writer::new(&mut buffer, SOURCE);
    writer.push(tlv).unwrap();
    let len = writer.finish();
    assert_eq!(len - HEADER_LEN, tlv.buffer_len());
    assert_eq!(tlvs(&buffer[..len]), [Ok(*tlv)]);
}

proptest! {
    #[test]
    fn any_bytes_give_tlvs_or_a_named_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(packet) = Packet::parse(&bytes) {
            let mut context = Context::new(SOURCE);
            for raw in packet.body().chain(packet.trailer()).flatten() {
                if let Ok(Tlv::Update(update)) = Tlv::parse(raw) {
                    let _ = context.update(&update);
                }
            }
        }
    }

    #[test]
    fn any_body_gives_tlvs_or_a_named_error(kind in 0..24u8, body in proptest::collection::vec(any::<u8>(), 0..255)) {
        let mut context = Context::new(SOURCE);
        match Tlv::parse(RawTlv { kind, body: &body }) {
            Ok(Tlv::Update(update)) => drop(context.update(&update)),
            // What was read and is written again, reads the same.
            Ok(tlv) if kind != 0 => round_trip(&tlv),
            _ => {}
        }
    }

    #[test]
    fn simple_tlvs_round_trip(
        a in any::<u16>(), b in any::<u16>(), unicast in any::<bool>(), stamp in any::<Option<u32>>(),
        echo in any::<Option<(u32, u32)>>(), address in proptest::option::of(any_address()), id in any_id(),
        len in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..33),
    ) {
        round_trip(&Tlv::Pad1);
        round_trip(&Tlv::PadN { len });
        round_trip(&Tlv::AckRequest { opaque: a, interval: b });
        round_trip(&Tlv::Ack { opaque: a });
        round_trip(&Tlv::Hello { unicast, seqno: Seqno(a), interval: b, sent_us: stamp });
        round_trip(&Tlv::Ihu { address, rxcost: a, interval: b, echo_us: echo, multicast_lost: a % 2 == 0 });
        round_trip(&Tlv::RouterId(id));
        if let Some(address) = address {
            round_trip(&Tlv::NextHop(address));
        }
        round_trip(&Tlv::Mac(&bytes));
        round_trip(&Tlv::Pc { counter: u32::from(a), index: &bytes[..bytes.len().min(32)] });
        round_trip(&Tlv::ChallengeRequest(&bytes));
        round_trip(&Tlv::ChallengeReply(&bytes));
        round_trip(&Tlv::Other(RawTlv { kind: 224, body: &bytes }));
    }

    #[test]
    fn requests_round_trip(
        (prefix, source) in any_prefix().prop_flat_map(|p| (Just(p), any_source(p.is_ipv4()))),
        via_v6 in any::<bool>(), seqno in any::<u16>(), hop_count in any::<u8>(), router_id in any_id(),
    ) {
        let via_v6 = via_v6 && prefix.is_ipv4();
        round_trip(&Tlv::RouteRequest { prefix: Some(prefix), source, via_v6 });
        round_trip(&Tlv::RouteRequest { prefix: None, source: None, via_v6: false });
        round_trip(&Tlv::SeqnoRequest { prefix, source, via_v6, seqno: Seqno(seqno), hop_count, router_id });
    }

    #[test]
    fn announcements_survive_compression(routes in proptest::collection::vec(any_announcement(), 0..40)) {
        let mut buffer = [0; 4096];
        let mut writer = Writer::new(&mut buffer, SOURCE);
        for route in &routes {
            writer.announce(route).unwrap();
        }
        let len = writer.finish();
        let mut context = Context::new(SOURCE);
        let mut read = Vec::new();
        for tlv in tlvs(&buffer[..len]) {
            match tlv.unwrap() {
                Tlv::RouterId(id) => context.set_router_id(id),
                Tlv::NextHop(address) => context.set_next_hop(address),
                Tlv::Update(update) => read.push(context.update(&update).unwrap()),
                other => panic!("unexpected {other:?}"),
            }
        }
        prop_assert_eq!(read, routes);
    }
}
