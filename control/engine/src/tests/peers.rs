//! Unicast peers, and the way to them while multicast fails.

use super::rig::{Options, Rig, address, group, members, peer_address};
use crate::config::Link;
use crate::input::{Input, Originated, Packet};
use crate::output::{Event, RouteAction};
use crate::time::Instant;
use crate::view::PeerState;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::wire::babel::{GROUP, kind};

const SECOND: Duration = Duration::from_secs(1);
const IPV4: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

fn peers(addresses: &[Ipv6Addr]) -> Link {
    Link { peers: addresses.iter().map(Ipv6Addr::to_canonical).collect(), ..Link::default() }
}

fn count(rig: &Rig, host: usize, is: impl Fn(&Event) -> bool) -> usize {
    rig.hosts[host].events.iter().filter(|event| is(event)).count()
}

fn fallen_back(rig: &Rig, host: usize) -> bool {
    rig.hosts[host].engine.neighbours().iter().any(|neighbour| neighbour.by_unicast)
}

fn originate(rig: &mut Rig, host: usize, prefix: &str) {
    let own = Originated { prefix: prefix.parse().unwrap(), source: None, metric: 0 };
    rig.handle(host, Input::Originate(vec![own]));
}

fn has_route(rig: &Rig, host: usize, prefix: &str) -> bool {
    let route = rig.hosts[host].maps.routes.get(&(prefix.parse().unwrap(), None));
    matches!(route, Some(RouteAction::Install { .. }))
}

/// Both hosts have each other as link-local peers.
fn peered() -> Rig {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.configure(0, 0, peers(&[address(1)]));
    rig.configure(1, 0, peers(&[address(0)]));
    rig
}

#[test]
fn f34_lost_multicast_falls_back_to_unicast_and_returns() {
    // Lost both ways, and one way only: the side that hears well is told.
    for lost in [vec![(0, 1), (1, 0)], vec![(0, 1)]] {
        let mut rig = peered();
        rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
        rig.run(10 * SECOND);
        assert!(!fallen_back(&rig, 0) && !fallen_back(&rig, 1), "multicast does");
        rig.no_multicast = lost;
        rig.run_until(6 * SECOND, |rig| fallen_back(rig, 0) && fallen_back(rig, 1));
        let downs = |rig: &Rig, host| count(rig, host, |event| matches!(event, Event::NeighbourDead { .. }));
        assert_eq!((downs(&rig, 0), downs(&rig, 1)), (0, 0), "unicast Hellos hold the link");

        // A new key, a new route, a retraction: floods and triggered updates arrive as if multicast did.
        originate(&mut rig, 0, "10.1.0.0/16");
        rig.run_until(SECOND, |rig| has_route(rig, 1, "10.1.0.0/16"));
        rig.handle(0, Input::Originate(vec![]));
        rig.run_until(SECOND, |rig| !has_route(rig, 1, "10.1.0.0/16"));
        rig.handle(0, Input::RotateSek(group()));
        let next = rig.hosts[0].engine.groups()[0].next_key.unwrap().0;
        rig.run_until(SECOND, |rig| rig.hosts[1].maps.keys.contains_key(&next));
        rig.run(60 * SECOND);
        assert!(rig.opens(0, 1) && rig.opens(1, 0));

        rig.no_multicast.clear();
        rig.run_until(5 * SECOND, |rig| !fallen_back(rig, 0) && !fallen_back(rig, 1));
        for host in 0..2 {
            assert_eq!(count(&rig, host, |event| matches!(event, Event::MulticastLost { .. })), 1);
            assert_eq!(count(&rig, host, |event| matches!(event, Event::MulticastReturned { .. })), 1);
            assert_eq!(downs(&rig, host), 0);
        }
    }
}

