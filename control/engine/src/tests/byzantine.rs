//! F14 on one engine: what a neighbour or a node that lies comes to, and who is not blamed for it.

use super::garbage::{Liar, STRANGER};
use super::rig::{Options, Rig, members};
use crate::config::Membership;
use crate::input::{Input, Packet};
use crate::kmg::Administrator;
use crate::object::{node_id_of, sign};
use crate::output::Event;
use crate::reputation::Faults;
use crate::secret::Secret;
use crate::view::{Culprit, Quorum, ReputationView};
use core::net::Ipv6Addr;
use core::time::Duration;
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::babel::{GROUP, kind};
use gemcast_proto::wire::gem::kmg::Rights;
use gemcast_proto::wire::gem::{self, NodePayload, ObjectHeader, ObjectKind, ObjectName};
use ring::signature::{Ed25519KeyPair, KeyPair};

const SECOND: Duration = Duration::from_secs(1);
const LIAR: Culprit = Culprit::Neighbour(0, STRANGER);

fn of(rig: &Rig, host: usize, who: Culprit) -> ReputationView {
    let all = rig.hosts[host].engine.reputations(rig.time());
    all.into_iter().find(|view| view.who == who).unwrap_or_else(|| panic!("{who:?} is not listed"))
}

fn told(rig: &Rig, host: usize, wanted: impl Fn(&Event) -> bool) -> usize {
    rig.hosts[host].events.iter().filter(|event| wanted(event)).count()
}

/// A node whose key the test holds.
struct Origin(Ed25519KeyPair);

impl Origin {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    fn id(&self) -> NodeId {
        node_id_of(&self.public_key())
    }

    fn object(&self, rig: &Rig, kind: ObjectKind, id: u64, version: u64, payload: &[u8]) -> Vec<u8> {
        let name = ObjectName { origin: self.id(), kind, id };
        let not_after = u32::try_from(rig.time().wall.0 / 1000 + 3600).unwrap();
        sign(&self.0, &ObjectHeader { tombstone: false, name, version, not_after }, payload)
    }

    fn node(&self, rig: &Rig) -> Vec<u8> {
        let mut payload = [0; NodePayload::MAX_LEN];
        let node = NodePayload { signing_key: self.public_key(), agreement_key: [1; 32], name: "liar" };
        let len = node.emit(&mut payload);
        self.object(rig, ObjectKind::NODE, 0, 1, &payload[..len])
    }
}

#[test]
fn f14_forged_objects_get_their_sender_banned_and_nobody_else() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let mut liar = Liar::new();
    liar.introduce(&mut rig);
    let honest = rig.hosts[1].engine.node_id();
    let name = ObjectName { origin: honest, kind: ObjectKind::NODE, id: 0 };
    let mut forged = rig.hosts[1].engine.objects.get(&name).unwrap().body.to_vec();
    forged[18] ^= 1; // a much higher version
    let objects = vec![(gem::OBJECT, forged); 3];
    for _ in 0..2 {
        liar.send(&mut rig, GROUP, None, &objects);
    }
    assert_eq!((of(&rig, 0, LIAR).score, of(&rig, 0, LIAR).suspected), (40, true));
    for _ in 0..5 {
        liar.send(&mut rig, GROUP, None, &objects);
    }
    let liars = of(&rig, 0, LIAR);
    assert_eq!(liars.faults, Faults { forged: 8, ignored: 4, ..Faults::default() }, "the rest was not looked at");
    assert!(liars.ban.is_some_and(|ban| !ban.by_operator) && rig.hosts[0].engine.counters.refused_banned == 4);
    assert!(rig.hosts[0].engine.neighbours().iter().all(|neighbour| neighbour.address != STRANGER), "isolated");
    assert_eq!(told(&rig, 0, |event| matches!(event, Event::Suspected { who } if *who == LIAR)), 1);
    assert_eq!(told(&rig, 0, |event| matches!(event, Event::Banned { who, .. } if *who == LIAR)), 1);
    let victim = of(&rig, 0, Culprit::Node(honest));
    assert_eq!((victim.score, victim.faults.unproven), (100, 8), "what is forged in its name is not its fault");
    assert!(rig.opens(0, 1) && rig.opens(1, 0));
    // It returns by itself when its ban is over, on probation.
    rig.run(61 * SECOND);
    assert_eq!(told(&rig, 0, |event| matches!(event, Event::Unbanned { who, .. } if *who == LIAR)), 1);
    rig.hosts[0].events.clear();
    liar.introduce(&mut rig);
    assert!((50..=60).contains(&of(&rig, 0, LIAR).score));
}

