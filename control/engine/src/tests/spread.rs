//! How objects reach everyone who is to have them.

use super::rig::{Options, Rig, address, config, group, members};
use crate::config::GroupConfig;
use crate::input::Input;
use crate::output::Event;
use crate::view::SyncState;
use core::time::Duration;
use gemcast_proto::id::{Epoch, KeyId};
use gemcast_proto::wire::gem::{self, ObjectKind, ObjectName, Range, Summary};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_neighbours_open_each_others_packets_soon_after_the_start() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    let took = rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    assert!(took < SECOND, "{took:?}");
    assert!(rig.hosts[0].events.iter().any(|event| matches!(event, Event::NeighbourUp { .. })));
    let [a, b] = [&rig.hosts[0], &rig.hosts[1]].map(|host| host.maps.gtags[&(group(), Epoch(1))]);
    assert_eq!(a, b);
}

#[test]
fn a_relay_that_is_no_member_passes_keys_on_and_cannot_use_them() {
    let options = [Options::default(), Options { member: false, ..Options::default() }, Options::default()];
    let mut rig = Rig::new(options, &[&[0, 1], &[1, 2]]);
    rig.run_until(4 * SECOND, |rig| rig.opens(0, 2) && rig.opens(2, 0));
    assert!(rig.hosts[1].maps.keys.is_empty());
    assert_eq!(rig.hosts[1].engine.keys().len(), 2);
}

#[test]
fn another_group_key_or_no_right_to_receive_opens_nothing() {
    let options = [
        Options::default(),
        Options { gak: 8, ..Options::default() },
        Options { receive: false, ..Options::default() },
    ];
    let mut rig = Rig::new(options, &[&[0, 1, 2]]);
    rig.run(5 * SECOND);
    assert!(rig.opens(0, 2) && !rig.opens(2, 0) && !rig.opens(1, 0) && !rig.opens(0, 1));
    assert!(rig.hosts[0].engine.counters.unwrap_failed > 0);
    assert_eq!(rig.hosts[2].maps.keys.len(), 1, "its own");
}

#[test]
fn one_neighbour_restarts_and_pulls_the_table_over_one_link() {
    // A triangle with a tail, so that the restarted gateway has three neighbours on three links.
    let mut rig = Rig::new(members(5), &[&[0, 1], &[0, 2], &[0, 3], &[1, 4]]);
    rig.run_until(10 * SECOND, |rig| rig.tables_equal() && rig.opens(2, 4));
    let others: Vec<_> = (1..5).map(|host| rig.active(host)).collect();
    rig.run(30 * SECOND);
    rig.wire.clear();
    rig.restart_control(0, &Options::default());
    rig.run_until(5 * SECOND, |rig| {
        others.iter().all(|key_id| rig.hosts[0].engine.keys().iter().any(|k| k.key_id == *key_id))
    });
    rig.run_until(5 * SECOND, Rig::tables_equal);
    let carried = |segment: usize| {
        let sent = rig.wire.iter().filter(|sent| sent.segment == segment).flat_map(|sent| sent.seks());
        sent.filter(|name| u32::try_from(name.id).is_ok_and(|id| others.contains(&KeyId(id)))).count()
    };
    let links: Vec<_> = (0..4).map(carried).collect();
    assert_eq!(links.iter().filter(|&&count| count > 0).count(), 1, "repeated keys per link: {links:?}");
    assert_eq!(links.iter().sum::<usize>(), others.len(), "each once: {links:?}");
}

#[test]
fn a_split_network_heals_within_three_seconds() {
    let mut rig = Rig::new(members(4), &[&[0, 1], &[1, 2], &[2, 3]]);
    rig.run_until(10 * SECOND, |rig| rig.tables_equal() && rig.opens(0, 3));
    rig.loses = Box::new(|from, to, _| (from, to) == (1, 2) || (from, to) == (2, 1));
    for host in 0..4 {
        rig.handle(host, Input::RotateSek(group()));
    }
    rig.run(60 * SECOND);
    assert!(rig.opens(0, 1) && rig.opens(3, 2) && !rig.opens(0, 3) && !rig.opens(3, 0));
    rig.loses = Box::new(|_, _, _| false);
    rig.run_until(10 * SECOND, |rig| {
        let up = |host: usize| rig.hosts[host].engine.neighbours().iter().filter(|n| n.up).count() == 2;
        up(1) && up(2)
    });
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 3) && rig.opens(3, 0));
}

