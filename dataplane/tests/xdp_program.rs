//! The loaded XDP program, driven frame by frame with BPF_PROG_TEST_RUN. Needs root and a kernel with XDP; without them
//! it fails and says so.

use aya::maps::{HashMap, LpmTrie, PerCpuArray, lpm_trie::Key};
use aya::programs::xdp::Xdp;
use aya::programs::{TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use gemcast_dataplane::tables::Flow;
use gemcast_dataplane::xdp::OBJECT;
use gemcast_lab::{Datagram, Mac, fix_checksums, vlan_tagged};
use gemcast_proto::id::{Counter, Epoch, KeyId, map};
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::frame::{HEADER_LEN, Header, INNER_LEN, Kind, PORT, ROOM, TAG_LEN};
use gemcast_xdp::layout::{FlowRule, GatewayCount, GtagKey, Mark, SipKey, SourceKey, Stat, gateway_key, stat_index};
use std::net::IpAddr;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const SLOT: u32 = 3;
const GTAG_KEY: [u8; 16] = [7; 16];
const KEY: KeyId = KeyId(0xaabb_ccdd);

struct Program(Ebpf);

impl Program {
    fn load() -> Self {
        let mut ebpf = EbpfLoader::new()
            .override_global("SLOT", &SLOT, true)
            .load(OBJECT)
            .expect("loading the XDP program needs root and a kernel with BPF; this test cannot run without");
        for name in ["gemcast_trusted", "gemcast_untrusted"] {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().expect("the verifier accepts the program");
        }
        let mut program = Self(ebpf);
        program.add("239.1.1.1", |_| {});
        program.add("ff3e::1:1", |_| {});
        program
    }

    /// Adds a sealed flow both ways, bent by `change`, and its gtag key of epoch 1.
    fn add(&mut self, group: &str, change: fn(&mut Flow)) {
        let mut flow = Flow {
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
        change(&mut flow);
        let rule = flow.rule(9);
        let mut sources: HashMap<_, SourceKey, u8> = self.0.map_mut("SOURCES").unwrap().try_into().unwrap();
        for source in &flow.sources {
            sources.insert(SourceKey { flow: 9, source: *source }, 1, 0).unwrap();
        }
        if flow.group.is_single() {
            let mut flows: HashMap<_, [u8; 16], FlowRule> = self.0.map_mut("FLOWS").unwrap().try_into().unwrap();
            flows.insert(*flow.group.mapped(), rule, 0).unwrap();
        } else {
            let mut flows: LpmTrie<_, [u8; 16], FlowRule> =
                self.0.map_mut("FLOW_PREFIXES").unwrap().try_into().unwrap();
            flows.insert(&Key::new(flow.group.mapped_prefix_len().into(), *flow.group.mapped()), rule, 0).unwrap();
        }
        let mut gtag: HashMap<_, GtagKey, SipKey> = self.0.map_mut("GTAG").unwrap().try_into().unwrap();
        gtag.insert(GtagKey::new(&flow.group, Epoch(1)), SipKey::new(&GTAG_KEY), 0).unwrap();
    }

    fn count(&self, stat: Stat) -> u64 {
        let stats: PerCpuArray<_, u64> = self.0.map("STATS").unwrap().try_into().unwrap();
        stats.get(&stat_index(SLOT, stat), 0).unwrap().iter().sum()
    }

    /// Runs a frame. Returns the verdict, the one reason that was counted, and the frame as it came out.
    fn run(&self, entry: &str, frame: &[u8]) -> (u32, Reason, Vec<u8>) {
        let counts = || Reason::ALL.iter().map(|&reason| self.count(Stat::Reason(reason))).collect::<Vec<_>>();
        let (before, received) = (counts(), self.count(Stat::Received));
        let mut out = vec![0; 4096];
        let program: &Xdp = self.0.program(entry).unwrap().try_into().unwrap();
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        assert_eq!(self.count(Stat::Received), received + 1);
        let after = counts();
        let counted: Vec<Reason> =
            Reason::ALL.iter().zip(after.iter().zip(&before)).filter(|(_, (a, b))| a > b).map(|(&r, _)| r).collect();
        assert_eq!(counted.len(), 1, "one reason for each frame, got {counted:?}");
        let verdict = if counted[0].is_drop() { XDP_DROP } else { XDP_PASS };
        assert_eq!(result.return_value, verdict, "{:?}", counted[0]);
        (result.return_value, counted[0], out)
    }

    fn trusted(&self, frame: &[u8]) -> Reason {
        self.run("gemcast_trusted", frame).1
    }

    fn untrusted(&self, frame: &[u8]) -> Reason {
        self.run("gemcast_untrusted", frame).1
    }
}

/// Without a socket in `XSKS`, what would be redirected is dropped for this reason.
const REDIRECTED: Reason = Reason::NoWorker;

fn clear(group: &str) -> Datagram {
    let group: IpAddr = group.parse().unwrap();
    let source: IpAddr = if group.is_ipv4() { "10.1.0.2" } else { "fd00:1::2" }.parse().unwrap();
    Datagram::new(Mac([2, 0, 0, 0, 0, 1]), source, group, 5000, vec![0x47; 188])
}

/// A packet with a right gtag around rubbish, bent by `change` before the gtag is made.
fn sealed(group: &str, change: fn(&mut Header)) -> Datagram {
    let mut datagram = clear(group);
    let ciphertext_len = INNER_LEN + 188 + TAG_LEN;
    let mut header = Header { kind: Kind::Native, epoch: Epoch(1), key_id: KEY, ctr: Counter::new(0, 1), gtag: 0 };
    change(&mut header);
    let (source, group) = (map(datagram.source), map(datagram.group));
    let key = SipKey::new(&GTAG_KEY);
    header.gtag = match datagram.group {
        IpAddr::V4(_) => header.gtag_v4(key.k0, key.k1, &source, &group, ciphertext_len as u16),
        IpAddr::V6(_) => header.gtag_v6(key.k0, key.k1, &source, &group, ciphertext_len as u16),
    };
    datagram.port = PORT;
    datagram.payload = [&header.emit()[..], &vec![0x99; ciphertext_len]].concat();
    datagram
}

const GROUPS: [&str; 2] = ["239.1.1.1", "ff3e::1:1"];

#[test]
fn cleartext_of_a_configured_group_gets_room_and_goes_to_the_worker() {
    let program = Program::load();
    for group in GROUPS {
        let frame = clear(group).to_frame();
        let (_, reason, out) = program.run("gemcast_trusted", &frame);
        assert_eq!(reason, REDIRECTED);
        assert_eq!(Mark::parse(&out), Some(Mark::new(Mark::SEAL, 9)), "the flow waits in the room");
        assert_eq!(&out[ROOM..], &frame[..]);
    }
}

#[test]
fn a_sealed_packet_with_a_right_gtag_goes_to_the_worker_as_it_is() {
    let program = Program::load();
    for group in GROUPS {
        let frame = sealed(group, |_| {}).to_frame();
        let (_, reason, out) = program.run("gemcast_untrusted", &frame);
        assert_eq!((reason, &out[8..]), (REDIRECTED, &frame[8..]));
        assert_eq!(Mark::parse(&out), Some(Mark::new(Mark::OPEN, 9)));
    }
}

#[test]
fn every_altered_bit_of_what_the_gtag_covers_is_dropped() {
    let program = Program::load();
    for group in GROUPS {
        let datagram = sealed(group, |_| {});
        let good = datagram.to_frame();
        let header = datagram.headers_len();
        for at in header..header + HEADER_LEN {
            for bit in 0..8 {
                let mut frame = good.clone();
                frame[at] ^= 1 << bit;
                let reason = program.untrusted(&frame);
                let expected = match at - header {
                    0 if bit >= 4 => Reason::Version,
                    0 => Reason::Kind,
                    1 => Reason::Flags,
                    2 | 3 => Reason::UnknownEpoch,
                    _ => Reason::Gtag,
                };
                assert_eq!(reason, expected, "byte {at} bit {bit}");
            }
        }
        let mut other_source = datagram.clone();
        other_source.source = if group.contains(':') { "fd00::9" } else { "10.9.9.9" }.parse().unwrap();
        assert_eq!(program.untrusted(&other_source.to_frame()), Reason::Gtag);
        let mut longer = datagram.clone();
        longer.payload.push(0);
        assert_eq!(program.untrusted(&longer.to_frame()), Reason::Gtag);
        let mut shorter = datagram;
        shorter.payload.truncate(ROOM + TAG_LEN - 1);
        assert_eq!(program.untrusted(&shorter.to_frame()), Reason::Truncated);
    }
}

#[test]
fn cleartext_never_enters_from_the_untrusted_side_nor_sealed_packets_from_the_trusted() {
    let program = Program::load();
    for group in GROUPS {
        assert_eq!(program.untrusted(&clear(group).to_frame()), Reason::ClearOnUntrusted);
        assert_eq!(program.trusted(&sealed(group, |_| {}).to_frame()), Reason::SealedOnTrusted);
    }
}

#[test]
fn malformed_packets_of_a_group_have_reasons_of_their_own_on_both_sides() {
    let program = Program::load();
    let v4 = clear("239.1.1.1").to_frame();
    let v6 = clear("ff3e::1:1").to_frame();
    let bent = |frame: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = frame.to_vec();
        change(&mut frame);
        fix_checksums(&mut frame);
        frame
    };
    let mut cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("more fragments", bent(&v4, &|f| f[20] = 0x20), Reason::Fragment),
        ("last fragment", bent(&v4, &|f| f[21] = 0x10), Reason::Fragment),
        ("IPv6 fragment", bent(&v6, &|f| f[20] = 44), Reason::Fragment),
        ("IPv6 hop-by-hop", bent(&v6, &|f| f[20] = 0), Reason::IpOptions),
        ("IP length past the frame", bent(&v4, &|f| f[16] = 9), Reason::Truncated),
        ("IPv6 length past the frame", bent(&v6, &|f| f[18] = 9), Reason::Truncated),
        ("UDP length", v6_with(&v6, 58, 1), Reason::BadLength),
        ("IPv6 version", bent(&v6, &|f| f[14] = 0x50), Reason::BadIpHeader),
    ];
    cases.push(("cut short", v4[..60].to_vec(), Reason::Truncated));
    let mut checksum = v4.clone();
    checksum[24] ^= 1;
    cases.push(("IPv4 checksum", checksum, Reason::BadIpHeader));
    let mut options = v4.clone();
    options[14] = 0x46;
    cases.push(("IPv4 options", options, Reason::IpOptions));
    for (name, frame, reason) in &cases {
        assert_eq!(program.trusted(frame), *reason, "{name}");
        assert_eq!(program.untrusted(frame), *reason, "{name}");
    }
}