#[test]
fn f14_packets_without_the_key_get_nobody_banned_whatever_address_they_claim() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
    let honest = super::rig::address(1);
    let wrong = [&[42, 2, 0, 0][..], &[16, 32], &[7; 32]].concat();
    for payload in [&b"no babel"[..], &wrong] {
        for source in [honest, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, 1)] {
            for _ in 0..5_000 {
                let packet = Packet { ifindex: 0, source, source_port: 6696, destination: GROUP, payload };
                rig.handle(0, Input::Packet(packet));
            }
        }
    }
    let one = of(&rig, 0, Culprit::Neighbour(0, honest));
    assert_eq!((one.score, one.ban, one.faults.unproven), (100, None, 10_000));
    assert_eq!(rig.hosts[0].engine.reputations(rig.time()).len(), 2, "a stranger's address is not worth an entry");
    rig.run(10 * SECOND);
    assert!(rig.hosts[0].engine.neighbours().iter().all(|neighbour| neighbour.up));
}

#[test]
fn f14_a_neighbour_that_goes_on_flooding_is_banned() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    let mut liar = Liar::new();
    liar.introduce(&mut rig);
    let requests = vec![(kind::ACK_REQUEST, vec![0, 0, 0, 7, 0, 100]); 100];
    let mut sent = 0;
    while of(&rig, 0, LIAR).ban.is_none() {
        liar.send(&mut rig, GROUP, None, &requests);
        sent += 1;
        assert!(sent < 100, "{:?}", of(&rig, 0, LIAR));
    }
    assert!(sent > 30, "one that asks too much for a moment is only limited: {sent}");
    let now = rig.time();
    assert!(rig.hosts[0].engine.unban(now, LIAR).is_ok(), "an operator may see it another way");
    rig.hosts[0].events.clear();
    liar.introduce(&mut rig);
    assert_eq!(of(&rig, 0, LIAR).score, 100);
}

#[test]
fn f14_a_node_that_contradicts_itself_is_banned_and_its_relay_is_not() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let mut relay = Liar::new();
    relay.introduce(&mut rig);
    let origin = Origin::new(0x77);
    let node = origin.node(&rig);
    let twice =
        |id| [&b"x"[..], b"y"].map(|payload| (gem::OBJECT, origin.object(&rig, ObjectKind(99), id, 5, payload)));
    let objects: Vec<_> = [1, 2, 3].into_iter().flat_map(twice).collect();
    relay.send(&mut rig, GROUP, None, &[(gem::OBJECT, node)]);
    for _ in 0..20 {
        relay.send(&mut rig, GROUP, None, &objects[..2]);
    }
    let culprit = Culprit::Node(origin.id());
    assert_eq!((of(&rig, 0, culprit).score, of(&rig, 0, culprit).faults.equivocations), (55, 1), "once");
    relay.send(&mut rig, GROUP, None, &objects);
    assert!(rig.hosts[0].engine.is_banned(origin.id()));
    assert_eq!((of(&rig, 0, LIAR).score, of(&rig, 0, LIAR).ban), (100, None));
    // Everyone comes to the same by himself, and the tables stay equal: what is banned is passed on all the same.
    rig.run_until(10 * SECOND, |rig| rig.hosts[1].engine.is_banned(origin.id()) || rig.tables_equal());
    rig.run(10 * SECOND);
    assert!(rig.tables_equal() && rig.opens(0, 1) && rig.opens(1, 0));
}