#[test]
fn a_forged_object_does_not_stop_the_flood_of_the_real_one() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    rig.handle(0, Input::RotateSek(group()));
    let next = u64::from(rig.hosts[0].engine.groups()[0].next_key.unwrap().0.0);
    let now = rig.time();
    let engine = &mut rig.hosts[0].engine;
    let name = ObjectName { origin: engine.node_id(), kind: ObjectKind::SEK, id: next };
    let mut forged = engine.objects.get(&name).unwrap().body.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let neighbour = *engine.neighbours.keys().next().unwrap();
    (0..3).for_each(|_| engine.process_object(now, neighbour, false, &forged));
    rig.wire.clear();
    rig.run(Duration::from_millis(150));
    assert!(rig.wire.iter().any(|sent| sent.seks().contains(&name)));
}

#[test]
fn lost_announcements_are_repaired_by_digests() {
    for percent in [10, 30, 50] {
        let mut rig = Rig::new(members(3), &[&[0, 1], &[1, 2]]);
        let mut state = 12345u64;
        rig.loses = Box::new(move |_, _, _| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % 100 < percent
        });
        let took = rig.run_until(60 * SECOND, |rig| rig.opens(0, 2) && rig.opens(2, 0));
        assert!(took < 20 * SECOND, "{percent} % loss took {took:?}");
    }
}

#[test]
fn a_missing_key_is_asked_for_at_once() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
    let key_id = rig.active(1);
    rig.hosts[0].maps.keys.remove(&key_id);
    rig.handle(0, Input::MissingKey { key_id, group: group(), epoch: Epoch(1) });
    assert!(rig.opens(0, 1), "known here, installed again");

    // Now one that only the neighbour has.
    rig.loses = Box::new(|from, _, _| from == 1);
    rig.handle(1, Input::RotateSek(group()));
    rig.run(Duration::from_millis(1500));
    rig.loses = Box::new(|_, _, _| false);
    let next = rig.hosts[1].engine.groups()[0].next_key.unwrap().0;
    assert!(!rig.hosts[0].maps.keys.contains_key(&next));
    rig.handle(0, Input::MissingKey { key_id: next, group: group(), epoch: Epoch(1) });
    rig.run(Duration::from_millis(50));
    assert!(rig.hosts[0].maps.keys.contains_key(&next));
}

#[test]
fn summaries_of_the_whole_table_are_answered_now_and_then() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    rig.run(5 * SECOND); // the wildcard request of the start is forgotten
    let now = rig.time();
    let engine = &mut rig.hosts[0].engine;
    for id in 0..300 {
        let name = ObjectName { origin: engine.node_id(), kind: ObjectKind(200), id };
        engine.announce(now, name, 1, now.wall + 1000 * SECOND, b"");
    }
    let mut body = [0; gem::MAX_BODY_LEN];
    let len = Summary::emit(Range::WHOLE, [], &mut body);
    let neighbour = *engine.neighbours.keys().next().unwrap();
    let mut answered = 0;
    for _ in 0..100 {
        engine.process_summary(now, neighbour, &Summary::parse(&body[..len]).unwrap());
        let queue = &mut engine.neighbours.get_mut(&neighbour).unwrap().peer_table.queue;
        answered += usize::from(!core::mem::take(queue).is_empty());
    }
    assert_eq!(answered, 2);
}