fn v6_with(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = value;
    frame
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let program = Program::load();
    let with_group = |group: &str| clear(group).to_frame();
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut unicast = clear("239.1.1.1");
    unicast.group = "10.1.0.1".parse().unwrap();
    let mut igmp = with_group("239.1.1.1");
    igmp[23] = 2;
    let mut mld = with_group("ff02::16");
    mld[20] = 0;
    let babel = with_group("ff02::1:6");
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("ARP", arp, Reason::NotIp),
        ("runt", vec![0; 13], Reason::NotIp),
        ("unicast", unicast.to_frame(), Reason::NotMulticast),
        ("IGMP", igmp, Reason::NotUdp),
        ("MLD", mld, Reason::LinkLocal),
        ("Babel", babel, Reason::LinkLocal),
        ("mDNS", with_group("224.0.0.251"), Reason::LinkLocal),
        ("VLAN", vlan_tagged(&with_group("239.1.1.1"), 7), Reason::Vlan),
        ("other group", with_group("239.9.9.9"), Reason::NoFlow),
        (
            "fragment of another group",
            {
                let mut f = with_group("239.9.9.9");
                f[20] = 0x20;
                fix_checksums(&mut f);
                f
            },
            Reason::NoFlow,
        ),
    ];
    for (name, frame, reason) in &cases {
        // BPF_PROG_TEST_RUN wants an Ethernet header at least.
        if frame.len() < 14 {
            continue;
        }
        for entry in ["gemcast_trusted", "gemcast_untrusted"] {
            let (verdict, counted, out) = program.run(entry, frame);
            assert_eq!((verdict, counted, &out), (XDP_PASS, *reason, frame), "{name}");
        }
    }
}

