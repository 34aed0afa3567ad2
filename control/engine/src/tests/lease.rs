//! Forwarders of a LAN that several gateways share.

use super::rig::{Options, Rig, config, members};
use crate::config::{GroupConfig, Protection};
use crate::input::{HeardGateway, Input, Segment};
use crate::output::Event;
use crate::secret::Secret;
use crate::view::Role;
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, Suite};

const SECOND: Duration = Duration::from_secs(1);
const GROUPS: u8 = 40;

fn groups() -> impl Iterator<Item = Group> {
    (0..GROUPS).map(|last| format!("239.2.2.{last}").parse().unwrap())
}

fn mac(host: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(host).unwrap()]
}

fn segment(host: usize, priority: u8) -> Segment {
    Segment { name: "studio".into(), priority, peers: Default::default(), macs: vec![mac(host)], up: true }
}

/// Hosts on one untrusted segment. The first `n` share a LAN.
fn lan(n: usize, hosts: usize) -> Rig {
    let everyone: Vec<_> = (0..hosts).collect();
    let mut rig = Rig::new(members(hosts), &[&everyone]);
    (0..hosts).for_each(|host| reconfigure(&mut rig, host));
    (0..n).for_each(|host| rig.handle(host, Input::Segment(Some(segment(host, 100)))));
    rig
}

fn plain(group: Group) -> GroupConfig {
    GroupConfig { group, protection: Protection::None, send: true, receive: true }
}

fn reconfigure(rig: &mut Rig, host: usize) {
    let mut config = config(host, &Default::default());
    config.groups.extend(groups().map(plain));
    rig.handle(host, Input::Reconfigure(Box::new(config)));
}

/// A new control process with a data plane that was not told anything.
fn restart(rig: &mut Rig, host: usize) {
    rig.hosts[host].maps.standing_by = None;
    rig.restart_control(host, &Default::default());
    reconfigure(rig, host);
    rig.handle(host, Input::Segment(Some(segment(host, 100))));
}

fn forwards(rig: &Rig, host: usize, group: &Group) -> bool {
    rig.hosts[host].maps.standing_by.as_ref().is_some_and(|standing_by| !standing_by.contains(group))
}

fn share(rig: &Rig, host: usize) -> usize {
    groups().filter(|group| forwards(rig, host, group)).count()
}

/// Every group has one forwarder among these.
fn is_shared_by(rig: &Rig, hosts: &[usize]) -> bool {
    groups().all(|group| hosts.iter().filter(|&&host| forwards(rig, host, &group)).count() == 1)
}

fn never_twice(rig: &Rig, hosts: &[usize]) {
    for group in groups() {
        let forwarders: Vec<_> = hosts.iter().filter(|&&host| forwards(rig, host, &group)).collect();
        assert!(forwarders.len() <= 1, "{forwarders:?} forward {group} at {:?}", rig.now);
    }
}

fn run_never_twice(rig: &mut Rig, duration: Duration, hosts: &[usize]) {
    let end = rig.now + duration;
    while rig.now < end {
        rig.run(Duration::from_millis(10));
        never_twice(rig, hosts);
    }
}

#[test]
fn f36_each_group_has_one_forwarder_and_all_have_work() {
    let mut rig = lan(3, 4);
    rig.run(Duration::from_millis(10));
    while !is_shared_by(&rig, &[0, 1, 2]) {
        assert!(rig.now.0 < 15_000_000, "no forwarders");
        rig.run(Duration::from_millis(10));
        never_twice(&rig, &[0, 1, 2]);
    }
    assert!((0..3).all(|host| share(&rig, host) > 4), "{:?}", (0..3).map(|host| share(&rig, host)));
    assert_eq!(rig.hosts[0].maps.gateways, [mac(1), mac(2)].into());
    assert_eq!(rig.hosts[3].maps.standing_by, None, "on no shared LAN");
    for group in groups() {
        let elections = (0..3).map(|host| rig.hosts[host].engine.election(&group).unwrap());
        let roles: Vec<_> = elections
            .inspect(|seen| assert_eq!((seen.candidates, seen.priority, seen.equals), (3, 100, 3)))
            .map(|seen| seen.role)
            .collect();
        assert_eq!(roles.iter().filter(|role| **role == Role::Forwarder).count(), 1);
        assert_eq!(roles.iter().filter(|role| matches!(role, Role::Standby(_))).count(), 2);
    }
    run_never_twice(&mut rig, 30 * SECOND, &[0, 1, 2]);
    assert!(is_shared_by(&rig, &[0, 1, 2]));
}

#[test]
fn f36_a_gateway_alone_forwards_after_it_has_listened() {
    let mut rig = lan(1, 2);
    assert_eq!(share(&rig, 0), 0);
    let took = rig.run_until(4 * SECOND, |rig| share(rig, 0) == usize::from(GROUPS));
    assert!(took >= 2 * SECOND, "{took:?}");
}