#[test]
fn f34_who_is_not_heard_says_so_and_an_unconfigured_neighbour_answers() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.configure(0, 0, peers(&[address(1)]));
    rig.no_multicast = vec![(0, 1), (1, 0)];
    rig.run_until(10 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0) && rig.tables_equal());
    rig.run(30 * SECOND);
    assert!(rig.hosts.iter().all(|host| host.engine.neighbours().iter().all(|neighbour| neighbour.up)));
    let ours = |event: &Event| matches!(event, Event::MulticastLost { ours, .. } if *ours);
    assert_eq!((count(&rig, 0, ours), count(&rig, 1, ours)), (0, 1));
}

#[test]
fn f34_peers_by_ipv4_and_by_routable_ipv6_exchange_everything() {
    for like in [IPV4, Ipv6Addr::UNSPECIFIED] {
        let mut rig = Rig::new(members(2), &[&[0, 1]]);
        rig.no_multicast = vec![(0, 1), (1, 0)];
        rig.configure(0, 0, peers(&[peer_address(1, like)]));
        rig.configure(1, 0, peers(&[peer_address(0, like)]));
        originate(&mut rig, 0, "10.1.0.0/16");
        rig.run_until(10 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0) && has_route(rig, 1, "10.1.0.0/16"));
        let Some(RouteAction::Install { next_hop, on_link, .. }) =
            rig.hosts[1].maps.routes.get(&("10.1.0.0/16".parse().unwrap(), None))
        else {
            panic!("no route")
        };
        assert_eq!((*next_hop, *on_link), (peer_address(0, like).to_canonical(), false));
        originate(&mut rig, 0, "2001:db8:1::/48");
        rig.run_until(3 * SECOND, |rig| has_route(rig, 1, "2001:db8:1::/48"));
        rig.run(60 * SECOND);
        assert!(has_route(&rig, 1, "2001:db8:1::/48"), "renewed by periodic updates");
        let neighbours = rig.hosts[1].engine.neighbours();
        assert_eq!(neighbours.len(), 1);
        assert!(neighbours[0].up && neighbours[0].by_unicast && neighbours[0].cost == 96);
        assert_eq!(rig.hosts[1].engine.counters.refused_tlv, 0);
    }
}

#[test]
fn f34_a_peer_that_is_also_heard_by_multicast_gets_nothing_twice() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.configure(0, 0, peers(&[peer_address(1, IPV4)]));
    rig.configure(1, 0, peers(&[peer_address(0, IPV4)]));
    rig.run(10 * SECOND);
    for host in &rig.hosts {
        let neighbours = host.engine.neighbours();
        assert_eq!(neighbours.len(), 2);
        assert!(neighbours.iter().all(|neighbour| neighbour.up && !neighbour.by_unicast));
    }
    rig.wire.clear();
    rig.run(30 * SECOND);
    let updates = |unicast: bool| {
        let sent = rig.wire.iter().filter(|sent| sent.from == 0 && sent.unicast.is_some() == unicast);
        sent.filter(|sent| sent.find(kind::UPDATE).is_some()).count()
    };
    assert!(updates(false) > 0);
    assert_eq!(updates(true), 0);
    // Multicast goes: the same peer takes over, and leaves again.
    rig.no_multicast = vec![(0, 1), (1, 0)];
    rig.run_until(7 * SECOND, |rig| fallen_back(rig, 0) && fallen_back(rig, 1));
    rig.handle(0, Input::RotateSek(group()));
    let next = rig.hosts[0].engine.groups()[0].next_key.unwrap().0;
    rig.run_until(SECOND, |rig| rig.hosts[1].maps.keys.contains_key(&next));
    rig.no_multicast.clear();
    rig.run_until(6 * SECOND, |rig| !fallen_back(rig, 0) && !fallen_back(rig, 1));
}

