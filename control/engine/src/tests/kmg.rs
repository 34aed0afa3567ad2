//! Group keys by package, revocations, the roster, successors, and a clock that is not to be trusted.

use super::rig::{Options, Rig, config, group, members};
use crate::config::Membership;
use crate::inject::InjectError;
use crate::input::Input;
use crate::kmg::{Administrator, Member, Package, PackageError, succession};
use crate::output::Event;
use crate::secret::Secret;
use crate::time::UnixMillis;
use core::time::Duration;
use gemcast_proto::id::Epoch;
use gemcast_proto::wire::gem::ObjectKind;
use gemcast_proto::wire::gem::kmg::Rights;

const SECOND: Duration = Duration::from_secs(1);

/// When the administrator made its NODE, in milliseconds.
const MADE: u64 = 1_800_000_000_000;

pub(super) fn administrator() -> Administrator {
    Administrator::new(&Secret::new([0xad; 32]))
}

/// Hosts that were told of the administrator.
pub(super) fn administered(n: usize) -> impl Iterator<Item = Options> {
    (0..n).map(|_| Options { administrators: vec![administrator().public_key()], ..Options::default() })
}

pub(super) fn member(rig: &Rig, host: usize) -> Member {
    let node = rig.hosts[host].engine.node_id();
    let agreement_key = rig.hosts[host].engine.nodes()[0].agreement_key;
    Member { node, agreement_key }
}

/// A package of epoch `epoch` for some hosts, the administrator's NODE in front.
pub(super) fn package(rig: &Rig, epoch: u16, to: &[usize], starts_in: Duration, emergency: bool) -> Vec<Vec<u8>> {
    let members: Vec<_> = to.iter().map(|&host| member(rig, host)).collect();
    let activate_at = rig.time().wall + starts_in;
    let package = Package { group: group(), epoch: Epoch(epoch), activate_at, emergency, members: &members };
    let gak = Secret::new([epoch as u8 ^ 0x55; 32]);
    let made = administrator().package(&package, &gak, rig.time().wall.0, [epoch as u8; 32]).unwrap();
    [vec![administrator().node("head office", MADE)], made].concat()
}

pub(super) fn revoke(rig: &Rig, host: usize) -> Vec<Vec<u8>> {
    let node = rig.hosts[host].engine.node_id();
    vec![administrator().node("head office", MADE), administrator().revoke(node, rig.time().wall.0)]
}

pub(super) fn epoch_of(rig: &Rig, host: usize) -> u16 {
    rig.hosts[host].maps.keys[&rig.active(host)].0.epoch.0
}

pub(super) fn run_without_a_gap(rig: &mut Rig, hosts: &[usize], duration: Duration) {
    let end = rig.now + duration;
    while rig.now < end {
        rig.run(Duration::from_millis(50));
        for &a in hosts {
            for &b in hosts.iter().filter(|&&b| b != a) {
                assert!(rig.opens(a, b), "{a} does not open what {b} seals at {:?}", rig.now);
                let epoch = Epoch(epoch_of(rig, b));
                assert!(rig.hosts[a].maps.gtags.contains_key(&(group(), epoch)), "{a} drops {b}'s tags");
            }
        }
    }
}

pub(super) fn trio() -> Rig {
    let mut rig = Rig::new(administered(3), &[&[0, 1], &[1, 2]]);
    rig.run_until(10 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0) && rig.opens(2, 0) && rig.opens(0, 2));
    rig
}

