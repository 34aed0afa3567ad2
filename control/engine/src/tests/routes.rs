//! Babel routes across engines.

use super::rig::{Options, Rig, group, members};
use crate::config::{Babel, PrefixRule};
use crate::input::{Input, Originated};
use crate::output::{Event, RouteAction};
use core::time::Duration;
use gemcast_proto::id::Epoch;
use gemcast_proto::wire::babel::Prefix;
use gemcast_proto::wire::gem::{ObjectKind, ObjectName, SekPayload};

const SECOND: Duration = Duration::from_secs(1);

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn originate(rig: &mut Rig, host: usize, prefixes: &[&str]) {
    let own = prefixes.iter().map(|text| Originated { prefix: prefix(text), source: None, metric: 0 });
    rig.handle(host, Input::Originate(own.collect()));
}

/// Interface and metric of an installed route.
fn route(rig: &Rig, host: usize, text: &str) -> Option<(u32, u16)> {
    match rig.hosts[host].maps.routes.get(&(prefix(text), None)) {
        Some(RouteAction::Install { ifindex, metric, .. }) => Some((*ifindex, *metric)),
        _ => None,
    }
}

#[test]
fn routes_of_both_families_travel_along_a_line() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    originate(&mut rig, 0, &["10.1.0.0/16", "2001:db8:1::/48"]);
    rig.run_until(6 * SECOND, |rig| {
        route(rig, 2, "10.1.0.0/16").is_some() && route(rig, 2, "2001:db8:1::/48").is_some()
    });
    assert_eq!(route(&rig, 1, "10.1.0.0/16"), Some((0, 96)));
    assert_eq!(route(&rig, 2, "10.1.0.0/16"), Some((1, 192)));
    // No interface has an IPv4 address: the next hop is IPv6 (RFC 9229).
    let installed = rig.hosts[2].maps.routes[&(prefix("10.1.0.0/16"), None)];
    assert!(matches!(installed, RouteAction::Install { next_hop, .. } if next_hop.is_ipv6()));
}

#[test]
fn a_withdrawn_prefix_is_unreachable_everywhere_within_a_second() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(6 * SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_some());
    originate(&mut rig, 0, &[]);
    rig.run_until(SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_none());
    let key = (prefix("10.1.0.0/16"), None);
    assert_eq!(rig.hosts[2].maps.routes[&key], RouteAction::Unreachable, "held, so that no default route takes over");
    rig.run(60 * SECOND);
    assert_eq!(rig.hosts[2].maps.routes[&key], RouteAction::Withdraw);
}

#[test]
fn a_cut_link_is_routed_around() {
    // A square: 0 - 1 - 3 and 0 - 2 - 3.
    let mut rig = Rig::new(members(4), &[&[0, 1], &[1, 3], &[0, 2], &[2, 3]]);
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(6 * SECOND, |rig| {
        route(rig, 3, "10.1.0.0/16") == Some((1, 192)) || route(rig, 3, "10.1.0.0/16") == Some((3, 192))
    });
    rig.run(20 * SECOND);
    let (before, _) = route(&rig, 3, "10.1.0.0/16").unwrap();
    let cut = if before == 1 { 1 } else { 2 };
    rig.loses = Box::new(move |from, to, _| [(0, cut), (cut, 0)].contains(&(from, to)));
    let took =
        rig.run_until(10 * SECOND, |rig| route(rig, 3, "10.1.0.0/16").is_some_and(|(ifindex, _)| ifindex != before));
    assert!(took <= 4 * SECOND, "two of three Hellos and a triggered update: {took:?}");
    assert_eq!(rig.hosts[3].engine.counters.refused_tlv, 0);
}

