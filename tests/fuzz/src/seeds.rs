//! What fuzzing starts from: one of each thing our writers write.

use core::net::{IpAddr, Ipv6Addr};

use gemcast_engine::derive::wrap_key;
use gemcast_engine::secret::Secret;
use gemcast_proto::id::{Counter, Epoch, KeyId, NodeId, map};
use gemcast_proto::message::encode;
use gemcast_proto::wire::babel::{Announcement, INFINITY, Prefix, RawTlv, Seqno, Tlv, Update, Writer, kind};
use gemcast_proto::wire::classify::ipv4_checksum;
use gemcast_proto::wire::frame::{HEADER_LEN, Header, Kind, PORT};
use gemcast_proto::wire::gem::kmg::{PackagePayload, Rights, RosterPayload, SharePayload, SuccessorPayload};
use gemcast_proto::wire::gem::{
    self, Digest, Entry, MAX_BODY_LEN, NodePayload, ObjectHeader, ObjectKind, ObjectName, Range, Request, SekPayload,
    Summary,
};
use gemcast_proto::{api, link};
use ring::aead;
use ring::signature::KeyPair;

use crate::engine::{GAK, START, group, step, their_id, their_key};

/// An input: a name, and bytes.
pub type Seed = (&'static str, Vec<u8>);

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
const ROUTER: NodeId = NodeId([2, 0x47, 0x43, 0, 0, 0, 0, 9]);

/// The seeds of a target.
///
/// # Panics
/// When there is no target of that name.
pub fn of(target: &str) -> Vec<Seed> {
    match target {
        "babel" => babel(),
        "gem" => gem(),
        "frame" => frames(),
        "message" => messages(),
        "engine" => scripts(),
        other => panic!("no target {other}"),
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn tlvs() -> Vec<(&'static str, Tlv<'static>)> {
    let update = Update {
        ae: 1,
        sets_prefix: true,
        sets_router_id: true,
        plen: 24,
        omitted: 0,
        interval: 400,
        seqno: Seqno(7),
        metric: 96,
        octets: &[10, 66, 0],
        source: Some(prefix("10.0.0.0/8")),
        mandatory: None,
    };
    let (v4, v6) = (prefix("10.66.0.0/24"), prefix("2001:db8:66::/64"));
    let address: IpAddr = "2001:db8::1".parse().expect("an address");
    vec![
        ("padn", Tlv::PadN { len: 3 }),
        ("ack-request", Tlv::AckRequest { opaque: 7, interval: 100 }),
        ("ack", Tlv::Ack { opaque: 7 }),
        ("hello", Tlv::Hello { unicast: false, seqno: Seqno(9), interval: 100, sent_us: Some(5) }),
        (
            "ihu",
            Tlv::Ihu {
                address: Some(SOURCE.into()),
                rxcost: 96,
                interval: 300,
                echo_us: Some((5, 6)),
                multicast_lost: true,
            },
        ),
        ("router-id", Tlv::RouterId(ROUTER)),
        ("next-hop", Tlv::NextHop(address)),
        ("update", Tlv::Update(update)),
        ("update-mandatory", Tlv::Update(Update { source: None, mandatory: Some(200), ..update })),
        ("route-request", Tlv::RouteRequest { prefix: Some(v6), source: Some(v6), via_v6: false }),
        ("wildcard-request", Tlv::RouteRequest { prefix: None, source: None, via_v6: false }),
        (
            "seqno-request",
            Tlv::SeqnoRequest {
                prefix: v4,
                source: None,
                via_v6: true,
                seqno: Seqno(8),
                hop_count: 4,
                router_id: ROUTER,
            },
        ),
        ("pc", Tlv::Pc { counter: 3, index: b"index" }),
        ("challenge-request", Tlv::ChallengeRequest(&[5; 16])),
        ("challenge-reply", Tlv::ChallengeReply(&[5; 16])),
        ("other", Tlv::Other(RawTlv { kind: 99, body: &[1, 2, 3] })),
    ]
}

fn packet(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = [0; 1200];
    let mut writer = Writer::new(&mut buffer, SOURCE);
    fill(&mut writer);
    let len = writer.finish();
    buffer[..len].to_vec()
}

fn routes() -> Vec<Announcement> {
    let route = |prefix, source, next_hop: &str, metric| Announcement {
        prefix,
        source,
        router_id: Some(ROUTER),
        next_hop: Some(next_hop.parse().expect("an address")),
        interval: 1000,
        seqno: Seqno(7),
        metric,
    };
    vec![
        route(Some(prefix("2001:db8:66::/64")), None, "fe80::99", 0),
        route(Some(prefix("2001:db8:66:1::/64")), Some(prefix("2001:db8::/32")), "fe80::99", 96),
        route(Some(prefix("10.66.0.0/24")), None, "10.77.3.2", 96),
        route(Some(prefix("10.66.1.0/24")), None, "fe80::99", 96),
        route(Some(prefix("10.66.2.0/24")), None, "10.77.3.2", INFINITY),
        route(None, None, "fe80::99", INFINITY),
    ]
}

fn babel() -> Vec<Seed> {
    let mut seeds: Vec<Seed> =
        tlvs().iter().map(|(name, tlv)| (*name, packet(|writer| writer.push(tlv).expect("room for one")))).collect();
    let all = packet(|writer| {
        tlvs().iter().for_each(|(_, tlv)| writer.push(tlv).expect("room for all"));
        routes().iter().for_each(|route| writer.announce(route).expect("room for all"));
    });
    let with_mac = [&all[..], &[kind::MAC, 32], &[0xaa; 32]].concat();
    let routes = packet(|writer| routes().iter().for_each(|route| writer.announce(route).expect("room for all")));
    seeds.extend([("all", all), ("all-with-mac", with_mac), ("routes", routes)]);
    seeds
}

fn entries() -> impl Iterator<Item = Entry> {
    let name = |id| ObjectName { origin: ROUTER, kind: ObjectKind::SEK, id };
    (1..4).map(move |id| Entry { name: name(id), version: id })
}

fn header(kind: ObjectKind, id: u64, version: u64) -> ObjectHeader {
    let name = ObjectName { origin: their_id(), kind, id };
    ObjectHeader { tombstone: false, name, version, not_after: (START.0 / 1000) as u32 + 3600 }
}

/// Head and payload, as it is signed.
fn unsigned(header: &ObjectHeader, payload: &[u8]) -> Vec<u8> {
    let mut buffer = [0; MAX_BODY_LEN];
    let len = header.emit(payload, &mut buffer);
    buffer[..len].to_vec()
}

fn node_payload() -> Vec<u8> {
    let signing_key = their_key().public_key().as_ref().try_into().expect("32 bytes");
    let mut buffer = [0; NodePayload::MAX_LEN];
    let len = NodePayload { signing_key, agreement_key: [6; 32], name: "them" }.emit(&mut buffer);
    buffer[..len].to_vec()
}

/// A SEK that the engine can unwrap.
fn sek_payload(key_id: KeyId, version: u64) -> Vec<u8> {
    let (epoch, salt) = (Epoch(1), [4; 16]);
    let key = wrap_key(&Secret::new(GAK), their_id(), version, key_id, &salt);
    let cipher = aead::UnboundKey::new(&aead::AES_256_GCM, key.expose()).expect("32 bytes");
    let mut wrapped = [0x5e; 48];
    let (sek, tag) = wrapped.split_at_mut(32);
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    let sealed = aead::LessSafeKey::new(cipher).seal_in_place_separate_tag(nonce, aead::Aad::empty(), sek);
    tag.copy_from_slice(sealed.expect("32 bytes are sealed").as_ref());
    SekPayload { group: group(), epoch, key_id, suite: 1, not_before_ms: START.0, salt, wrapped }.to_bytes().into()
}

fn gem() -> Vec<Seed> {
    let mut buffer = [0; MAX_BODY_LEN];
    let object = |kind, id, payload: &[u8]| [&unsigned(&header(kind, id, 2), payload)[..], &[0x51; 64]].concat();
    let child = Range::WHOLE.children().nth(5).expect("sixteen of them");
    let summary = Summary::emit(child, entries(), &mut buffer);
    let summary = buffer[..summary].to_vec();
    let request = Request::emit(entries(), &mut buffer);
    let request = buffer[..request].to_vec();
    let tombstone = ObjectHeader { tombstone: true, ..header(ObjectKind::SEK, 5, 3) };
    let package = PackagePayload {
        group: group(),
        epoch: Epoch(2),
        activate_at_ms: START.0,
        emergency: true,
        shares: 3,
        digest: [0xd1; 32],
    };
    let share =
        SharePayload { group: group(), epoch: Epoch(2), member: ROUTER, enc: [0xe1; 32], ciphertext: [0xc1; 48] };
    let successor = SuccessorPayload { signing_key: [0x51; 32], not_before_ms: START.0, signature: [0x51; 64] };
    let mut roster = [0; RosterPayload::MAX_LEN];
    let len = RosterPayload { node: ROUTER, rights: Rights::ALL, name: "them" }.emit(&mut roster);
    vec![
        ("package", object(ObjectKind::GAK_PACKAGE, 2, &package.to_bytes())),
        ("share", object(ObjectKind::GAK_SHARE, 2, &share.to_bytes())),
        ("revoke", object(ObjectKind::REVOKE, 2, &ROUTER.0)),
        ("roster", object(ObjectKind::ROSTER, 2, &roster[..len])),
        ("successor", object(ObjectKind::SUCCESSOR, 0, &successor.to_bytes())),
        ("node", object(ObjectKind::NODE, 0, &node_payload())),
        ("sek", object(ObjectKind::SEK, 5, &sek_payload(KeyId(5), 2))),
        ("tombstone", [&unsigned(&tombstone, &[])[..], &[0x51; 64]].concat()),
        ("node-payload", node_payload()),
        ("sek-payload", sek_payload(KeyId(5), 2)),
        ("digest", Digest { range: child, count: 3, sum: 0x1234_5678_9abc_def0 }.to_bytes().into()),
        ("digest-whole", Digest { range: Range::WHOLE, count: 0, sum: 0 }.to_bytes().into()),
        ("summary", summary),
        ("request", request),
        ("wildcard", Vec::new()),
    ]
}

fn ethernet_v4(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(28 + payload.len()).expect("a short payload");
    let mut ip = [0x45, 0xb8, 0, 0, 0, 1, 0x40, 0, 16, 17, 0, 0, 10, 0, 0, 1, 239, 1, 1, 1];
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = ipv4_checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let ethernet = [0x01, 0x00, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1, 8, 0];
    [&ethernet[..], &ip, &udp(port, payload)].concat()
}

fn ethernet_v6(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("a short payload").to_be_bytes();
    let ethernet = [0x33, 0x33, 0, 1, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    let addresses = ["fd00::1", "ff3e::1:1"].map(|address| map(address.parse().expect("an address")));
    [&ethernet[..], &[0x6b, 0x80, 0, 0, len[0], len[1], 17, 16], &addresses.concat(), &udp(port, payload)].concat()
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("a short payload");
    [&5000u16.to_be_bytes()[..], &port.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

fn frames() -> Vec<Seed> {
    let header = Header { kind: Kind::Native, epoch: Epoch(1), key_id: KeyId(9), ctr: Counter::new(1, 5), gtag: 7 };
    let sealed = [&header.emit()[..], &[0xcc; 40]].concat();
    assert!(sealed.len() > HEADER_LEN);
    let mut fragment = ethernet_v4(PORT, &sealed);
    fragment[20] = 0x20;
    vec![
        ("sealed-v4", ethernet_v4(PORT, &sealed)),
        ("sealed-v6", ethernet_v6(PORT, &sealed)),
        ("clear-v4", ethernet_v4(5004, b"clear")),
        ("clear-v6", ethernet_v6(5004, b"clear")),
        ("fragment-v4", fragment),
    ]
}

fn stream<M: prost::Message>(kind: u8, messages: &[M]) -> Vec<u8> {
    let mut bytes = vec![kind, 7];
    messages.iter().for_each(|message| encode(message, &mut bytes));
    bytes
}

fn messages() -> Vec<Seed> {
    use api::{request, response};
    use link::{to_control, to_dataplane};
    let request = |body| api::Request { body: Some(body) };
    let requests = [
        request(request::Body::Status(api::Empty {})),
        request(request::Body::RotateKey(api::RotateKey { group: "239.1.1.1".into(), emergency: false })),
    ];
    let error = api::Error { code: 2, message: "no such group".into() };
    let groups = api::Groups { groups: vec![api::Group { group: "239.1.1.1".into(), ..Default::default() }] };
    let responses = [response::Body::Error(error), response::Body::Groups(groups)];
    let responses = responses.map(|body| api::Response { body: Some(body) });
    let hello = link::Hello { layout_version: 1, instance: "default".into(), version: "0".into(), incarnation: 7 };
    let flow = link::Flow { group: group().mapped().to_vec(), ..Default::default() };
    let interface = link::Interface { name: "wan0".into(), role: 2 };
    let snapshot =
        link::Snapshot { generation: 1, interfaces: vec![interface], flows: vec![flow], ..Default::default() };
    let down = [to_dataplane::Body::Hello(hello.clone()), to_dataplane::Body::Snapshot(snapshot)];
    let down = down.map(|body| link::ToDataplane { body: Some(body) });
    let missing = link::MissingKey { key_id: 5, group: group().mapped().to_vec(), ..Default::default() };
    let up = [to_control::Body::Hello(hello), to_control::Body::MissingKey(missing)];
    let up = up.map(|body| link::ToControl { body: Some(body) });
    vec![
        ("requests", stream(0, &requests)),
        ("responses", stream(1, &responses)),
        ("to-dataplane", stream(2, &down)),
        ("to-control", stream(3, &up)),
    ]
}

fn script(steps: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, step) in steps {
        bytes.extend([*kind, u8::try_from(step.len()).expect("a step has at most 255 bytes")]);
        bytes.extend(step);
    }
    bytes
}

/// TLVs of a packet, without its header.
fn body(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    packet(fill).split_off(gemcast_proto::wire::babel::HEADER_LEN)
}

fn scripts() -> Vec<Seed> {
    let pause = |ms: u16| (step::TIME, ms.to_be_bytes().to_vec());
    let one = |tlv: Tlv<'_>| body(|writer| writer.push(&tlv).expect("room for one"));
    let gem = |kind, body: &[u8]| one(Tlv::Other(RawTlv { kind, body }));
    let hello = |seqno| Tlv::Hello { unicast: false, seqno: Seqno(seqno), interval: 100, sent_us: Some(1) };
    let us = "fe80::1".parse().expect("an address");
    let ihu = Tlv::Ihu { address: Some(us), rxcost: 96, interval: 300, echo_us: Some((5, 6)), multicast_lost: true };
    let greeting = body(|writer| {
        [hello(1), hello(2), ihu].iter().for_each(|tlv| writer.push(tlv).expect("room"));
    });
    let routes = body(|writer| routes().iter().for_each(|route| writer.announce(route).expect("room")));
    let retraction = body(|writer| {
        let all = Announcement { prefix: None, metric: INFINITY, ..self::routes()[0] };
        writer.announce(&all).expect("room");
    });
    let mut buffer = [0; MAX_BODY_LEN];
    let summary = Summary::emit(Range::WHOLE, entries(), &mut buffer);
    let summary = gem(gem::SUMMARY, &buffer[..summary]);
    let request = Request::emit(entries(), &mut buffer);
    let request = gem(gem::REQUEST, &buffer[..request]);
    let digest = gem(gem::DIGEST, &Digest { range: Range::WHOLE, count: 9, sum: 1 }.to_bytes());
    let node = (step::OBJECT, unsigned(&header(ObjectKind::NODE, 0, 2), &node_payload()));
    let sek = |id, version| {
        let payload = sek_payload(KeyId(id), version);
        (step::OBJECT, unsigned(&header(ObjectKind::SEK, id.into(), version), &payload))
    };
    let tombstone = ObjectHeader { tombstone: true, ..header(ObjectKind::SEK, 5, 9) };
    let later = ObjectHeader { not_after: 1, ..header(ObjectKind(77), 5, 9) };
    let seqno_request = tlvs().into_iter().find(|(name, _)| *name == "seqno-request").expect("it is there").1;
    vec![
        (
            "keys",
            script(&[
                node.clone(),
                sek(5, 2),
                sek(6, 2),
                pause(500),
                sek(5, 3),
                (step::OBJECT, unsigned(&tombstone, &[])),
                (step::OBJECT, unsigned(&later, b"?")),
                pause(20_000),
            ]),
        ),
        (
            "routes",
            script(&[
                (step::MULTICAST, greeting.clone()),
                (step::MULTICAST, routes),
                pause(2000),
                (step::MULTICAST, one(seqno_request)),
                (step::UNICAST, one(Tlv::RouteRequest { prefix: None, source: None, via_v6: false })),
                (step::MULTICAST, retraction),
                pause(60_000),
            ]),
        ),
        (
            "digests",
            script(&[
                (step::MULTICAST, greeting),
                node.clone(),
                (step::MULTICAST, digest),
                pause(300),
                (step::UNICAST, summary),
                (step::UNICAST, request),
                (step::UNICAST, gem(gem::REQUEST, &[])),
                pause(3000),
            ]),
        ),
        (
            "not-authenticated",
            script(&[
                (step::DATAGRAM, packet(|writer| writer.push(&hello(3)).expect("room"))),
                (step::FOREIGN, packet(|writer| writer.push(&hello(3)).expect("room"))),
                (step::DATAGRAM, b"no babel".to_vec()),
                (step::MULTICAST, one(Tlv::ChallengeRequest(&[8; 16]))),
                (step::UNICAST, one(Tlv::AckRequest { opaque: 1, interval: 10 })),
                pause(1000),
            ]),
        ),
        (
            "local",
            script(&[
                node,
                sek(5, 2),
                (step::LOCAL, vec![0]),
                (step::LOCAL, vec![1, 0, 0, 0, 9]),
                pause(40_000),
                (step::LOCAL, vec![2]),
                (step::LOCAL, vec![3]),
                (step::LOCAL, vec![4]),
                pause(1000),
            ]),
        ),
    ]
}