#[test]
fn r1_a_package_changes_the_group_key_without_a_gap_and_ends_the_epoch_before() {
    let mut rig = trio();
    let made = package(&rig, 2, &[0, 1, 2], 60 * SECOND, false);
    assert_eq!(rig.inject(0, &made).unwrap().accepted, 5);
    run_without_a_gap(&mut rig, &[0, 1, 2], 55 * SECOND);
    assert_eq!(epoch_of(&rig, 1), 1, "not before its time");
    assert_eq!(rig.hosts[2].maps.gtags.len(), 2, "but accepted from whoever is ahead");
    run_without_a_gap(&mut rig, &[0, 1, 2], 10 * SECOND);
    assert_eq!([0, 1, 2].map(|host| epoch_of(&rig, host)), [2, 2, 2]);
    run_without_a_gap(&mut rig, &[0, 1, 2], 60 * SECOND);
    for host in &rig.hosts {
        assert_eq!(host.maps.gtags.keys().collect::<Vec<_>>(), [&(group(), Epoch(2))], "the old epoch is over");
        assert!(host.maps.keys.values().all(|(key, _)| key.epoch == Epoch(2)));
    }
}

#[test]
fn r1_a_node_left_out_of_an_emergency_package_and_revoked_opens_nothing_and_the_others_lose_nothing() {
    let mut rig = trio();
    let cut_off = rig.hosts[2].engine.node_id();
    let mut made = package(&rig, 2, &[0, 1], Duration::ZERO, true);
    made.extend(revoke(&rig, 2));
    // Its software takes no notice: it was captured.
    let captured = config(2, &Options::default());
    rig.handle(2, Input::Reconfigure(Box::new(captured)));
    let old = rig.active(2);
    rig.inject(0, &made).unwrap();
    run_without_a_gap(&mut rig, &[0, 1], 5 * SECOND);
    assert_eq!([0, 1].map(|host| epoch_of(&rig, host)), [2, 2]);
    run_without_a_gap(&mut rig, &[0, 1], 600 * SECOND);
    for host in [0, 1] {
        assert!(!rig.opens(2, host), "sealed by {host}");
        assert!(!rig.opens(host, 2));
        assert!(!rig.hosts[host].maps.gtags.contains_key(&(group(), Epoch(1))));
        assert!(rig.hosts[host].maps.bans.contains(&old), "packets under its keys are dropped");
        assert!(rig.hosts[host].maps.transit.get(&old).copied().flatten().is_none(), "and not relayed");
        assert!(rig.hosts[host].engine.nodes().iter().all(|node| node.id != cut_off));
    }
    assert!(rig.hosts[1].engine.counters.refused_revoked > 0, "what it announces since is refused");
}

#[test]
fn a_revoked_node_that_hears_of_it_stops_and_a_withdrawn_revocation_lets_it_back() {
    let mut rig = trio();
    let node = rig.hosts[2].engine.node_id();
    let made = revoke(&rig, 2);
    rig.inject(0, &made).unwrap();
    rig.run(5 * SECOND);
    assert!(rig.hosts[2].maps.keys.is_empty() && rig.hosts[2].maps.gtags.is_empty());
    assert!(rig.hosts[2].events.contains(&Event::Revoked { node }));
    assert!(rig.hosts[2].events.iter().any(|event| matches!(event, Event::SigningRefused { .. })));
    let back = administrator().withdraw(ObjectKind::REVOKE, node, rig.time().wall.0 + 1);
    rig.inject(0, &[back]).unwrap();
    rig.run_until(60 * SECOND, |rig| rig.opens(0, 2) && rig.opens(2, 0));
}

#[test]
fn half_a_package_changes_nothing_and_the_rest_completes_it() {
    let mut rig = trio();
    let made = package(&rig, 2, &[0, 1, 2], Duration::ZERO, true);
    rig.inject(0, &made[..4]).unwrap();
    run_without_a_gap(&mut rig, &[0, 1, 2], 30 * SECOND);
    assert_eq!(epoch_of(&rig, 0), 1);
    assert!(rig.hosts.iter().all(|host| host.maps.gtags.len() == 1));
    rig.inject(2, &made[4..]).unwrap();
    run_without_a_gap(&mut rig, &[0, 1, 2], 10 * SECOND);
    assert_eq!([0, 1, 2].map(|host| epoch_of(&rig, host)), [2, 2, 2]);
}

