//! Malformed, altered and misplaced frames: each is counted under its own reason, and none is forwarded.

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::{GROUPS, PORT, ip, since, turn, wait_accounted};
use gemcast_lab::{
    Datagram, Gateway, Host, Lab, Options, Result, SEALED_PORT, Seconds, Stream, Topology, fix_checksums, vlan_tagged,
};

/// A frame and the reason it is to be counted under.
type Case = (&'static str, Vec<u8>);

/// Sends every case several times and waits until the interface counted exactly these.
fn expect(lab: &Lab, gateway: &Gateway<'_>, interface: &str, from: Host<'_>, cases: &[Case]) -> Result<()> {
    let before = gateway.interface(interface)?;
    let socket = from.packet_socket(&from.interface().name)?;
    let mut expected = BTreeMap::<String, u64>::new();
    for (copies, (reason, frame)) in (3..).zip(cases) {
        for _ in 0..copies {
            socket.send(frame)?;
        }
        *expected.entry((*reason).into()).or_default() += copies;
    }
    // Control traffic goes on meanwhile, and is passed.
    let counted = || {
        let mut counted = since(&before, &gateway.interface(interface).unwrap_or_else(|_| before.clone()));
        counted.retain(|reason, _| !matches!(reason.as_str(), "link_local" | "not_multicast" | "not_ip"));
        counted
    };
    let waited = lab.eventually(5.s(), "every frame to be counted", || counted() == expected);
    assert!(waited.is_ok(), "{interface} of {}: expected {expected:?}, counted {:?}", gateway.host().name(), counted());
    Ok(())
}

/// Frames that are defective whatever they carry. `length_at` is where the UDP length stands.
fn defective(good: &Datagram) -> Vec<Case> {
    let frame = good.to_frame();
    let v4 = good.group.is_ipv4();
    let udp = good.headers_len() - 8;
    let bent = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        fix_checksums(&mut frame);
        frame
    };
    let unfixed = |at: usize, flip: u8| {
        let mut frame = frame.clone();
        frame[at] ^= flip;
        frame
    };
    let mut cases = vec![
        ("truncated", frame[..frame.len() - 1].to_vec()),
        ("truncated", frame[..udp + 4].to_vec()),
        ("bad_length", bent(udp + 5, frame[udp + 5].wrapping_sub(1))),
        ("vlan", vlan_tagged(&frame, 7)),
    ];
    if v4 {
        cases.extend([
            ("fragment", bent(20, 0x20)),
            ("fragment", bent(21, 0x01)),
            ("not_udp", bent(23, 6)),
            ("bad_ip_header", unfixed(24, 0xff)),
            ("bad_ip_header", bent(14, 0x44)),
            ("ip_options", bent(14, 0x46)),
        ]);
    } else {
        cases.extend([
            ("fragment", unfixed(20, 17 ^ 44)),
            ("ip_options", unfixed(20, 17 ^ 60)),
            ("not_udp", unfixed(20, 17 ^ 58)),
            ("bad_ip_header", unfixed(14, 0x20)),
        ]);
    }
    cases
}

fn with(datagram: &Datagram, bend: impl FnOnce(&mut Datagram)) -> Vec<u8> {
    let mut datagram = datagram.clone();
    bend(&mut datagram);
    datagram.to_frame()
}

#[test]
fn malformed_frames_from_the_untrusted_side_are_counted_and_not_forwarded() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-malformed-wan").without_snooping())?;
    let observer = lab.host("observer");
    for group in GROUPS.map(ip) {
        let sealed = Datagram { mac: observer.interface().mac, ..unheard(&lab, group, 1)?.remove(0) };
        let behind = lab.host("receiver").capture("eth0")?.protected(&[group]).start()?;
        let mut cases = defective(&sealed);
        cases.extend([
            ("truncated", with(&sealed, |d| d.payload.truncate(47))),
            ("version", with(&sealed, |d| d.payload[0] = 0x20)),
            ("kind", with(&sealed, |d| d.payload[0] = 0x1f)),
            ("flags", with(&sealed, |d| d.payload[1] = 0x80)),
            ("unknown_epoch", with(&sealed, |d| d.payload[3] = 9)),
            ("gtag", with(&sealed, |d| d.payload[4] ^= 1)),
            ("gtag", with(&sealed, |d| d.payload[15] ^= 1)),
            ("gtag", with(&sealed, |d| d.payload[16] ^= 0x80)),
            ("gtag", with(&sealed, |d| d.payload.push(0))),
            ("gtag", with(&sealed, |d| d.source = bent_address(d.source))),
            ("clear_on_untrusted", with(&sealed, |d| d.port = PORT)),
            ("source_port", with(&sealed, |d| d.source_port ^= 1)),
            ("aead", with(&sealed, |d| d.payload[30] ^= 1)),
            ("aead", with(&sealed, |d| *d.payload.last_mut().expect("a tag") ^= 1)),
        ]);
        expect(&lab, &lab.gateway("b"), "wan0", observer, &cases)?;
        let behind = behind.stop()?;
        assert_eq!((behind.cleartext, behind.sealed), (0, 0), "nothing of it came through");
    }
    wait_accounted(&lab)
}

