//! A stream from a real sender to a real receiver, through two gateways: it arrives as it was sent, and nobody in
//! between can read it.

mod common;

use std::net::IpAddr;
use std::process::Stdio;

use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_lab::{
    Account, Datagram, FILLER, Group, Lab, Options, Result, SEALED_PORT, Seconds, Stream, Suite, Topology,
};

/// What sealing adds to a packet.
const OVERHEAD: usize = 48;

/// Datagrams of all sizes and header fields: what an ordinary stack sends, and what it could.
fn datagrams(lab: &Lab, group: IpAddr) -> Vec<Datagram> {
    let source = lab.host("source");
    let fits = 1500 - OVERHEAD - if group.is_ipv4() { 28 } else { 48 };
    let sizes = [0, 1, 15, 16, 17, 64, 1000, fits - 1, fits];
    let of = |(index, size): (usize, usize)| Datagram {
        ttl: [2, 16, 255][index % 3],
        tos: [0, 0xb8, 0x2a, 0xff][index % 4],
        source_port: 1024 + index as u16,
        ..Datagram::new(
            source.interface().mac,
            source.address(group),
            group,
            [PORT, 1, 65535][index % 3],
            FILLER.iter().copied().cycle().skip(index).take(size).collect::<Vec<_>>(),
        )
    };
    sizes.into_iter().enumerate().map(of).collect()
}

#[test]
fn a_datagram_arrives_as_it_was_sent_in_both_families() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-identity"))?;
    for group in GROUPS.map(ip) {
        let sent = datagrams(&lab, group);
        let on_wan = lab.host("observer").capture("eth0")?.protected(&[group]).keep(100).start()?;
        let arrived = lab.host("receiver").capture("eth0")?.keep(100).start()?;
        let socket = lab.host("source").packet_socket("eth0")?;
        for datagram in &sent {
            socket.send(&datagram.to_frame())?;
        }
        let of_group = |datagrams: &[Datagram]| -> Vec<Datagram> {
            datagrams.iter().filter(|datagram| datagram.group == group).cloned().collect()
        };
        lab.eventually(2.s(), "all to arrive", || arrived.look(|r| of_group(&r.datagrams).len()) == sent.len())?;
        // Everything but the hardware address of the last hop, checksum included.
        let as_sent = |datagram: &Datagram| Datagram::parse(&datagram.to_frame()).expect("a datagram");
        let from_b = |datagram: Datagram| Datagram { mac: lab.host("b").interface().mac, ..datagram };
        let expected: Vec<_> = sent.iter().map(as_sent).map(from_b).collect();
        let arrived = arrived.stop()?;
        for (expected, arrived) in expected.iter().zip(of_group(&arrived.datagrams)) {
            let arrived = Datagram { dont_fragment: expected.dont_fragment, ..arrived };
            assert_eq!(arrived, *expected);
        }
        let on_wan = on_wan.stop()?;
        assert_eq!((on_wan.cleartext, on_wan.missed), (0, 0), "{:02x?}", on_wan.cleartext_examples);
        let sealed = of_group(&on_wan.datagrams);
        let sizes =
            |datagrams: &[Datagram]| datagrams.iter().map(|datagram| datagram.payload.len()).collect::<Vec<_>>();
        let grown: Vec<_> = sizes(&sent).into_iter().map(|size| size + OVERHEAD).collect();
        assert_eq!(sizes(&sealed), grown, "in order, each {OVERHEAD} bytes longer");
        for (sealed, sent) in sealed.iter().zip(&sent) {
            assert_eq!((sealed.port, sealed.source, sealed.tos), (SEALED_PORT, sent.source, sent.tos));
            assert!(sealed.dont_fragment || group.is_ipv6(), "sealed packets are never fragmented");
        }
    }
    wait_accounted(&lab)
}

#[test]
fn a_datagram_without_a_checksum_arrives_without_one() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-checksum"))?;
    let group = ip(GROUPS[0]);
    let arrived = lab.host("receiver").capture("eth0")?.keep(10).start()?;
    let datagram = datagrams(&lab, group).remove(5);
    // RFC 768: zero means that the sender made none. A wrong one is for the receiver to find.
    for checksum in [0u16, 0x1234] {
        let mut frame = datagram.to_frame();
        frame[40..42].copy_from_slice(&checksum.to_be_bytes());
        lab.host("source").packet_socket("eth0")?.send(&frame)?;
    }
    let checksums =
        || arrived.look(|r| r.datagrams.iter().filter(|d| d.group == group).map(|d| d.checksum).collect::<Vec<_>>());
    lab.eventually(2.s(), "both to arrive", || checksums() == [0u16, 0x1234].to_vec())?;
    Ok(())
}