#[test]
fn a_relay_without_configuration_passes_the_administrators_objects_on() {
    let mut hosts: Vec<_> = administered(3).collect();
    hosts[1] = Options { member: false, ..Options::default() };
    let mut rig = Rig::new(hosts, &[&[0, 1], &[1, 2]]);
    rig.run_until(10 * SECOND, |rig| rig.opens(0, 2) && rig.opens(2, 0));
    let made = package(&rig, 2, &[0, 2], 5 * SECOND, false);
    rig.inject(0, &made).unwrap();
    run_without_a_gap(&mut rig, &[0, 2], 10 * SECOND);
    assert_eq!((epoch_of(&rig, 0), epoch_of(&rig, 2)), (2, 2));
    assert!(rig.tables_equal());
}

#[test]
fn a_gateway_that_starts_alone_has_its_group_keys_from_what_was_kept() {
    let mut rig = trio();
    let made = package(&rig, 2, &[0, 1, 2], 5 * SECOND, false);
    rig.inject(0, &made).unwrap();
    rig.run(120 * SECOND);
    let kept = rig.hosts[1].engine.administration();
    assert_eq!(kept.len(), 5);
    rig.loses = Box::new(|_, _, _| true);
    rig.hosts[1].maps = super::rig::Maps { incarnation: 9, ..Default::default() };
    rig.hosts[1].engine = crate::Engine::new(config(1, &administered(1).next().unwrap()), [77; 32], rig.time());
    assert_eq!(rig.inject(1, &kept).unwrap().accepted, 5);
    rig.data_plane_up(1);
    assert_eq!(epoch_of(&rig, 1), 2, "and not the one of its file, which is over");
    assert_eq!(rig.hosts[1].maps.gtags.len(), 1);
}

#[test]
fn a_package_that_is_issued_again_counts_as_a_whole_or_not_at_all() {
    let mut rig = trio();
    let first = package(&rig, 2, &[0, 1, 2], 5 * SECOND, false);
    rig.inject(0, &first).unwrap();
    rig.run(100 * SECOND);
    // The same epoch without host 2, its last share missing at first.
    let again = package(&rig, 2, &[0, 1], Duration::ZERO, true);
    rig.inject(0, &again[..3]).unwrap();
    run_without_a_gap(&mut rig, &[0, 1, 2], 10 * SECOND);
    rig.inject(0, &again[3..]).unwrap();
    rig.run(10 * SECOND);
    assert!(rig.hosts[2].maps.gtags.is_empty(), "left out of the version that counts");
}

#[test]
fn what_a_stranger_signs_as_administrator_changes_nothing() {
    let mut rig = trio();
    let stranger = Administrator::new(&Secret::new([0xee; 32]));
    let victim = member(&rig, 1);
    let package =
        Package { group: group(), epoch: Epoch(9), activate_at: rig.time().wall, emergency: true, members: &[victim] };
    let made_at = rig.time().wall.0;
    let mut made = vec![stranger.node("me", made_at), stranger.revoke(victim.node, made_at)];
    made.extend(stranger.package(&package, &Secret::new([1; 32]), made_at, [1; 32]).unwrap());
    let refused = rig.inject(0, &made);
    assert!(matches!(refused, Err(InjectError::Untrusted { number: 1, kind: ObjectKind::NODE, .. })), "{refused:?}");
    // Through a gateway that the stranger holds, it spreads, and still means nothing.
    let theirs = config(0, &Options { administrators: vec![stranger.public_key()], ..Options::default() });
    rig.handle(0, Input::Reconfigure(Box::new(theirs)));
    rig.inject(0, &made).unwrap();
    rig.run(10 * SECOND);
    assert!(rig.opens(2, 1) && rig.opens(1, 2));
    assert_eq!((epoch_of(&rig, 1), epoch_of(&rig, 2)), (1, 1));
}

