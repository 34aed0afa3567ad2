//! F36, F10: two gateways on one LAN and one untrusted segment. Exactly one forwards each group, in both directions; where
//! they do not hear each other, the LAN tells them; when the one that forwards dies, the other takes over.

mod common;

use std::net::IpAddr;

use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_lab::{
    Daemon, Gateway, Group, Lab, Options, Receiver, Result, Seconds, Sender, Stream, Topology, monotonic_ns,
};
use serde_json::Value;

/// Three Hellos of 200 ms make a neighbour dead.
const HELLOS: &str = "[resilience]\nhello_interval = \"200ms\"";
/// What the forwarder delivered before it died has been read by then.
const LATE_NS: u64 = 50_000_000;
const SEGMENT: &str = "segment = \"studio\"";

/// One field of a gateway's first group.
fn group_field(gateway: &Gateway<'_>, field: &str) -> String {
    let listed = gateway.gemctl(&["group", "list"]).unwrap_or_default();
    listed["groups"][0][field].as_str().unwrap_or_default().to_owned()
}

/// Whether one of the two forwards the group and the other stands by, and both name the same one.
fn is_decided(one: &Gateway<'_>, other: &Gateway<'_>) -> bool {
    let roles = [one, other].map(|gateway| group_field(gateway, "role"));
    let forwarders = [one, other].map(|gateway| group_field(gateway, "forwarder"));
    let named = roles.iter().position(|role| role == "forwarder").map(|at| [one, other][at].host().name().to_owned());
    roles.iter().any(|role| role == "standby") && named.is_some_and(|name| forwarders.iter().all(|one| *one == name))
}

/// How many events of that name a gateway told.
fn told(gateway: &Gateway<'_>, name: &str) -> usize {
    let output = gateway.gemctl_output(&["-o", "json", "events"]).expect("gemctl runs");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|event| event["name"] == name)).count()
}

/// A stream each way, between the shared LAN and the other side.
struct Streams {
    _senders: [Sender; 2],
    receivers: [Receiver; 2],
}

impl Streams {
    fn start(lab: &Lab, group: IpAddr) -> Result<Self> {
        let (near, far) = (lab.host("host-ab"), lab.host("host-c"));
        let receivers = [far.receive(group, PORT, None)?, near.receive(group, PORT, None)?];
        let stream = |id| Stream::to(group).id(id).bits_per_second(1_000_000);
        Ok(Self { _senders: [near.send(stream(1))?, far.send(stream(2))?], receivers })
    }

    /// Different packets that arrived across, out and in.
    fn delivered(&self) -> [u64; 2] {
        [1, 2].map(|id| self.receivers[id as usize - 1].report().stream(id).delivered)
    }

    fn duplicated(&self) -> [u64; 2] {
        [1, 2].map(|id| self.receivers[id as usize - 1].report().stream(id).duplicated)
    }

    /// Waits until both streams have brought some more.
    fn wait_flow(&self, lab: &Lab) -> Result<()> {
        let before = self.delivered();
        let flows = || self.delivered().iter().zip(before).all(|(now, before)| *now > before + 100);
        lab.eventually(30.s(), "both streams to flow", flows).map(drop)
    }

    /// When a packet sent across last arrived, out and in.
    fn last_ns(&self) -> [u64; 2] {
        [1, 2].map(|id| self.receivers[id as usize - 1].report().stream(id).last_ns)
    }
}

#[test]
fn f36_f10_one_of_two_forwards_and_the_other_takes_over() -> Result<()> {
    let _turn = turn();
    let options = Options::new("t-f36").groups([Group::new(GROUPS[0])]).config(HELLOS);
    let options = options.interface_config("a", "lan0", SEGMENT).interface_config("b", "lan0", SEGMENT);
    let lab = Lab::up(Topology::redundant(), options)?;
    let [a, b] = ["a", "b"].map(|name| lab.gateway(name));
    lab.eventually(30.s(), "a forwarder", || is_decided(&a, &b))?;
    let streams = Streams::start(&lab, ip(GROUPS[0]))?;
    streams.wait_flow(&lab)?;
    assert_eq!(streams.duplicated(), [0, 0], "exactly one forwards");
    let (active, standby) = if group_field(&a, "role") == "forwarder" { (&a, &b) } else { (&b, &a) };
    let not_forwarder = standby.interface("lan0")?.dropped_for("not_forwarder");
    assert!(not_forwarder > 0, "the other hears the LAN, too, and does not seal it");

    // Babel of the forwarder is silenced: each now thinks that the other is dead, and the data still passes.
    let silence = "ip -6 rule add pref 1 lookup local; ip -6 rule del pref 0; ip -6 rule add pref 0 oif wan0 blackhole";
    let undo = "ip -6 rule del pref 0; ip -6 rule add pref 0 lookup local; ip -6 rule del pref 1";
    active.host().run(&["sh", "-c", silence])?;
    lab.eventually(30.s(), "the conflict to be told", || {
        told(&a, "forwarder_conflict") + told(&b, "forwarder_conflict") > 0
    })?;
    assert!(streams.duplicated()[1] > 0, "what comes in was delivered twice");
    lab.eventually(30.s(), "one to stand by", || is_decided(&a, &b))?;
    active.host().run(&["sh", "-c", undo])?;
    lab.eventually(30.s(), "the two to hear each other", || {
        [&a, &b].iter().all(|one| common::reachable_nodes(one).len() == 3)
    })?;
    lab.eventually(30.s(), "one forwarder", || is_decided(&a, &b))?;
    let duplicated = streams.duplicated();
    streams.wait_flow(&lab)?;
    assert_eq!(streams.duplicated(), duplicated, "no more");

    // F10: both processes of the forwarder die at once.
    let (active, standby) = if group_field(&a, "role") == "forwarder" { (&a, &b) } else { (&b, &a) };
    let changed = told(standby, "forwarder_changed");
    active.kill(Daemon::DataPlane)?;
    active.kill(Daemon::Control)?;
    let died = monotonic_ns();
    let back = lab
        .eventually(10.s(), "the other to take over", || streams.last_ns().iter().all(|last| *last > died + LATE_NS))?;
    println!("f10: both streams are delivered again {} ms after the crash", back.as_millis());
    lab.eventually(10.s(), "the takeover to be told", || {
        told(standby, "forwarder_changed") > changed && group_field(standby, "role") == "forwarder"
    })?;
    assert_eq!(group_field(standby, "forwarder_why"), "the only one ready on the LAN");
    streams.wait_flow(&lab)?;

    // It comes back, waits, and takes its groups back, if they were its own: nothing twice.
    let duplicated = streams.duplicated();
    active.start(Daemon::DataPlane)?;
    active.start(Daemon::Control)?;
    active.wait_ready(30.s())?;
    lab.eventually(30.s(), "one forwarder", || is_decided(&a, &b))?;
    streams.wait_flow(&lab)?;
    assert_eq!(streams.duplicated(), duplicated);
    drop(streams);
    wait_accounted(&lab)
}