#[test]
fn streams_of_every_suite_arrive_whole_and_nothing_is_in_the_clear() -> Result<()> {
    let _turn = turn();
    let groups = [
        Group::new("239.1.1.1").suite(Suite::Aes256Gcm),
        Group::new("239.1.1.2").suite(Suite::Chacha20Poly1305),
        Group::new("ff3e::1:1").suite(Suite::Aes256Gcm),
        Group::new("ff3e::1:2").suite(Suite::Chacha20Poly1305),
        Group::new("239.1.2.0/24").ports(&[PORT]),
    ];
    // No one can join a whole prefix, so bridges that snoop would not deliver it.
    let lab = Lab::up(Topology::pair(), Options::new("t-suites").groups(groups).without_snooping())?;
    let addresses = ["239.1.1.1", "239.1.1.2", "ff3e::1:1", "ff3e::1:2", "239.1.2.77"].map(ip);
    let capture = lab.host("observer").capture("eth0")?.protected(&addresses).start()?;
    for group in addresses {
        let receiver = lab.host("receiver").receive(group, PORT, None)?;
        let sent = lab.host("source").send(Stream::to(group).packets(1000))?.finish();
        let account = Account::of(&sent, &receiver.finish(100.ms()).stream(1), &[]);
        assert!(account.is_perfect(), "{group}: {account:?}");
    }
    let heard = capture.stop()?;
    assert_eq!((heard.cleartext, heard.missed), (0, 0), "{:02x?}", heard.cleartext_examples);
    assert_eq!((heard.sealed, heard.nonces_reused, heard.sealed_repeated), (5000, 0, 0));
    assert_eq!(heard.keys.len(), addresses.len(), "one key per group");
    wait_accounted(&lab)
}

#[test]
fn a_group_without_protection_is_relayed_as_it_is() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-relay").groups([Group::new("239.3.3.3").unprotected()]))?;
    let group = ip("239.3.3.3");
    let capture = lab.host("observer").capture("eth0")?.protected(&[group]).start()?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let sent = lab.host("source").send(Stream::to(group).packets(500))?.finish();
    let account = Account::of(&sent, &receiver.finish(100.ms()).stream(1), &[]);
    assert!(account.is_perfect(), "{account:?}");
    assert_eq!(capture.stop()?.cleartext, 500);
    wait_accounted(&lab)
}

#[test]
fn only_configured_ports_and_sources_are_carried() -> Result<()> {
    let _turn = turn();
    let source = ip("10.77.1.2");
    let groups = [Group::new("239.1.1.1").ports(&[PORT]), Group::new("232.1.1.1").sources(&[source])];
    let lab = Lab::up(Topology::pair(), Options::new("t-narrow").groups(groups))?;
    let host = lab.host("source");
    assert_eq!(host.address(source), source);
    let capture = lab.host("observer").capture("eth0")?.start()?;
    let arrived = lab.host("receiver").capture("eth0")?.keep(10).start()?;
    let socket = host.packet_socket("eth0")?;
    let datagram = |group, port, source| Datagram::new(host.interface().mac, ip(source), ip(group), port, *b"payload");
    let carried = [datagram("239.1.1.1", PORT, "10.77.1.2"), datagram("232.1.1.1", 9, "10.77.1.2")];
    socket.send(&datagram("239.1.1.1", PORT + 1, "10.77.1.2").to_frame())?;
    socket.send(&datagram("232.1.1.1", 9, "10.77.1.3").to_frame())?;
    for datagram in &carried {
        socket.send(&datagram.to_frame())?;
    }
    let of_source = |datagrams: &[Datagram]| datagrams.iter().filter(|d| d.source == source).map(|d| d.group).collect();
    let arrived = || -> Vec<IpAddr> { arrived.look(|report| of_source(&report.datagrams)) };
    lab.eventually(2.s(), "what is configured to arrive", || arrived() == carried.each_ref().map(|d| d.group))?;
    assert_eq!(capture.stop()?.sealed, 2);
    let lan = lab.gateway("a").interface("lan0")?;
    assert_eq!((lan.passed["other_port"], lan.dropped["other_source"]), (1, 1));
    wait_accounted(&lab)
}

#[test]
#[expect(clippy::zombie_processes, reason = "on failure the lab is removed, and reaps what runs in it")]
fn ordinary_tools_reach_each_other_between_any_two_hosts() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::trio(), Options::new("t-socat"))?;
    for (from, to, group) in
        [("host-a", "host-b", "239.1.1.1"), ("host-b", "host-c", "239.1.1.1"), ("host-c", "host-a", "[ff3e::1:1]")]
    {
        let bare = group.trim_matches(['[', ']']);
        let (listen, send) = if group.starts_with('[') {
            (
                format!("UDP6-RECVFROM:7000,ipv6-join-group={group}:eth0"),
                format!("UDP6-DATAGRAM:{group}:7000,setsockopt-int=41:18:8,so-bindtodevice=eth0"),
            )
        } else {
            (
                format!("UDP4-RECVFROM:7000,ip-add-membership={group}:eth0"),
                format!("UDP4-DATAGRAM:{group}:7000,ip-multicast-ttl=8"),
            )
        };
        let mut listener = lab.host(to).command("timeout");
        let listener = listener.args(["10", "socat", "-u", &listen, "STDOUT"]).stdout(Stdio::piped()).spawn();
        let listener = listener.expect("socat runs");
        lab.eventually(5.s(), "socat to join", || {
            lab.host(to).run(&["ip", "maddress", "show", "dev", "eth0"]).is_ok_and(|text| text.contains(bare))
        })?;
        let text = format!("from {from} to {to}");
        lab.host(from).run(&["sh", "-c", &format!("printf '{text}' | socat -u STDIN {send}")])?;
        let output = listener.wait_with_output().expect("a child");
        assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    }
    Ok(())
}