#[test]
fn packages_that_cannot_work_are_not_made() {
    let rig = trio();
    let twice = [member(&rig, 0), member(&rig, 0)];
    let weak = [Member { agreement_key: [0; 32], ..twice[0] }];
    let make = |members: &[Member]| {
        let package =
            Package { group: group(), epoch: Epoch(2), activate_at: UnixMillis(0), emergency: false, members };
        administrator().package(&package, &Secret::new([1; 32]), 1, [1; 32]).err()
    };
    assert_eq!(make(&twice), Some(PackageError::Twice(twice[0].node)));
    assert_eq!(make(&weak), Some(PackageError::Key(twice[0].node)));
}

pub(super) fn listed(rig: &Rig, hosts: &[(usize, Rights)]) -> Vec<Vec<u8>> {
    let entry = |&(host, rights): &(usize, Rights)| {
        administrator().list(rig.hosts[host].engine.node_id(), rights, "listed", rig.time().wall.0)
    };
    [vec![administrator().node("head office", MADE)], hosts.iter().map(entry).collect()].concat()
}

#[test]
fn where_only_listed_nodes_count_nobody_elses_keys_are_installed() {
    let strict = |options: Options| Options { membership: Membership::Roster, ..options };
    let mut rig = Rig::new(administered(3).map(strict), &[&[0, 1, 2]]);
    rig.run(10 * SECOND);
    assert!(!rig.opens(0, 1), "nobody is listed");
    let receiver = Rights { send: false, ..Rights::ALL };
    let made = listed(&rig, &[(0, receiver), (1, Rights::ALL)]);
    rig.inject(0, &made).unwrap();
    rig.run(10 * SECOND);
    assert!(rig.opens(0, 1));
    assert!(!rig.hosts[0].maps.active.contains_key(&group()), "it may not send");
    assert!(!rig.hosts[2].maps.active.contains_key(&group()) && !rig.opens(2, 1), "not listed");

    // Host 2 in host 0's place: with the agreement of both, and only then.
    let (old, new) = (Secret::new([1; 32]), Secret::new([3; 32]));
    let mut named = succession(&old, member(&rig, 0).agreement_key, "n0", &new, rig.time().wall);
    rig.inject(1, &named).unwrap();
    rig.run(10 * SECOND);
    assert!(rig.opens(2, 1), "it has the rights of its predecessor");
    assert!(!rig.hosts[2].maps.active.contains_key(&group()), "and no more");
    let forged = named[1].len() - 64 - 1;
    named[1][forged] ^= 1;
    assert_eq!(rig.inject(1, &named).unwrap().refused.len(), 1);
}

#[test]
fn f37_nothing_is_signed_by_a_clock_that_went_back_until_it_is_right_or_vouched_for() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
    let floor = rig.time().wall + 100 * SECOND;
    let doubtful = Options { clock_floor: floor, ..Options::default() };
    rig.restart_control(1, &doubtful);
    rig.wire.clear();
    rig.run(20 * SECOND);
    let engine = &rig.hosts[1].engine;
    assert!(engine.counters.unsigned > 0 && engine.counters.seks_made == 0);
    assert!(rig.hosts[1].events.iter().any(|event| matches!(event, Event::SigningRefused { .. })));
    assert!(rig.opens(0, 1), "what sealed before goes on");
    rig.run_until(60 * SECOND, |rig| rig.hosts[1].engine.counters.seks_made > 0);
    assert!(rig.time().wall + 31 * SECOND > floor, "30 s are tolerated");

    let doubtful = Options { clock_floor: floor + 3600 * SECOND, ..Options::default() };
    rig.restart_control(1, &doubtful);
    rig.run(5 * SECOND);
    assert_eq!(rig.hosts[1].engine.counters.seks_made, 0);
    rig.handle(1, Input::AcceptClock);
    rig.run(2 * SECOND);
    assert_eq!(rig.hosts[1].engine.counters.seks_made, 1);
}

