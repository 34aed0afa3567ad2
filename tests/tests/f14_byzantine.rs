//! F14: a host that holds the bootstrap key forges and floods. The gateways that hear it ban it, and the honest stream loses
//! nothing.

mod common;

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_engine::derive::babel_mac_key;
use gemcast_engine::secret::Secret;
use gemcast_lab::{Account, BABEL_PORT, Gateway, Lab, Options, Result, Seconds, Stream, Topology};
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::babel::{self, RawTlv, Tlv, Writer, kind};
use gemcast_proto::wire::gem::{self, NodePayload, ObjectHeader, ObjectKind, ObjectName};
use ring::hmac;
use serde_json::Value;

/// A host on the untrusted segment that speaks Babel as it likes.
struct Liar {
    socket: UdpSocket,
    address: Ipv6Addr,
    ifindex: u32,
    key: hmac::Key,
    counter: u32,
}

impl Liar {
    fn new(lab: &Lab) -> Result<Self> {
        let file = lab.gateway("a").directory().join("etc/bk.key");
        let text = fs::read_to_string(&file).expect("the bootstrap key");
        let key: [u8; 32] = STANDARD.decode(text.trim()).expect("base64").try_into().expect("32 bytes");
        let host = lab.host("observer");
        let socket = host.namespace().enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, BABEL_PORT)))?;
        let socket = socket.expect("nobody else speaks Babel there");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let link = host.run(&["ip", "-o", "link", "show", "dev", "eth0"])?;
        Ok(Self {
            socket,
            address: host.interface().mac.link_local(),
            ifindex: link.split(':').next().and_then(|number| number.trim().parse().ok()).expect("an interface index"),
            key: hmac::Key::new(hmac::HMAC_SHA256, babel_mac_key(&Secret::new(key)).expose()),
            counter: 0,
        })
    }

    /// Sends TLVs, authenticated (RFC 8967 §4.1).
    fn send(&mut self, to: Ipv6Addr, tlvs: &[Tlv<'_>]) {
        self.counter += 1;
        let mut packet = vec![0; 1400];
        let mut writer = Writer::new(&mut packet, self.address);
        writer.push(&Tlv::Pc { counter: self.counter, index: b"liar" }).expect("room");
        tlvs.iter().for_each(|tlv| writer.push(tlv).expect("room"));
        let length = writer.finish();
        packet.truncate(length);
        let mut mac = hmac::Context::with_key(&self.key);
        for address in [self.address, to] {
            mac.update(&address.octets());
            mac.update(&BABEL_PORT.to_be_bytes());
        }
        mac.update(&packet);
        packet.extend([kind::MAC, 32]);
        packet.extend(mac.sign().as_ref());
        let to = SocketAddrV6::new(to, BABEL_PORT, 0, self.ifindex);
        self.socket.send_to(&packet, to).expect("sent");
    }

    /// Proves to so many gateways that it is alive.
    fn introduce(&mut self, gateways: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut answered = Vec::new();
        let mut packet = [0; 2000];
        while answered.len() < gateways {
            assert!(Instant::now() < deadline, "only {answered:?} sent a challenge");
            self.send(babel::GROUP, &[]);
            while let Ok((length, SocketAddr::V6(from))) = self.socket.recv_from(&mut packet) {
                let Ok(parsed) = babel::Packet::parse(&packet[..length]) else { continue };
                let mut tlvs = parsed.body().flatten().filter_map(|raw| Tlv::parse(raw).ok());
                let nonce = tlvs.find_map(|tlv| match tlv {
                    Tlv::ChallengeRequest(nonce) => Some(nonce.to_vec()),
                    _ => None,
                });
                if let Some(nonce) = nonce {
                    self.send(*from.ip(), &[Tlv::ChallengeReply(&nonce)]);
                    if !answered.contains(from.ip()) {
                        answered.push(*from.ip());
                    }
                }
            }
        }
    }
}

/// A node that nobody has the key of.
fn forged(number: u64) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let name = ObjectName { origin: NodeId(number.to_be_bytes()), kind: ObjectKind::NODE, id: 0 };
    let header = ObjectHeader { tombstone: false, name, version: 1, not_after: (since + 3600) as u32 };
    let mut payload = [0; NodePayload::MAX_LEN];
    let node = NodePayload { signing_key: [7; 32], agreement_key: [7; 32], name: "forged" };
    let length = node.emit(&mut payload);
    let mut body = [0; gem::MAX_BODY_LEN];
    let length = header.emit(&payload[..length], &mut body);
    [&body[..length], &[0x5a; gem::SIGNATURE_LEN]].concat()
}