#[test]
fn f35_a_peer_that_never_answers_is_tried_for_ever_and_the_next_one_is_reached() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.no_multicast = vec![(0, 1), (1, 0)];
    let nobody = peer_address(8, IPV4);
    rig.configure(0, 0, peers(&[nobody, peer_address(1, IPV4)]));
    rig.configure(1, 0, peers(&[peer_address(0, IPV4)]));
    rig.run(600 * SECOND);
    assert!(rig.opens(0, 1));
    let tried = |sent: &&super::rig::Sent| sent.from == 0 && sent.unicast == Some(nobody);
    let tries: Vec<Instant> = rig.wire.iter().filter(tried).map(|sent| sent.at).collect();
    let waits: Vec<Duration> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, most) in waits.iter().zip([1, 2, 4, 8, 16].into_iter().chain(core::iter::repeat(30))) {
        assert!(*wait <= most * SECOND && *wait >= most * SECOND * 7 / 8, "{waits:?}");
    }
    assert!(waits.len() > 20, "for ever: {waits:?}");
    let states = rig.hosts[0].engine.peers();
    let state = |address: Ipv6Addr| states.iter().find(|peer| peer.address == address.to_canonical()).unwrap().state;
    assert_eq!(state(peer_address(1, IPV4)), PeerState::Reached);
    let PeerState::Waiting { tries: told, next_at } = state(nobody) else { panic!("{states:?}") };
    assert!(usize::try_from(told).unwrap() == tries.len() && next_at > rig.now);
    let waiting = count(&rig, 0, |event| matches!(event, Event::PeerWaiting { .. }));
    assert!((3..10).contains(&waiting), "{waiting} events: told while the wait grows");
    assert_eq!(count(&rig, 0, |event| matches!(event, Event::PeerReached { .. })), 1);
}

#[test]
fn f42_a_peer_that_dies_is_declared_gone_and_reached_again() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.no_multicast = vec![(0, 1), (1, 0)];
    rig.configure(0, 0, peers(&[peer_address(1, IPV4)]));
    rig.configure(1, 0, peers(&[peer_address(0, IPV4)]));
    rig.run_until(10 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    rig.run(5 * SECOND);
    rig.loses = Box::new(|_, _, _| true);
    let took =
        rig.run_until(10 * SECOND, |rig| count(rig, 0, |event| matches!(event, Event::NeighbourDead { .. })) == 1);
    assert!(took >= 2 * SECOND && took <= 4 * SECOND, "{took:?}");
    rig.run(120 * SECOND);
    assert!(matches!(rig.hosts[0].engine.peers()[0].state, PeerState::Waiting { tries, .. } if tries > 5));
    rig.loses = Box::new(|_, _, _| false);
    rig.restart_control(1, &Options::default());
    // Its own tries begin anew, so that nobody waits for our long ones.
    rig.run_until(5 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0) && rig.tables_equal());
    assert_eq!(count(&rig, 0, |event| matches!(event, Event::PeerReached { .. })), 2);
}

#[test]
fn a_neighbour_counts_as_down_after_three_hellos_and_comes_back_with_what_it_proved() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run(10 * SECOND);
    rig.loses = Box::new(|from, _, _| from == 1);
    let downs = |rig: &Rig| count(rig, 0, |event| matches!(event, Event::NeighbourDead { .. }));
    let took = rig.run_until(10 * SECOND, |rig| downs(rig) == 1);
    assert!(took >= 2 * SECOND && took <= 4 * SECOND, "{took:?}");
    rig.run(2 * SECOND);
    let challenges = rig.hosts[0].engine.counters.challenges_sent;
    rig.loses = Box::new(|_, _, _| false);
    rig.run_until(2 * SECOND, |rig| rig.hosts[0].engine.neighbours()[0].up);
    assert_eq!(rig.hosts[0].engine.counters.challenges_sent, challenges);
    assert_eq!(count(&rig, 0, |event| matches!(event, Event::NeighbourUp { .. })), 1);
    assert_eq!(count(&rig, 0, |event| matches!(event, Event::NeighbourBack { away: Some(_), .. })), 1);
    assert_eq!(downs(&rig), 1);
}

#[test]
fn our_own_address_is_no_peer_and_a_family_we_have_no_address_of_is_told() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    rig.configure(0, 0, peers(&[peer_address(0, IPV4), address(0)]));
    rig.run(60 * SECOND);
    assert!(rig.hosts[0].engine.peers().iter().all(|peer| peer.state == PeerState::OwnAddress));
    assert!(rig.wire.iter().all(|sent| sent.unicast.is_none()));
    let mut rig = Rig::new(members(1), &[&[0]]);
    rig.configure(0, 0, Link { peers: vec![address(5).into()], ..Link::default() });
    rig.configure(0, 0, Link::default());
    assert!(rig.hosts[0].engine.peers().is_empty());
}

