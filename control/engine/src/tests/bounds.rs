//! What a neighbour that holds the bootstrap key can make a gateway do: not more than a bounded amount of it.

use super::garbage::Liar;
use super::rig::{Rig, address, config, members};
use crate::Engine;
use crate::config::Link;
use crate::input::Input;
use crate::mac::Freshness;
use crate::neighbour::Neighbour;
use crate::output::Event;
use crate::route::{Destination, Distance};
use crate::seqno::SeqnoRequest;
use core::net::Ipv6Addr;
use core::time::Duration;
use gemcast_proto::id::{KeyId, NodeId};
use gemcast_proto::wire::babel::{GROUP, Prefix, Seqno, kind};
use gemcast_proto::wire::gem::{MAX_BODY_LEN, ObjectHeader, ObjectKind, ObjectName};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn acknowledgements_that_are_asked_for_without_end_are_not_sent() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    let mut liar = Liar::new();
    liar.introduce(&mut rig);
    let request = (kind::ACK_REQUEST, vec![0, 0, 0, 7, 0xff, 0xff]);
    for _ in 0..5 {
        liar.send(&mut rig, GROUP, None, &vec![request.clone(); 100]);
    }
    assert_eq!(rig.hosts[0].engine.counters.refused_acks, 400);
    rig.run(2 * SECOND);
    liar.send(&mut rig, GROUP, None, &[request]);
    assert_eq!(rig.hosts[0].engine.counters.refused_acks, 400, "one that asks like others is answered again");
}

#[test]
fn signatures_are_checked_so_often_for_one_interface_however_many_neighbours_it_has() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    let now = rig.time();
    let engine = &mut rig.hosts[0].engine;
    let mut offered = 0;
    for number in 0..5 {
        let key = (0, address(100 + number));
        engine.neighbours.insert(key, Neighbour::new(now.mono, false, Freshness::unchecked()));
        for id in 0..10_000 {
            let name = ObjectName { origin: NodeId([number.try_into().unwrap(); 8]), kind: ObjectKind::SEK, id };
            let header = ObjectHeader { tombstone: false, name, version: 1, not_after: 1 };
            let mut body = [0; MAX_BODY_LEN];
            let len = header.emit(b"", &mut body) + 64;
            engine.process_object(now, key, false, &body[..len]);
            offered += 1;
        }
    }
    assert_eq!((offered, engine.counters.refused_checks, engine.counters.refused_quota), (50_000, 10_000, 0));
    // What is known is no work, and is taken however much there is.
    let own = ObjectName { origin: engine.node_id(), kind: ObjectKind::NODE, id: 0 };
    let known = engine.objects.get(&own).unwrap().body.clone();
    engine.process_object(now, (0, address(100)), false, &known);
    assert_eq!((engine.counters.refused_checks, engine.counters.objects_repeated), (10_000, 40_001));
}

#[test]
fn seqno_requests_pend_in_bounded_number() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run(3 * SECOND);
    let now = rig.time();
    let engine = &mut rig.hosts[0].engine;
    let key = *engine.neighbours.keys().next().unwrap();
    for n in 0..5000_u32 {
        let destination =
            Destination { prefix: Prefix::host(core::net::Ipv4Addr::from(0x0a00_0000 | n).into()), source: None };
        let distance = Distance { seqno: Seqno(1), metric: 100 };
        engine.routing.table.sources.announced(now.mono, destination, NodeId([7; 8]), distance);
        engine.request_seqno(now, destination, NodeId([7; 8]), key);
    }
    assert_eq!(engine.counters.refused_requests, 5000 - 4096);
    assert_eq!(engine.counters.seqno_requests_sent, 4096);
    let destination = Destination { prefix: "10.255.0.1/32".parse().unwrap(), source: None };
    let request = SeqnoRequest { destination, router_id: NodeId([7; 8]), seqno: Seqno(9), hop_count: 9 };
    engine.process_seqno_request(now, key, request);
    assert_eq!(engine.counters.seqno_requests_sent, 4096, "of a destination that is not known");
}

#[test]
fn alarms_of_one_kind_do_not_drown_those_of_another() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    let now = rig.time();
    let engine = &mut rig.hosts[0].engine;
    let origin = NodeId([7; 8]);
    for n in 0..1000 {
        engine.alarm(now, Event::Conflict { origin, kind: ObjectKind::SEK, id: n });
        engine.alarm(now, Event::Refused { ifindex: 0, source: address(1), what: "nonsense".into() });
    }
    engine.alarm(now, Event::KeyIdTaken { origin, key_id: KeyId(1) });
    let told: Vec<_> = core::iter::from_fn(|| engine.poll_output()).collect();
    let events = told.into_iter().filter_map(|output| match output {
        crate::output::Output::Event(event) => Some(event),
        _ => None,
    });
    let events: Vec<_> = events.collect();
    assert_eq!(events.len(), 41);
    assert!(matches!(events.last(), Some(Event::KeyIdTaken { .. })));
}

/// Host 2 becomes another gateway with the node key of host 1.
fn twin(rig: &mut Rig, segment: u32) {
    let mut config = config(1, &Default::default());
    config.node.name = "twin".into();
    rig.hosts[2].engine = Engine::new(config, [77; 32], rig.time());
    rig.configure(2, segment, Link::default());
}

#[test]
fn two_gateways_with_one_identity_correct_each_other_ever_more_slowly() {
    let mut rig = Rig::new(members(3), &[&[0, 1, 2]]);
    twin(&mut rig, 0);
    rig.run(600 * SECOND);
    let conflict = |event: &Event| match event {
        Event::IdentityConflict { address, corrections, .. } => Some((*address, *corrections)),
        _ => None,
    };
    for (host, other) in [(1, 2), (2, 1)] {
        let told: Vec<_> = rig.hosts[host].events.iter().filter_map(conflict).collect();
        let (_, corrections) = *told.last().expect("it is told");
        assert!(corrections < 16, "{corrections} corrections in ten minutes");
        let seen: Vec<Ipv6Addr> = told.iter().map(|(address, _)| *address).collect();
        assert!(seen.contains(&address(other)) || seen.contains(&address(0)), "{seen:?}");
        let shown = rig.hosts[host].engine.identity_conflict(rig.now).expect("it goes on");
        assert_eq!(shown.corrections, corrections);
    }
    let delayed = |host: usize| rig.hosts[host].engine.counters.delayed_corrections;
    assert!(delayed(1) + delayed(2) > 0);
    assert!(!rig.hosts[0].events.iter().any(|event| conflict(event).is_some()));
    assert_eq!(rig.hosts[0].engine.identity_conflict(rig.now), None);
    // One of them leaves: what is said is right again before long.
    rig.loses = Box::new(|from, to, _| from == 2 || to == 2);
    rig.run_until(330 * SECOND, |rig| rig.hosts[0].engine.nodes().iter().all(|node| node.name != "twin"));
}

#[test]
fn a_restart_with_a_clock_that_went_back_is_no_identity_conflict() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    rig.run(10 * SECOND);
    rig.clock_set = 3600 * SECOND;
    rig.run(60 * SECOND);
    rig.clock_set = Duration::ZERO;
    rig.restart_control(1, &Default::default());
    [0, 2].into_iter().for_each(|host| rig.handle(host, Input::AcceptClock));
    rig.run(60 * SECOND);
    assert!(rig.tables_equal());
    let told = rig.hosts.iter().flat_map(|host| &host.events);
    assert!(!told.into_iter().any(|event| matches!(event, Event::IdentityConflict { .. })));
}