#[test]
fn a_flow_is_narrowed_by_ports_sources_and_direction() {
    let mut program = Program::load();
    program.add("239.1.1.1", |flow| {
        flow.ports = vec![5000, 5002];
        flow.sources = vec![map("10.1.0.2".parse().unwrap())];
    });
    let with = |change: fn(&mut Datagram)| {
        let mut datagram = clear("239.1.1.1");
        change(&mut datagram);
        datagram.to_frame()
    };
    assert_eq!(program.trusted(&with(|_| {})), REDIRECTED);
    assert_eq!(program.trusted(&with(|d| d.port = 5002)), REDIRECTED);
    assert_eq!(program.trusted(&with(|d| d.port = 5001)), Reason::OtherPort);
    assert_eq!(program.untrusted(&with(|d| d.port = 5001)), Reason::OtherPort);
    assert_eq!(program.trusted(&with(|d| d.source = "10.1.0.3".parse().unwrap())), Reason::OtherSource);
    assert_eq!(program.trusted(&with(|d| d.ttl = 1)), Reason::TtlExpired);
    program.add("239.1.1.1", |flow| (flow.send, flow.receive) = (false, false));
    assert_eq!(program.trusted(&with(|_| {})), Reason::NotSending);
    assert_eq!(program.untrusted(&sealed("239.1.1.1", |_| {}).to_frame()), Reason::NotReceiving);
}