#[test]
fn f10_the_groups_of_a_crashed_gateway_are_taken_over() {
    let mut rig = lan(2, 3);
    rig.run_until(15 * SECOND, |rig| is_shared_by(rig, &[0, 1]));
    let lost = share(&rig, 0);
    assert!(lost > 4);
    rig.loses = Box::new(|from, to, _| from == 0 || to == 0);
    // Two and a half Hellos of 1 s.
    let took = rig.run_until(4 * SECOND, |rig| share(rig, 1) == usize::from(GROUPS));
    assert!(took > SECOND, "{took:?}");
    let changed = |event: &Event| matches!(event, Event::ForwarderChanged { taken, left: 0 } if *taken >= lost);
    assert!(rig.hosts[1].events.iter().any(changed));

    // It comes back, without memory: it waits until it is stable, and nothing is forwarded twice.
    rig.loses = Box::new(|_, _, _| false);
    restart(&mut rig, 0);
    let back = rig.now;
    while share(&rig, 0) < lost {
        rig.run(Duration::from_millis(10));
        never_twice(&rig, &[0, 1]);
        assert!(share(&rig, 0) == 0 || rig.now - back >= 5 * SECOND, "too early");
        assert!(share(&rig, 0) > 0 || share(&rig, 1) == usize::from(GROUPS) || rig.now - back >= 5 * SECOND);
        assert!(rig.now - back < 12 * SECOND, "not taken back");
    }
    run_never_twice(&mut rig, 10 * SECOND, &[0, 1]);
    assert!(is_shared_by(&rig, &[0, 1]));
}

#[test]
fn f10_a_gateway_that_ends_in_order_is_relieved_at_once() {
    let mut rig = lan(2, 2);
    rig.run_until(15 * SECOND, |rig| is_shared_by(rig, &[0, 1]));
    rig.handle(0, Input::Stop);
    assert_eq!(share(&rig, 0), 0, "it lets go first");
    let took = rig.run_until(SECOND, |rig| share(rig, 1) == usize::from(GROUPS));
    assert!(took <= Duration::from_millis(20), "{took:?}");
}

#[test]
fn f10_a_lan_interface_without_carrier_and_a_lost_data_plane_are_replaced_at_once() {
    type Break = fn(&mut Rig);
    let unplug: Break = |rig| rig.handle(0, Input::Segment(Some(Segment { up: false, ..segment(0, 100) })));
    let crash: Break = |rig| rig.handle(0, Input::DataPlaneDown);
    for cause in [unplug, crash] {
        let mut rig = lan(2, 2);
        rig.run_until(15 * SECOND, |rig| is_shared_by(rig, &[0, 1]));
        cause(&mut rig);
        let took = rig.run_until(SECOND, |rig| share(rig, 1) == usize::from(GROUPS));
        assert!(took < Duration::from_millis(300), "{took:?}");
        assert_eq!(share(&rig, 0), 0);
    }
}

#[test]
fn f36_a_raised_priority_takes_everything_and_nothing_twice() {
    let mut rig = lan(2, 2);
    rig.run_until(15 * SECOND, |rig| is_shared_by(rig, &[0, 1]));
    rig.handle(1, Input::Segment(Some(segment(1, 200))));
    let end = rig.now + SECOND;
    while share(&rig, 1) < usize::from(GROUPS) {
        rig.run(Duration::from_millis(1));
        never_twice(&rig, &[0, 1]);
        assert!(rig.now < end);
    }
    assert_eq!(share(&rig, 0), 0);
}

#[test]
fn f36_two_that_are_parted_are_told_apart_by_what_they_hear_on_the_lan() {
    let mut rig = lan(2, 2);
    rig.run_until(15 * SECOND, |rig| is_shared_by(rig, &[0, 1]));
    rig.loses = Box::new(|_, _, _| true);
    rig.run_until(5 * SECOND, |rig| (0..2).all(|host| share(rig, host) == usize::from(GROUPS)));
    let heard = |rig: &mut Rig, by: usize, conflict: bool| {
        rig.handle(by, Input::GatewaysHeard(vec![HeardGateway { mac: mac(1 - by), conflict }]));
    };
    // Each sees the other's frames once, and from then on hears that the other is there.
    (0..2).for_each(|by| heard(&mut rig, by, true));
    for _ in 0..20 {
        run_never_twice(&mut rig, SECOND, &[0, 1]);
        (0..2).for_each(|by| heard(&mut rig, by, false));
    }
    assert!(is_shared_by(&rig, &[0, 1]), "each keeps its own");
    let node = rig.hosts[1].engine.node_id();
    assert_eq!(rig.hosts[0].events.iter().filter(|&e| *e == Event::ForwarderConflict { node }).count(), 1);
    // The other falls silent.
    rig.run_until(4 * SECOND, |rig| share(rig, 0) == usize::from(GROUPS));
}