#[test]
fn a_line_that_loses_its_end_counts_to_nothing() {
    // The classical loop: the middle hears the route back from behind. Feasibility forbids using it.
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(6 * SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_some());
    rig.loses = Box::new(|from, to, _| [(0, 1), (1, 0)].contains(&(from, to)));
    for _ in 0..300 {
        rig.run(Duration::from_millis(100));
        assert!(route(&rig, 1, "10.1.0.0/16").is_none_or(|(ifindex, _)| ifindex == 0));
    }
    assert_eq!((route(&rig, 1, "10.1.0.0/16"), route(&rig, 2, "10.1.0.0/16")), (None, None));
}

#[test]
fn a_restarted_gateway_is_reached_again_at_once() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(6 * SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_some());
    rig.run(30 * SECOND);
    rig.restart_control(0, &Default::default());
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(5 * SECOND, |rig| {
        let fresh = |host: usize, seqno: u16| {
            rig.hosts[host].engine.routes().iter().any(|r| r.seqno == seqno && r.selected && r.neighbour.is_some())
        };
        let seqno = rig.hosts[0].engine.routing.seqno.0;
        fresh(1, seqno) && fresh(2, seqno)
    });
    assert!(route(&rig, 2, "10.1.0.0/16").is_some());
}

#[test]
fn a_seqno_from_before_a_clock_went_back_is_caught_up_with() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(6 * SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_some());
    rig.restart_control(0, &Default::default());
    let old = rig.hosts[0].engine.routing.seqno;
    rig.hosts[0].engine.routing.seqno = gemcast_proto::wire::babel::Seqno(old.0.wrapping_sub(500));
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(5 * SECOND, |rig| !old.is_newer_than(rig.hosts[0].engine.routing.seqno));
    rig.run_until(2 * SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_some());
}

#[test]
fn filters_decide_what_comes_in_and_what_goes_out() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    let rule = |text, accept| PrefixRule { within: prefix(text), accept };
    let mut config = super::rig::config(1, &Default::default());
    config.babel = Babel {
        import: vec![rule("10.1.0.0/16", true), rule("10.0.0.0/8", false)],
        export: vec![rule("2001:db8::/32", false)],
        ..Babel::default()
    };
    rig.handle(1, Input::Reconfigure(Box::new(config)));
    originate(&mut rig, 0, &["10.1.2.0/24", "10.2.0.0/16", "2001:db8:1::/48"]);
    rig.run(6 * SECOND);
    assert!(route(&rig, 1, "10.1.2.0/24").is_some() && route(&rig, 2, "10.1.2.0/24").is_some());
    assert!(route(&rig, 1, "10.2.0.0/16").is_none());
    assert!(route(&rig, 1, "2001:db8:1::/48").is_some() && route(&rig, 2, "2001:db8:1::/48").is_none());
}

#[test]
fn keys_are_relayed_from_the_side_of_their_origin() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    rig.run_until(6 * SECOND, |rig| rig.hosts[1].maps.transit.len() == 2);
    let (first, last) = (rig.active(0), rig.active(2));
    rig.run_until(6 * SECOND, |rig| {
        let transit = &rig.hosts[1].maps.transit;
        transit[&first] == Some(0) && transit[&last] == Some(1)
    });
}

#[test]
fn a_key_id_is_relayed_for_its_first_origin_only() {
    // The relay in the middle is no member, so that it holds no key that would tell it whose the id is.
    let options = [Options::default(), Options { member: false, ..Options::default() }, Options::default()];
    let mut rig = Rig::new(options, &[&[0, 1], &[1, 2]]);
    rig.run_until(6 * SECOND, |rig| rig.hosts[1].maps.transit.values().flatten().count() == 2);
    // The last one announces the first one's key id as its own.
    let stolen = rig.active(0);
    let now = rig.time();
    let thief = &mut rig.hosts[2].engine;
    let name = ObjectName { origin: thief.node_id(), kind: ObjectKind::SEK, id: stolen.0.into() };
    let payload = SekPayload {
        group: group(),
        epoch: Epoch(1),
        key_id: stolen,
        suite: 1,
        not_before_ms: 0,
        salt: [0; 16],
        wrapped: [0; 48],
    };
    thief.announce(now, name, 1, now.wall + 60 * SECOND, &payload.to_bytes());
    rig.run(SECOND);
    let taken = |event: &Event| matches!(event, Event::KeyIdTaken { key_id, .. } if *key_id == stolen);
    assert_eq!(rig.hosts[1].maps.transit[&stolen], Some(0));
    assert!(rig.hosts[1].events.iter().any(taken));
    rig.run(120 * SECOND);
    assert_eq!(rig.hosts[1].maps.transit[&stolen], Some(0), "still, after the thief's object ran out");
}