#[test]
fn a_prefix_covers_its_groups_and_a_single_group_goes_first() {
    let mut program = Program::load();
    program.add("239.2.0.0/16", |_| {});
    program.add("239.2.7.7", |flow| flow.send = false);
    assert_eq!(program.trusted(&clear("239.2.1.1").to_frame()), REDIRECTED);
    assert_eq!(program.trusted(&clear("239.2.7.7").to_frame()), Reason::NotSending);
    assert_eq!(program.trusted(&clear("239.3.1.1").to_frame()), Reason::NoFlow);
    assert_eq!(program.untrusted(&sealed("239.2.1.1", |_| {}).to_frame()), REDIRECTED);
}

#[test]
fn a_plain_group_is_redirected_without_room_on_both_sides() {
    let mut program = Program::load();
    program.add("239.1.1.1", |flow| flow.sealed = false);
    let frame = clear("239.1.1.1").to_frame();
    for entry in ["gemcast_trusted", "gemcast_untrusted"] {
        let (_, reason, out) = program.run(entry, &frame);
        assert_eq!((reason, &out[8..]), (REDIRECTED, &frame[8..]));
        assert_eq!(Mark::parse(&out), Some(Mark::new(0, 9)));
    }
}

#[test]
fn a_banned_key_and_an_unknown_epoch_are_dropped() {
    let mut program = Program::load();
    let frame = sealed("239.1.1.1", |_| {}).to_frame();
    let mut bans: HashMap<_, u32, u8> = program.0.map_mut("BANS").unwrap().try_into().unwrap();
    bans.insert(KEY.0, 1, 0).unwrap();
    assert_eq!(program.untrusted(&frame), Reason::Banned);
    let mut bans: HashMap<_, u32, u8> = program.0.map_mut("BANS").unwrap().try_into().unwrap();
    bans.remove(&KEY.0).unwrap();
    assert_eq!(program.untrusted(&frame), REDIRECTED);
    assert_eq!(program.untrusted(&sealed("239.1.1.1", |h| h.epoch = Epoch(2)).to_frame()), Reason::UnknownEpoch);
}

#[test]
fn sealed_packets_are_relayed_only_from_where_their_origin_is() {
    let mut program = Program::load();
    program.add("239.4.1.1", |flow| (flow.send, flow.receive, flow.transit) = (false, false, true));
    program.add("239.4.1.2", |flow| flow.transit = true);
    let relayed = sealed("239.4.1.1", |_| {}).to_frame();
    let both = sealed("239.4.1.2", |_| {}).to_frame();
    let marks = |program: &Program, frame: &[u8]| {
        let (_, reason, out) = program.run("gemcast_untrusted", frame);
        (reason, Mark::parse(&out).map(|mark| mark.flags))
    };
    assert_eq!(marks(&program, &relayed), (Reason::NotOnPath, None));
    assert_eq!(marks(&program, &both), (REDIRECTED, Some(Mark::OPEN)), "opened all the same");
    // BPF_PROG_TEST_RUN runs programs as if on the loopback interface.
    for (ifindex, reason, relay, open) in
        [(2, Reason::NotOnPath, None, Mark::OPEN), (1, REDIRECTED, Some(Mark::TRANSIT), Mark::OPEN | Mark::TRANSIT)]
    {
        let mut transit: HashMap<_, u32, u32> = program.0.map_mut("TRANSIT").unwrap().try_into().unwrap();
        transit.insert(KEY.0, ifindex, 0).unwrap();
        assert_eq!(marks(&program, &relayed), (reason, relay));
        assert_eq!(marks(&program, &both), (REDIRECTED, Some(open)));
    }
    let mut last_hop = sealed("239.4.1.1", |_| {});
    last_hop.ttl = 1;
    assert_eq!(program.untrusted(&last_hop.to_frame()), Reason::TtlExpired);
    let forged = {
        let mut frame = relayed.clone();
        frame[60] ^= 1;
        frame
    };
    assert_eq!(program.untrusted(&forged), Reason::Gtag, "a relay that has the gtag key checks it");
}