#[test]
fn f36_nobody_minds_leases_of_other_segments_and_of_strangers() {
    let mut rig = lan(1, 2);
    rig.handle(1, Input::Segment(Some(Segment { name: "stage".into(), ..segment(1, 255) })));
    rig.run_until(5 * SECOND, |rig| (0..2).all(|host| share(rig, host) == usize::from(GROUPS)));
    rig.handle(0, Input::GatewaysHeard(vec![HeardGateway { mac: mac(1), conflict: true }]));
    rig.run(5 * SECOND);
    assert!((0..2).all(|host| share(&rig, host) == usize::from(GROUPS)));
    assert!(rig.hosts[0].maps.gateways.is_empty());
    // The segment is renamed: the two find each other, and the old lease is gone.
    rig.handle(1, Input::Segment(Some(segment(1, 100))));
    rig.run_until(15 * SECOND, |rig| is_shared_by(rig, &[0, 1]) && share(rig, 1) > 0);
    rig.handle(1, Input::Segment(None));
    rig.run_until(SECOND, |rig| share(rig, 0) == usize::from(GROUPS));
    assert_eq!(rig.hosts[1].maps.standing_by, Some(Default::default()), "no election, so it forwards");
}

#[test]
fn f36_a_restarted_control_process_does_not_interrupt_a_gateway_that_is_alone() {
    let mut rig = lan(1, 2);
    rig.run_until(5 * SECOND, |rig| share(rig, 0) == usize::from(GROUPS));
    // The data plane stays as it was told.
    let told = rig.hosts[0].maps.standing_by.clone();
    restart(&mut rig, 0);
    rig.hosts[0].maps.standing_by = told;
    let end = rig.now + 10 * SECOND;
    while rig.now < end {
        rig.run(Duration::from_millis(20));
        assert_eq!(share(&rig, 0), usize::from(GROUPS), "at {:?}", rig.now);
    }
}

/// Hosts on one untrusted segment, all with a LEASE of the LAN. The last one has the highest priority and no group key.
fn lan_with_stranger() -> Rig {
    let mut hosts: Vec<_> = members(3).collect();
    hosts[2].member = false;
    let mut rig = Rig::new(hosts, &[&[0, 1, 2]]);
    (0..2).for_each(|host| reconfigure(&mut rig, host));
    (0..2).for_each(|host| rig.handle(host, Input::Segment(Some(segment(host, 100)))));
    let mut config = config(2, &Options { member: false, ..Options::default() });
    config.groups.extend(groups().map(plain));
    rig.handle(2, Input::Reconfigure(Box::new(config)));
    rig.handle(2, Input::Segment(Some(segment(2, 255))));
    rig
}

#[test]
fn r3_a_stranger_that_claims_to_be_on_the_lan_is_not_elected() {
    let mut rig = lan_with_stranger();
    rig.run_until(15 * SECOND, |rig| is_shared_by(rig, &[0, 1]) && share(rig, 0) > 0 && share(rig, 1) > 0);
    rig.run(10 * SECOND);
    assert!(is_shared_by(&rig, &[0, 1]), "whatever its priority");
    assert_eq!(rig.hosts[0].maps.gateways, [mac(1)].into(), "frames of the addresses it names are a host's");
    // The operator knows better.
    let stranger = rig.hosts[2].engine.node_id();
    for host in 0..2 {
        rig.handle(host, Input::Segment(Some(Segment { peers: [stranger].into(), ..segment(host, 100) })));
    }
    rig.run_until(5 * SECOND, |rig| share(rig, 0) + share(rig, 1) == 0);
    assert_eq!(rig.hosts[0].maps.gateways, [mac(1), mac(2)].into());
}

#[test]
fn r3_a_member_of_one_group_is_elected_for_no_other_that_is_sealed() {
    let mut rig = lan(2, 3);
    let sealed: Group = "239.3.3.3".parse().unwrap();
    let gaks = || vec![(Epoch(1), Secret::new([0x33; 32]))];
    for host in 0..2 {
        let mut config = config(host, &Options::default());
        let protection = Protection::Sealed { suite: Suite::Aes256Gcm, gaks: gaks() };
        config.groups.push(GroupConfig { group: sealed, protection, send: true, receive: true });
        rig.handle(host, Input::Reconfigure(Box::new(config)));
    }
    rig.handle(2, Input::Segment(Some(segment(2, 255))));
    let own = super::rig::group();
    let forwarders = |rig: &Rig, of: &Group| (0..2).filter(|&host| forwards(rig, host, of)).count();
    rig.run_until(20 * SECOND, |rig| forwarders(rig, &own) == 0 && forwards(rig, 2, &own));
    rig.run(5 * SECOND);
    assert_eq!(forwarders(&rig, &sealed), 1, "it is elected for its own group, and not for the one whose key it lacks");
}