#[test]
fn a_burst_of_routes_arrives_whole() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    let own = (0..2000u32).map(|n| Originated {
        prefix: Prefix::new((0x0a00_0000 + (n << 8)).to_be_bytes().into(), 24).unwrap(),
        source: None,
        metric: 0,
    });
    rig.handle(0, Input::Originate(own.collect()));
    rig.run_until(10 * SECOND, |rig| rig.hosts[2].maps.routes.len() == 2000);
}

fn with_babel(rig: &mut Rig, babel: impl Fn() -> Babel) {
    for host in 0..rig.hosts.len() {
        let config = crate::config::Config { babel: babel(), ..super::rig::config(host, &Default::default()) };
        rig.handle(host, Input::Reconfigure(Box::new(config)));
    }
}

#[test]
fn routes_from_a_source_prefix_are_their_own_unless_switched_off() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    let config = super::rig::config(2, &Default::default());
    let babel = Babel { source_specific: false, ..Babel::default() };
    rig.handle(2, Input::Reconfigure(Box::new(crate::config::Config { babel, ..config })));
    let (everywhere, source) = (prefix("::/0"), Some(prefix("2001:db8:9::/48")));
    let own = [None, source].map(|source| Originated { prefix: everywhere, source, metric: 0 });
    rig.handle(0, Input::Originate(own.to_vec()));
    rig.run(6 * SECOND);
    let installed = |host: usize, source| rig.hosts[host].maps.routes.contains_key(&(everywhere, source));
    assert!(installed(1, None) && installed(1, source));
    assert!(installed(2, None) && !installed(2, source));
}

#[test]
fn delay_costs_when_it_is_to_count() {
    let delay = crate::config::DelayMetric { min: Duration::ZERO, max: Duration::from_millis(10), penalty: 100 };
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    with_babel(&mut rig, || Babel { delay: Some(delay), ..Babel::default() });
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run(10 * SECOND);
    let neighbour = &rig.hosts[1].engine.neighbours()[0];
    assert_eq!(neighbour.rtt, Some(Duration::from_millis(2)), "1 ms there and 1 ms back");
    assert_eq!((neighbour.cost, route(&rig, 1, "10.1.0.0/16")), (112, Some((0, 112))), "96 and 20 in steps of 8");
}

#[test]
fn unicast_hellos_count_in_a_series_of_their_own() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    with_babel(&mut rig, || Babel { unicast_hellos: true, ..Babel::default() });
    rig.run(20 * SECOND);
    for host in &rig.hosts {
        let neighbour = host.engine.neighbours.values().next().unwrap();
        assert_eq!((neighbour.unicast.bits, neighbour.multicast.bits), (0xffff, 0xffff));
    }
}