#[test]
fn altered_packets_do_not_harm_the_true_ones_and_replays_are_dropped() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-replay"))?;
    let observer = lab.host("observer");
    for group in GROUPS.map(ip) {
        let sealed = unheard(&lab, group, 20)?;
        let receiver = lab.host("receiver").receive(group, PORT, None)?;
        let frames: Vec<_> = sealed.iter().map(|d| Datagram { mac: observer.interface().mac, ..d.clone() }).collect();
        let altered: Vec<Case> = frames.iter().map(|d| ("aead", with(d, |d| d.payload[40] ^= 4))).collect();
        expect(&lab, &lab.gateway("b"), "wan0", observer, &altered)?;
        let socket = observer.packet_socket("eth0")?;
        for frame in &frames {
            socket.send(&frame.to_frame())?;
        }
        lab.eventually(2.s(), "the true packets to be delivered", || receiver.delivered() == 20)?;
        let replayed: Vec<Case> = frames.iter().map(|d| ("replay", d.to_frame())).collect();
        expect(&lab, &lab.gateway("b"), "wan0", observer, &replayed)?;
        let report = receiver.stop();
        assert_eq!((report.delivered(), report.stream(3).duplicated, report.corrupt), (20, 0, 0));
    }
    wait_accounted(&lab)
}

#[test]
fn malformed_frames_from_the_trusted_side_are_counted_and_not_sealed() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-malformed-lan"))?;
    let source = lab.host("source");
    for group in GROUPS.map(ip) {
        let clear = Datagram::new(source.interface().mac, source.address(group), group, PORT, [7; 100]);
        let other = if group.is_ipv4() { ip("239.200.0.1") } else { ip("ff3e::200:1") };
        let capture = lab.host("observer").capture("eth0")?.protected(&[group, other]).start()?;
        let mut cases = defective(&clear);
        cases.extend([
            ("ttl_expired", with(&clear, |d| d.ttl = 1)),
            ("ttl_expired", with(&clear, |d| d.ttl = 0)),
            ("sealed_on_trusted", with(&clear, |d| d.port = SEALED_PORT)),
            // One byte more than leaves room for what sealing adds.
            ("mtu_exceeded", with(&clear, |d| d.payload.resize(if group.is_ipv4() { 1425 } else { 1405 }, 7))),
            ("no_flow", with(&clear, |d| d.group = other)),
        ]);
        expect(&lab, &lab.gateway("a"), "lan0", source, &cases)?;
        let heard = capture.stop()?;
        assert_eq!((heard.sealed, heard.cleartext), (0, 0), "{:02x?}", heard.cleartext_examples);
    }
    wait_accounted(&lab)
}

/// Sealed packets of stream 3 that b did not hear, because it was cut off from a while they were sent.
fn unheard(lab: &Lab, group: IpAddr, packets: u64) -> Result<Vec<Datagram>> {
    let capture = lab.host("observer").capture("eth0")?.keep(1000).start()?;
    lab.isolate("wan", &["a", "b"])?;
    lab.host("source").send(Stream::to(group).id(3).packets(packets))?.finish();
    let sealed = || -> Vec<Datagram> {
        let of_group = |datagram: &&Datagram| datagram.group == group && datagram.port == SEALED_PORT;
        capture.look(|report| report.datagrams.iter().filter(of_group).cloned().collect())
    };
    let waited = lab.eventually(2.s(), "the sealed packets", || sealed().len() as u64 == packets);
    lab.rejoin("wan", &["a", "b"])?;
    waited.map(|_| sealed())
}

fn bent_address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) ^ 1).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) ^ 1).into()),
    }
}
