//! The lab without daemons: links carry what they should, bridges prune, and nothing outlives `down`.

mod common;

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use common::{ip, turn};
use gemcast_lab::{Account, Error, Host, Lab, Options, ProcessId, Result, Seconds, Stream, Topology};

fn plain(instance: &str) -> Options {
    Options::new(instance).without_daemons()
}

/// Whether a unicast datagram arrives.
fn reaches(from: Host<'_>, to: Host<'_>, address: IpAddr) -> Result<bool> {
    let bind = |address| UdpSocket::bind((address, 0)).expect("a free port");
    let there = to.namespace().enter(|| bind(address))?;
    let any = if address.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
    let here = from.namespace().enter(|| bind(any))?;
    here.send_to(b"hello", there.local_addr().expect("it is bound")).expect("it is routed");
    there.set_read_timeout(Some(2.s())).expect("not zero");
    Ok(there.recv(&mut [0; 16]).is_ok_and(|len| len == 5))
}

#[test]
fn hosts_of_a_segment_reach_each_other_in_both_families() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::line(), plain("t-reach"))?;
    for (from, to) in [("host-a", "a"), ("a", "b"), ("b", "c"), ("c", "host-c"), ("observer", "c")] {
        let segment = |host: &str| lab.host(host).interfaces().iter().map(|i| i.segment.clone()).collect::<Vec<_>>();
        let shared = segment(from).into_iter().find(|name| segment(to).contains(name)).expect("a segment in common");
        let there = lab.host(to).interfaces().iter().find(|i| i.segment == shared).expect("on the segment");
        assert!(reaches(lab.host(from), lab.host(to), there.ipv4.into())?, "{from} → {to}");
        assert!(reaches(lab.host(from), lab.host(to), there.ipv6.into())?, "{from} → {to}");
    }
    Ok(())
}

#[test]
fn a_bridge_delivers_a_group_to_those_who_joined_and_to_the_observer() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::trio(), plain("t-snoop"))?;
    for group in [ip("239.7.7.7"), ip("ff3e::7:7")] {
        // Sent on the untrusted segment itself, where a's first interface is not.
        let wan = |host: &str| lab.host(host).interface_named("wan0").ipv4;
        assert_ne!(wan("a"), wan("b"));
        let observed = lab.host("observer").capture("eth0")?.protected(&[group]).start()?;
        let bystander = lab.host("c").capture("wan0")?.protected(&[group]).start()?;
        let joined = lab.host("b").receive_on("wan0", group, 5004, None)?;
        // The bridge prunes once its querier has listened for a second.
        lab.eventually(5.s(), "the bridge prunes", || {
            let before = bystander.look(|report| report.cleartext);
            let sender = lab.host("a").send_on("wan0", Stream::to(group).id(9).packets(20)).expect("a can send");
            sender.finish();
            std::thread::sleep(50.ms());
            bystander.look(|report| report.cleartext) == before
        })?;
        let before = (observed.look(|r| r.cleartext), bystander.look(|r| r.cleartext));
        let sent = lab.host("a").send_on("wan0", Stream::to(group).packets(200))?.finish();
        let received = joined.finish(100.ms());
        let account = Account::of(&sent, &received.stream(1), &[]);
        assert!(account.is_perfect(), "{account:?}");
        assert_eq!(observed.stop()?.cleartext - before.0, 200, "the observer hears everything");
        assert_eq!(bystander.stop()?.cleartext, before.1, "c has not joined {group}");
    }
    Ok(())
}

#[test]
fn a_stream_arrives_whole_with_its_header_fields() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), plain("t-stream"))?;
    let group = ip("239.7.7.7");
    let capture = lab.host("a").capture("lan0")?.keep(1).start()?;
    let receiver = lab.host("a").receive(group, 5004, Some(lab.host("source").address(group)))?;
    let stream = Stream { ttl: 9, tos: 0xb8, ..Stream::to(group).packets(500) };
    let sent = lab.host("source").send(stream)?.finish();
    let received = receiver.finish(100.ms());
    let account = Account::of(&sent, &received.stream(1), &[]);
    assert!(account.is_perfect() && account.sent == 500, "{account:?}");
    assert_eq!(received.corrupt, 0);
    let report = capture.stop()?;
    let first = report.datagrams.first().expect("a datagram was captured");
    assert_eq!((first.ttl, first.tos, first.port), (9, 0xb8, 5004));
    let mut rebuilt = first.to_frame();
    gemcast_lab::fix_checksums(&mut rebuilt);
    let rebuilt = gemcast_lab::Datagram::parse(&rebuilt).expect("a datagram");
    assert_eq!(rebuilt.checksum, first.checksum, "hosts send whole UDP checksums");
    Ok(())
}

#[test]
#[expect(clippy::zombie_processes, reason = "removing the lab reaps what runs in it")]
fn two_labs_stand_side_by_side_and_leave_nothing_behind() -> Result<()> {
    let _turn = turn();
    let links = || Command::new("ip").args(["-o", "link"]).output().expect("ip runs").stdout;
    let mounts = || std::fs::read_to_string("/proc/self/mounts").expect("mounts are readable");
    let before = (links().len(), mounts());
    let one = Lab::up(Topology::pair(), plain("t-one"))?;
    let two = Lab::up(Topology::pair(), plain("t-two"))?;
    assert!(matches!(Lab::up(Topology::pair(), plain("t-one")), Err(Error::AlreadyUp(_))));
    let sleeper = two.host("a").command("sleep").arg("1000").spawn().expect("nsenter runs");
    let sleeper = ProcessId::of(sleeper.id()).expect("it runs");
    assert_eq!((links().len(), mounts()), before, "the machine itself does not change");
    drop(one);
    assert!(reaches(two.host("a"), two.host("b"), ip("10.77.3.2"))?);
    let directory = two.state().directory.clone();
    drop(two);
    assert!(!sleeper.is_alive(), "what runs in a lab ends with it");
    assert!(!directory.exists() && !Path::new("/run/gemcast-lab/t-one").exists());
    assert_eq!((links().len(), mounts()), before);
    Ok(())
}

#[test]
fn what_a_crash_left_half_made_is_removed() -> Result<()> {
    let _turn = turn();
    let mut lab = Lab::up(Topology::pair(), plain("t-crash"))?;
    lab.keep()?;
    let (directory, holders): (_, Vec<_>) =
        (lab.state().directory.clone(), lab.state().hosts.iter().map(|host| host.namespace.holder).collect());
    drop(lab);
    // As if `up` had ended before it wrote anything down.
    std::fs::remove_file(directory.join("state.json")).expect("the state file is there");
    assert!(holders.iter().all(|holder| holder.is_alive()));
    assert!(Lab::down("t-crash")?);
    assert!(!holders.iter().any(|holder| holder.is_alive()));
    assert!(!Lab::down("t-crash")?, "there is nothing left to remove");
    Ok(())
}

#[test]
fn what_stays_up_holds_none_of_the_callers_pipes() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), plain("t-pipes"))?;
    for host in &lab.state().hosts {
        for fd in 0..3 {
            let file = format!("/proc/{}/fd/{fd}", host.namespace.holder.pid);
            assert_eq!(std::fs::read_link(file).expect("it is open"), Path::new("/dev/null"), "{} {fd}", host.name);
        }
    }
    Ok(())
}