#[test]
fn a_changed_export_filter_takes_back_and_announces() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    originate(&mut rig, 0, &["10.1.0.0/16", "10.2.0.0/16"]);
    originate(&mut rig, 1, &["10.3.0.0/16"]);
    let rule = |text: &str| PrefixRule { within: prefix(text), accept: false };
    let export = |rig: &mut Rig, host: usize, refused: &[&str]| {
        let export = refused.iter().map(|text| rule(text)).collect();
        let config = super::rig::config(host, &Default::default());
        let babel = Babel { export, ..Babel::default() };
        rig.handle(host, Input::Reconfigure(Box::new(crate::config::Config { babel, ..config })));
    };
    export(&mut rig, 1, &["10.2.0.0/16"]);
    rig.run_until(6 * SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_some() && route(rig, 2, "10.3.0.0/16").is_some());
    assert!(route(&rig, 2, "10.2.0.0/16").is_none());
    // The first copies are lost; there are more.
    export(&mut rig, 1, &["10.1.0.0/16", "10.3.0.0/16"]);
    let until = rig.now + Duration::from_millis(200);
    rig.loses = Box::new(move |_, _, now| now < until);
    let took = rig
        .run_until(3 * SECOND, |rig| route(rig, 2, "10.1.0.0/16").is_none() && route(rig, 2, "10.3.0.0/16").is_none());
    assert!(took < 2 * SECOND, "retracted, not run out: {took:?}");
    rig.run_until(SECOND, |rig| route(rig, 2, "10.2.0.0/16").is_some());
}

#[test]
fn a_changed_import_filter_forgets_and_asks() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    originate(&mut rig, 0, &["10.1.0.0/16", "10.2.0.0/16"]);
    let import = |rig: &mut Rig, refused: &str, ipv4_via_ipv6: bool| {
        let import = vec![PrefixRule { within: prefix(refused), accept: false }];
        let config = super::rig::config(1, &Default::default());
        let babel = Babel { import, ipv4_via_ipv6, ..Babel::default() };
        rig.handle(1, Input::Reconfigure(Box::new(crate::config::Config { babel, ..config })));
    };
    import(&mut rig, "10.1.0.0/16", true);
    rig.run_until(6 * SECOND, |rig| route(rig, 2, "10.2.0.0/16").is_some());
    assert!(route(&rig, 1, "10.1.0.0/16").is_none());
    rig.run(11 * SECOND);
    import(&mut rig, "10.2.0.0/16", true);
    assert!(route(&rig, 1, "10.2.0.0/16").is_none(), "at once");
    let took = rig
        .run_until(6 * SECOND, |rig| route(rig, 1, "10.1.0.0/16").is_some() && route(rig, 2, "10.1.0.0/16").is_some());
    assert!(took < SECOND, "asked for, not waited for: {took:?}");
    rig.run_until(2 * SECOND, |rig| route(rig, 2, "10.2.0.0/16").is_none());
    import(&mut rig, "10.2.0.0/16", false);
    assert!(route(&rig, 1, "10.1.0.0/16").is_none(), "its next hop is IPv6");
}

#[test]
fn keys_and_algorithm_change_one_gateway_after_the_other_without_a_gap() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    originate(&mut rig, 0, &["10.1.0.0/16"]);
    rig.run_until(6 * SECOND, |rig| route(rig, 1, "10.1.0.0/16").is_some());
    let events: Vec<_> = rig.hosts.iter().map(|host| host.events.len()).collect();
    let blake2s = crate::config::MacAlgorithm::Blake2s;
    let steps: [(&[u8], _); 4] = [(&[9], blake2s), (&[9, 10], blake2s), (&[10, 9], blake2s), (&[10], blake2s)];
    for (keys, mac) in steps {
        for host in 0..2 {
            let config = super::rig::config(host, &Default::default());
            let bootstrap_keys = keys.iter().map(|byte| crate::secret::Secret::new([*byte; 32])).collect();
            let babel = Babel { mac, ..Babel::default() };
            let config = crate::config::Config { babel, bootstrap_keys, ..config };
            rig.handle(host, Input::Reconfigure(Box::new(config)));
            rig.run(20 * SECOND);
            assert!(route(&rig, 1, "10.1.0.0/16").is_some());
        }
    }
    for (host, before) in rig.hosts.iter().zip(events) {
        assert!(!host.events[before..].iter().any(|event| matches!(event, Event::NeighbourDead { .. })));
        assert_eq!(host.engine.counters.refused_mac, 0);
    }
}