#[test]
fn a_flow_that_stands_by_is_dropped_in_its_direction_and_still_relayed() {
    let mut program = Program::load();
    program.add("239.5.1.1", |flow| flow.send_standby = true);
    let (cleartext, ciphertext) = (clear("239.5.1.1").to_frame(), sealed("239.5.1.1", |_| {}).to_frame());
    assert_eq!(program.trusted(&cleartext), Reason::NotForwarder);
    assert_eq!(program.untrusted(&ciphertext), REDIRECTED);
    program.add("239.5.1.1", |flow| flow.receive_standby = true);
    assert_eq!(program.trusted(&cleartext), REDIRECTED, "one write switches");
    assert_eq!(program.untrusted(&ciphertext), Reason::NotForwarder);
    let mut forged = ciphertext.clone();
    forged[60] ^= 1;
    assert_eq!(program.untrusted(&forged), Reason::Gtag, "forgeries are counted as such");
    program.add("239.5.1.1", |flow| (flow.receive_standby, flow.transit) = (true, true));
    assert_eq!(program.untrusted(&ciphertext), Reason::NotForwarder);
    // BPF_PROG_TEST_RUN runs programs as if on the loopback interface.
    let mut transit: HashMap<_, u32, u32> = program.0.map_mut("TRANSIT").unwrap().try_into().unwrap();
    transit.insert(KEY.0, 1, 0).unwrap();
    let (_, reason, out) = program.run("gemcast_untrusted", &ciphertext);
    assert_eq!((reason, Mark::parse(&out).map(|mark| mark.flags)), (REDIRECTED, Some(Mark::TRANSIT)));
    program.add("239.5.1.2", |flow| (flow.sealed, flow.receive_standby) = (false, true));
    assert_eq!(program.untrusted(&clear("239.5.1.2").to_frame()), Reason::NotForwarder);
}

#[test]
fn what_another_gateway_delivered_is_never_sealed_again() {
    let mut program = Program::load();
    program.add("239.5.1.1", |flow| flow.send_standby = true);
    let from = |group, mac| Datagram { mac: Mac(mac), ..clear(group) }.to_frame();
    let (host, gateway) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
    assert_eq!(program.trusted(&from("239.1.1.1", gateway)), REDIRECTED, "a stranger so far");
    let mut gateways: HashMap<_, [u8; 8], GatewayCount> = program.0.map_mut("GATEWAYS").unwrap().try_into().unwrap();
    gateways.insert(gateway_key(gateway), GatewayCount::default(), 0).unwrap();
    for group in GROUPS {
        assert_eq!(program.trusted(&from(group, gateway)), Reason::FromGateway);
        assert_eq!(program.trusted(&from(group, host)), REDIRECTED);
    }
    assert_eq!(
        program.trusted(&from("239.5.1.1", gateway)),
        Reason::NotForwarder,
        "no conflict: it delivers, we stand by"
    );
    let gateways: HashMap<_, [u8; 8], GatewayCount> = program.0.map("GATEWAYS").unwrap().try_into().unwrap();
    let conflicts = GROUPS.len() as u64;
    let count = GatewayCount { frames: conflicts + 1, conflicts };
    assert_eq!(gateways.get(&gateway_key(gateway), 0).unwrap(), count);
    assert_eq!(program.trusted(&from("239.9.9.9", gateway)), Reason::NoFlow, "what is not configured passes");
    assert_eq!(program.untrusted(&sealed("239.1.1.1", |_| {}).to_frame()), REDIRECTED);
}