#[test]
fn f25_what_cannot_be_signed_is_never_sent_and_counted_and_the_next_is_tried() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
    let node = rig.hosts[1].engine.node_id();
    let known = |rig: &Rig| -> Vec<_> {
        let of_node = rig.hosts[0].engine.objects.iter().filter(|stored| stored.header.name.origin == node);
        of_node.map(|stored| (stored.header.name, stored.header.version)).collect()
    };
    let before = known(&rig);
    let floor = rig.time().wall + 100 * SECOND;
    rig.restart_control(1, &Options { clock_floor: floor, ..Options::default() });
    for _ in 0..3 {
        let unsigned = rig.hosts[1].engine.counters.unsigned;
        rig.handle(1, Input::RotateSek(group()));
        rig.handle(1, Input::ReplaceSek(group()));
        rig.run(5 * SECOND);
        assert_eq!(known(&rig), before, "nothing new of it got out");
        assert!(rig.hosts[1].engine.counters.unsigned > unsigned, "each try is counted");
    }
    let refusals = rig.hosts[1].events.iter().filter(|event| matches!(event, Event::SigningRefused { .. }));
    assert_eq!(refusals.count(), 1, "said once");
    rig.handle(1, Input::AcceptClock);
    rig.run(2 * SECOND);
    assert_ne!(known(&rig), before, "the next one is signed and sent");
}

#[test]
fn r1_an_emergency_rotation_leaves_no_use_for_the_key_before() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let old = rig.active(1);
    rig.handle(1, Input::ReplaceSek(group()));
    assert!(rig.active(1) != old && !rig.hosts[1].maps.keys.contains_key(&old), "at once");
    rig.run_until(SECOND, |rig| rig.opens(0, 1) && !rig.hosts[0].maps.keys.contains_key(&old));
    // Its tombstone keeps the announcement away for as long as that would have been valid.
    rig.run(7000 * SECOND);
    assert!(!rig.hosts[0].maps.keys.contains_key(&old));
    let name = gemcast_proto::wire::gem::ObjectName {
        origin: rig.hosts[1].engine.node_id(),
        kind: ObjectKind::SEK,
        id: u64::from(old.0),
    };
    assert!(rig.hosts[0].engine.objects.get(&name).unwrap().header.tombstone);
}

#[test]
fn who_may_not_relay_does_not() {
    let mut rig = trio();
    let key = rig.active(0);
    let relays = |rig: &Rig| rig.hosts[1].maps.transit.get(&key).copied().flatten().is_some();
    assert!(relays(&rig));
    let made = listed(&rig, &[(1, Rights { relay: false, ..Rights::ALL })]);
    rig.inject(0, &made).unwrap();
    rig.run(SECOND);
    assert!(!relays(&rig) && rig.opens(1, 0), "it opens for itself");
    let made = listed(&rig, &[(1, Rights::ALL)]);
    rig.inject(0, &made).unwrap();
    rig.run(SECOND);
    assert!(relays(&rig));
}

#[test]
fn what_is_older_than_what_it_was_meant_to_replace_is_told() {
    let mut rig = trio();
    let (node, version) = (rig.hosts[2].engine.node_id(), rig.time().wall.0);
    let head = administrator().node("head office", 1);
    let refused = |rig: &mut Rig, bodies: &[Vec<u8>]| rig.inject(0, bodies).unwrap().refused;
    // Withdrawn, and then revoked by a clock that is behind.
    let withdrawn = administrator().withdraw(ObjectKind::REVOKE, node, version);
    assert!(refused(&mut rig, &[head, withdrawn]).is_empty());
    let late = administrator().revoke(node, version - 1000);
    let told = refused(&mut rig, &[late]);
    assert!(told.len() == 1 && told[0].2.contains("is the administrator's clock behind?"), "{told:?}");
    // The same epoch once more, older and otherwise.
    let first = package(&rig, 2, &[0, 1, 2], SECOND, false);
    rig.run(SECOND);
    let second = package(&rig, 2, &[0, 1], SECOND, false);
    assert!(refused(&mut rig, &second).is_empty());
    assert_eq!(
        refused(&mut rig, &first).iter().map(|(_, kind, _)| *kind).collect::<Vec<_>>(),
        [ObjectKind::GAK_PACKAGE]
    );
    assert!(refused(&mut rig, &second).is_empty(), "giving a file twice does no harm");
}
