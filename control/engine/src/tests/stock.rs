//! Packets of stock routers, captured between them and this engine with the key derived from a bootstrap key of
//! 32 × 0x09: what others send, verifies and reads here.

use crate::config::MacAlgorithm;
use crate::mac::{Keys, PseudoHeader};
use crate::secret::Secret;
use core::net::Ipv6Addr;
use gemcast_proto::wire::babel::{Announcement, Context, GROUP, INFINITY, Packet, Tlv};

/// BIRD 2.0.12, HMAC-SHA256: Hello, wildcard retraction, wildcard request, one route of each family.
const BIRD: (&str, &str) = (
    "fe80::7c70:f9ff:fe30:7142",
    "2a02007e0406000000010064080a0000000001900001ffff09020000060a0000000000000a000002070601000a000002080e010020000190\
     00010000c0a83701081a0280800001900001000020010db8005500000000000000000001112400000001337e4c178c4a85a62f5cb1e2d8ee\
     f0a416805c89890106f529761890ecbb8a261020965c1d58ead2359f4463ecb992f043b9880e8bd0f4e1d336a83cde46bb758ab2",
);

/// babeld 1.12.1, HMAC-SHA256: Hello and IHU with timestamps.
const BABELD: (&str, &str) = (
    "fe80::7c05:b4ff:fecd:8afa",
    "2a020036040c0000ecec006403046d6af6a005180300ffff012c9cf7e1fffe77460a0308001143536d5d9286110c000000052f4bda646b5d\
     1261102046e063b2d4472b2a584b582f18d43b730febb2b6bc1b85c6f20a9cb6a016d9a1",
);

/// babeld 1.12.1, BLAKE2s: Hello, wildcard retraction, one route of each family.
const BABELD_BLAKE2S: (&str, &str) = (
    "fe80::70c8:79ff:fe5b:ea40",
    "2a02006c040c0000b0c2006403046e436e6c080a00000000ffff0d7affff060a0000fcfc252e9fbd6945081a0280800001900d7a00002001\
     0db8005500000000000000000001070601000a000002080e0100200001900d7a0000c0a8370109020000110c0000000208ffbcab37c569a5\
     10100793eb9099e758a0cec69da7a13ecca8",
);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Whether a captured packet verifies; its Hello and route TLVs, resolved.
fn read(algorithm: MacAlgorithm, (source, hex): (&str, &str)) -> (bool, Vec<String>, Vec<Announcement>) {
    let source: Ipv6Addr = source.parse().unwrap();
    let key = crate::derive::babel_mac_key(&Secret::new([9; 32]));
    let keys = Keys::new(algorithm, [&key]);
    let header = PseudoHeader { source, source_port: 6696, destination: GROUP, destination_port: 6696 };
    let datagram = bytes(hex);
    let packet = Packet::parse(&datagram).unwrap();
    let mut context = Context::new(source);
    let (mut others, mut routes) = (vec![], vec![]);
    for raw in packet.body() {
        match Tlv::parse(raw.unwrap()).unwrap() {
            Tlv::RouterId(id) => context.set_router_id(id),
            Tlv::NextHop(address) => context.set_next_hop(address),
            Tlv::Update(update) => routes.push(context.update(&update).unwrap()),
            Tlv::Pc { counter, index } => others.push(format!("PC {counter} of {} bytes", index.len())),
            other => others.push(format!("{other:?}")),
        }
    }
    (keys.verify(&header, &packet), others, routes)
}

#[test]
fn a_packet_of_birds_verifies_and_reads() {
    let (verified, others, routes) = read(MacAlgorithm::HmacSha256, BIRD);
    assert!(verified);
    assert_eq!(others[0], "Hello { unicast: false, seqno: 1, interval: 100, sent_us: None }");
    assert_eq!(others[1], "RouteRequest { prefix: None, source: None, via_v6: false }");
    assert_eq!(others[2], "PC 1 of 32 bytes");
    assert_eq!((routes[0].prefix, routes[0].metric), (None, INFINITY));
    assert_eq!(routes[1].prefix, Some("192.168.55.1/32".parse().unwrap()));
    assert_eq!(routes[1].next_hop, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(routes[2].prefix, Some("2001:db8:55::1/128".parse().unwrap()));
    assert_eq!(routes[2].next_hop, Some(BIRD.0.parse().unwrap()));
    assert!(routes[1..].iter().all(|route| route.router_id.unwrap().0 == [0, 0, 0, 0, 10, 0, 0, 2]));
}

#[test]
fn a_packet_of_babelds_verifies_and_reads() {
    let (verified, others, _) = read(MacAlgorithm::HmacSha256, BABELD);
    assert!(verified);
    assert_eq!(
        others[0],
        format!("Hello {{ unicast: false, seqno: 60652, interval: 100, sent_us: Some({}) }}", 0x6d6a_f6a0)
    );
    let echo = (0x0011_4353, 0x6d5d_9286);
    assert_eq!(
        others[1],
        format!(
            "Ihu {{ address: Some(fe80::9cf7:e1ff:fe77:460a), rxcost: 65535, interval: 300, echo_us: Some({echo:?}), multicast_lost: false }}"
        )
    );
    assert_eq!(others[2], "PC 5 of 8 bytes");
}

#[test]
fn a_packet_of_babelds_with_blake2s_verifies_and_reads() {
    let (verified, _, routes) = read(MacAlgorithm::Blake2s, BABELD_BLAKE2S);
    assert!(verified);
    assert_eq!(routes[1].prefix, Some("2001:db8:55::1/128".parse().unwrap()));
    assert_eq!(routes[2].prefix, Some("192.168.55.1/32".parse().unwrap()));
    assert!(read(MacAlgorithm::HmacSha256, BABELD_BLAKE2S).0, "whatever we send by");
}