/// What a gateway thinks of a neighbour.
fn reputation(gateway: &Gateway<'_>, address: Ipv6Addr) -> Option<Value> {
    let all = gateway.gemctl(&["peer", "reputation"]).ok()?;
    all["peers"].as_array()?.iter().find(|peer| peer["peer"] == address.to_string()).cloned()
}

#[test]
fn f14_who_forges_and_floods_is_banned_and_the_honest_stream_loses_nothing() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-f14"))?;
    let gateways = [lab.gateway("a"), lab.gateway("b")];
    let group = ip(GROUPS[0]);
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let sender = lab.host("source").send(Stream::to(group).bits_per_second(2_000_000))?;
    lab.eventually(20.s(), "the stream to arrive", || receiver.delivered() > 10)?;

    let mut liar = Liar::new(&lab)?;
    let address = liar.address;
    liar.introduce(gateways.len());
    let all = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        lab.eventually(20.s(), what, || gateways.iter().all(|one| reputation(one, address).is_some_and(|r| holds(&r))))
    };
    all("it to be a neighbour that nothing is held against", &|r| r["score"] == 100 && r["state"] == "trusted")?;
    let objects: Vec<_> = (0..4).map(forged).collect();
    let forged: Vec<_> = objects.iter().map(|body| Tlv::Other(RawTlv { kind: gem::OBJECT, body })).collect();
    liar.send(babel::GROUP, &forged);
    all("its reputation to fall", &|r| r["forged"] == 4 && r["score"].as_u64() < Some(100) && r["state"] != "banned")?;
    let flood = [&forged[..], &[Tlv::AckRequest { opaque: 7, interval: 100 }; 50]].concat();
    for burst in 0..200 {
        liar.send(babel::GROUP, &flood);
        if burst % 20 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    all("it to be banned", &|r| {
        r["state"] == "banned" && r["banned_by"] == "faults" && r["ignored"].as_u64() > Some(0)
    })?;
    for gateway in &gateways {
        let neighbours = gateway.gemctl(&["neighbour", "list"])?;
        assert!(!neighbours.to_string().contains(&address.to_string()), "{neighbours}");
        assert!(gateway.gemctl(&["status"])?["problems"].to_string().contains("peer_banned"));
        let events = gateway.gemctl_output(&["events"])?;
        assert!(String::from_utf8_lossy(&events.stdout).contains("neighbour banned for its faults"), "{events:?}");
    }
    let forgiven = gateways[1].gemctl(&["peer", "unban", &address.to_string()])?;
    assert!(!forgiven.to_string().contains("\"banned\""), "{forgiven}");
    // An operator's own ban, of a node, and what is not to be had.
    let told = |arguments: &[&str], what: &str| -> Result<()> {
        let output = gateways[1].gemctl_output(arguments)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(what), "{arguments:?}: {output:?}");
        Ok(())
    };
    told(&["peer", "ban", "nobody"], "no node or neighbour \"nobody\" is known")?;
    told(&["peer", "ban", "b"], "this gateway itself")?;
    told(&["peer", "ban", "fe80::dead"], "no neighbour fe80::dead is known")?;
    told(&["peer", "unban", "a"], "not banned")?;
    let sent = sender.stop();
    let received = receiver.finish(200.ms()).stream(1);
    let account = Account::of(&sent, &received, &[]);
    assert_eq!((account.lost, account.duplicated), (0, 0), "{account:?}");

    // A node's keys count for nothing while it is banned, and for what they are again afterwards.
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let banned = gateways[1].gemctl(&["peer", "ban", "a"])?;
    assert!(banned.to_string().contains("\"banned_by\":\"operator\""), "{banned}");
    let sender = lab.host("source").send(Stream::to(group).id(2).bits_per_second(2_000_000))?;
    lab.eventually(20.s(), "packets to be dropped in XDP", || {
        gateways[1].interface("wan0").is_ok_and(|wan| wan.dropped_for("banned") > 10)
    })?;
    assert_eq!(receiver.delivered(), 0);
    gateways[1].gemctl(&["peer", "unban", "a"])?;
    lab.eventually(20.s(), "the stream to arrive again", || receiver.delivered() > 10)?;
    sender.stop();
    wait_accounted(&lab)
}