#[test]
fn a_routable_source_is_heard_as_a_peer_only_and_by_unicast_only() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    rig.configure(0, 0, peers(&[peer_address(1, IPV4)]));
    let ours = peer_address(0, IPV4);
    let mut offer = |source: Ipv6Addr, destination: Ipv6Addr| {
        let before = rig.hosts[0].engine.counters;
        let payload = &[42, 2, 0, 2, 4, 0];
        rig.handle(0, Input::Packet(Packet { ifindex: 0, source, source_port: 6696, destination, payload }));
        let after = rig.hosts[0].engine.counters;
        (after.refused_malformed - before.refused_malformed, after.refused_mac - before.refused_mac)
    };
    assert_eq!(offer(peer_address(1, IPV4), ours), (0, 1), "it is asked for its MAC");
    assert_eq!(offer(peer_address(1, IPV4), GROUP), (1, 0));
    assert_eq!(offer(peer_address(2, IPV4), ours), (1, 0));
    assert_eq!(offer(peer_address(1, Ipv6Addr::UNSPECIFIED), ours), (1, 0));
}

#[test]
fn an_interface_without_macs_meets_a_router_without_and_no_other_does() {
    let mut rig = Rig::new(members(3), &[&[0, 1, 2]]);
    let open = || Link { unauthenticated: true, ..Link::default() };
    rig.configure(0, 0, open());
    rig.configure(1, 0, open());
    originate(&mut rig, 0, "10.1.0.0/16");
    rig.run(10 * SECOND);
    assert!(rig.opens(0, 1) && rig.opens(1, 0), "objects are signed by their origin");
    assert!(has_route(&rig, 1, "10.1.0.0/16"));
    assert!(rig.hosts[2].engine.neighbours().is_empty() && rig.hosts[2].engine.counters.refused_mac > 0);
    // And back: the link starts over with MACs.
    rig.configure(0, 0, Link::default());
    rig.configure(1, 0, Link::default());
    rig.run_until(10 * SECOND, |rig| {
        rig.hosts.iter().all(|host| host.engine.neighbours().iter().filter(|neighbour| neighbour.up).count() == 2)
    });
}

#[test]
fn intervals_and_delay_are_those_of_the_interface() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    let slow = Link {
        hello_interval: Some(4 * SECOND),
        update_interval: Some(40 * SECOND),
        unicast_hellos: Some(true),
        ..Link::default()
    };
    rig.configure(0, 0, slow);
    rig.run(5 * SECOND);
    rig.wire.clear();
    rig.run(80 * SECOND);
    let hellos = |host: usize, unicast: bool| {
        let mut found = vec![];
        let sent = rig.wire.iter().filter(|sent| sent.from == host && sent.unicast.is_some() == unicast);
        found.extend(sent.filter_map(|sent| sent.find(kind::HELLO)));
        found
    };
    assert!((20..24).contains(&hellos(0, false).len()) && hellos(0, false).iter().all(|hello| hello[4..6] == [1, 144]));
    assert!((20..24).contains(&hellos(0, true).len()));
    assert!(hellos(1, false).len() > 80 && hellos(1, true).is_empty());
    let update = rig.wire.iter().filter(|sent| sent.from == 0).find_map(|sent| sent.find(kind::UPDATE)).unwrap();
    assert_eq!(update[4..6], 4000_u16.to_be_bytes());
    let delay = crate::config::DelayMetric { min: Duration::ZERO, max: Duration::from_millis(10), penalty: 100 };
    rig.configure(1, 0, Link { delay: Some(Some(delay)), ..Link::default() });
    rig.run(10 * SECOND);
    assert_eq!(rig.hosts[1].engine.neighbours()[0].cost, 112);
    assert_eq!(IpAddr::from(address(0)), rig.hosts[1].engine.neighbours()[0].address);
}