#[test]
fn a_thousand_objects_reach_a_newcomer_in_seconds() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.loses = Box::new(|_, _, _| true);
    let now = rig.time();
    for id in 0..1000 {
        let engine = &mut rig.hosts[0].engine;
        let name = ObjectName { origin: engine.node_id(), kind: ObjectKind(200), id };
        engine.announce(now, name, 1, now.wall + 1000 * SECOND, b"payload");
    }
    rig.loses = Box::new(|_, _, _| false);
    rig.run_until(5 * SECOND, |rig| rig.objects(1) >= 1000 && rig.tables_equal());
    let sent = rig.hosts[0].engine.counters.objects_sent;
    assert!(sent < 1100, "{sent} objects sent for 1000");
}

#[test]
fn a_stranger_without_the_bootstrap_key_is_not_heard() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    let mut stranger = config(1, &Options::default());
    stranger.bootstrap_keys = vec![crate::secret::Secret::new([66; 32])];
    rig.handle(1, Input::Reconfigure(Box::new(stranger)));
    rig.run(5 * SECOND);
    assert!(rig.hosts[0].engine.neighbours().is_empty() && !rig.opens(0, 1));
    assert!(rig.hosts[0].engine.counters.refused_mac > 0);
}

#[test]
fn large_tables_that_have_nothing_in_common_become_equal_over_slow_links() {
    // The relay in the middle comes up empty, and its neighbours' limits on questions must not let it starve.
    for (delay_ms, groups) in [(1, 2_500), (150, 500)] {
        let relay = Options { member: false, ..Options::default() };
        let mut rig = Rig::new([relay].into_iter().chain(members(4)), &[&[0, 1], &[0, 2], &[0, 3], &[0, 4]]);
        rig.delay = Duration::from_millis(delay_ms);
        for host in 1..5 {
            let mut new = config(host, &Options::default());
            let one = |n: u32| GroupConfig {
                group: format!("239.2.{}.{}", n / 256, n % 256).parse().unwrap(),
                ..config(host, &Options::default()).groups.remove(0)
            };
            new.groups.extend((0..groups).map(one));
            rig.handle(host, Input::Reconfigure(Box::new(new)));
        }
        rig.run_until(60 * SECOND, |rig| rig.tables_equal() && rig.objects(0) > 4 * groups);
    }
}

#[test]
fn f32_only_the_neighbour_that_is_behind_is_retried_and_ever_more_rarely() {
    let mut rig = Rig::new(members(3), &[&[0, 1, 2]]);
    rig.run_until(5 * SECOND, |rig| rig.opens(1, 0) && rig.opens(2, 0) && rig.tables_equal());
    rig.run(3 * SECOND);
    // Host 2 hears nothing more; its Hellos tell that it is there.
    rig.loses = Box::new(|_, to, _| to == 2);
    rig.handle(0, Input::RotateSek(group()));
    rig.run(3 * SECOND);
    rig.wire.clear();
    rig.run(20 * SECOND);
    let asked = |host: usize| {
        let mut asked = vec![];
        for sent in rig.wire.iter().filter(|sent| sent.from == 0 && sent.unicast == Some(address(host))) {
            if sent.find(gem::SUMMARY).or_else(|| sent.find(gem::DIGEST)).is_some() {
                asked.push(sent.at);
            }
        }
        asked
    };
    assert_eq!(asked(1), [], "it has everything");
    // Without the backoff it would be forty times.
    assert!((5..15).contains(&asked(2).len()), "{:?}", asked(2));
    let engine = &rig.hosts[0].engine;
    for neighbour in engine.neighbours() {
        match neighbour.sync {
            SyncState::Equal => assert_eq!(neighbour.address, address(1)),
            SyncState::Differs { theirs, tries, next_at, .. } => {
                assert_eq!((neighbour.address, theirs), (address(2), engine.objects() - 1));
                assert!(tries >= 5 && next_at.is_some_and(|at| at > rig.now), "{tries} {next_at:?}");
            }
            SyncState::Unknown => panic!("{neighbour:?}"),
        }
    }
    rig.loses = Box::new(|_, _, _| false);
    rig.run_until(5 * SECOND, |rig| rig.tables_equal());
    rig.run(3 * SECOND);
    assert!(rig.hosts[0].engine.neighbours().iter().all(|neighbour| neighbour.sync == SyncState::Equal));
}