#[test]
fn f14_a_banned_nodes_keys_leave_the_maps_and_come_back_when_it_is_forgiven() {
    let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
    rig.run_until(5 * SECOND, |rig| rig.opens(0, 2) && rig.opens(2, 0) && rig.opens(0, 1));
    let (own, node, key_id, now) =
        (rig.hosts[0].engine.node_id(), rig.hosts[2].engine.node_id(), rig.active(2), rig.time());
    assert!(rig.hosts[0].engine.ban(now, Culprit::Node(own), None).is_err(), "oneself");
    rig.hosts[0].engine.ban(now, Culprit::Node(node), None).unwrap();
    rig.run(SECOND);
    assert!(!rig.opens(0, 2) && rig.hosts[0].maps.bans.contains(&key_id) && rig.opens(0, 1) && rig.opens(1, 2));
    // Another key of it fares no better.
    rig.handle(2, Input::ReplaceSek(super::rig::group()));
    rig.run(5 * SECOND);
    assert!(!rig.opens(0, 2) && rig.hosts[0].maps.bans.contains(&rig.active(2)) && rig.opens(1, 2));
    assert!(rig.tables_equal());
    let now = rig.time();
    rig.hosts[0].engine.unban(now, Culprit::Node(node)).unwrap();
    assert!(rig.hosts[0].engine.unban(now, Culprit::Node(node)).is_err(), "it is not banned");
    rig.run(SECOND);
    assert!(rig.opens(0, 2) && rig.hosts[0].maps.bans.is_empty());
}

#[test]
fn f14_one_origin_cannot_keep_everybody_busy_with_its_changes() {
    let mut rig = Rig::new(members(1), &[&[0]]);
    let (origin, now) = (Origin::new(0x77), rig.time());
    let node = origin.node(&rig);
    let objects: Vec<_> = (1..=40).map(|version| origin.object(&rig, ObjectKind(99), 1, version, b"")).collect();
    let engine = &mut rig.hosts[0].engine;
    engine.objects.offer(now.wall, &node).unwrap();
    assert!(objects.iter().all(|body| engine.objects.may_change(now.mono, body)));
    for _ in 0..32_768 {
        engine.objects.changed(now.mono, origin.id());
    }
    assert!(!engine.objects.may_change(now.mono, &objects[0]));
    assert!(engine.objects.may_change(now.mono + SECOND / 100, &objects[0]));
}

#[test]
fn f40_only_those_on_the_roster_have_a_vote_and_all_of_them_count() {
    let administrator = Administrator::new(&Secret::new([0xad; 32]));
    let option = |_| Options {
        administrators: vec![administrator.public_key()],
        membership: Membership::Roster,
        ..Options::default()
    };
    let mut rig = Rig::new((0..4).map(option), &[&[0, 1, 2, 3]]);
    let ids: Vec<_> = rig.hosts.iter().map(|host| host.engine.node_id()).collect();
    let absent = NodeId([7; 8]);
    let list = |node| administrator.list(node, Rights::ALL, "", 1);
    let roster = [ids[0], ids[1], ids[2], absent].map(list).to_vec();
    rig.inject(0, &[vec![administrator.node("head office", 1)], roster].concat()).unwrap();
    rig.run_until(10 * SECOND, |rig| rig.opens(0, 2) && rig.opens(1, 2));
    rig.run_until(30 * SECOND, |rig| {
        rig.hosts.iter().all(|host| host.engine.quorum() == Quorum { members: 4, reached: 3 })
    });
    // Two of four, and one that has no vote.
    for host in [0, 1, 3] {
        let now = rig.time();
        rig.hosts[host].engine.vote(now, ids[2], None).unwrap();
    }
    rig.run(5 * SECOND);
    assert_eq!(of(&rig, 2, Culprit::Node(ids[0])).votes, 0);
    assert!(!rig.hosts[2].engine.is_condemned() && rig.hosts[0].engine.is_banned(ids[2]));
    let told =
        |event: &Event| matches!(event, Event::Voted { culprit, votes: 2, members: 4, .. } if *culprit == ids[2]);
    assert!(rig.hosts[2].events.iter().any(told), "who is voted against hears of it");
    // The administrator takes the absent one off the roster: two of three.
    rig.inject(1, &[administrator.withdraw(ObjectKind::ROSTER, absent, 2)]).unwrap();
    rig.run_until(5 * SECOND, |rig| rig.hosts[2].engine.is_condemned());
    // After a restart the voter still knows its own word, from the others, and can take it back.
    let options = option(0);
    rig.restart_control(1, &options);
    rig.run_until(10 * SECOND, |rig| rig.hosts[1].engine.is_banned(ids[2]));
    rig.run_until(60 * SECOND, |rig| rig.hosts[1].engine.quorum().is_there());
    let now = rig.time();
    rig.hosts[1].engine.unban(now, Culprit::Node(ids[2])).unwrap();
    rig.run_until(30 * SECOND, |rig| !rig.hosts[2].engine.is_condemned());
    assert!(rig.tables_equal());
}
