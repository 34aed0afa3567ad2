//! An epoch that is over stays over, whatever becomes of the objects, the configuration, the clock and the process.

use super::kmg::{administered, administrator, epoch_of, package, revoke, run_without_a_gap, trio};
use super::rig::{Options, Rig, config, group};
use crate::inject::InjectError;
use crate::input::{Floor, Input};
use crate::output::Event;
use core::time::Duration;
use gemcast_proto::id::Epoch;
use gemcast_proto::wire::gem::Object;

const SECOND: Duration = Duration::from_secs(1);

/// Objects come to a host from a neighbour that asks nobody.
fn overhear(rig: &mut Rig, host: usize, bodies: &[Vec<u8>]) {
    let now = rig.time();
    let engine = &mut rig.hosts[host].engine;
    for body in bodies {
        if engine.objects.offer(now.wall, body).is_ok() {
            engine.object_changed(now, None, &Object::parse(body).unwrap().header);
        }
    }
    rig.run(Duration::from_millis(50));
}

fn epochs(rig: &Rig, host: usize) -> Vec<u16> {
    rig.hosts[host].engine.groups()[0].epochs.iter().map(|epoch| epoch.0).collect()
}

/// Everybody on this epoch, and those before over.
fn on_epoch(epoch: u16) -> Rig {
    let mut rig = trio();
    let made = package(&rig, epoch, &[0, 1, 2], 5 * SECOND, false);
    rig.inject(0, &made).unwrap();
    rig.run(120 * SECOND);
    assert_eq!([0, 1, 2].map(|host| epochs(&rig, host)), [[epoch], [epoch], [epoch]]);
    rig
}

fn administered_one() -> Options {
    administered(1).next().unwrap()
}

/// Nothing is accepted or sealed but under this epoch.
fn assert_only(rig: &Rig, host: usize, epoch: u16) {
    assert!(epochs(rig, host).iter().all(|&accepted| accepted == epoch), "accepts {:?}", epochs(rig, host));
    if rig.hosts[host].maps.active.contains_key(&group()) {
        assert_eq!(epoch_of(rig, host), epoch);
    }
}

#[test]
fn r1_a_package_in_the_slot_of_the_one_in_force_brings_no_ended_epoch_back() {
    let mut rig = on_epoch(2);
    let made = package(&rig, 6, &[0, 1, 2], 300 * SECOND, false);
    let refused = rig.inject(0, &made);
    assert!(matches!(refused, Err(InjectError::Displaces { number: 2, in_force: Epoch(2), .. })), "{refused:?}");
    // Other gateways may have been asked that did not know; half of it comes first.
    overhear(&mut rig, 0, &made[..3]);
    run_without_a_gap(&mut rig, &[0, 1, 2], 20 * SECOND);
    (0..3).for_each(|host| assert_only(&rig, host, 2));
    overhear(&mut rig, 0, &made[3..]);
    run_without_a_gap(&mut rig, &[0, 1, 2], 20 * SECOND);
    assert_eq!([0, 1, 2].map(|host| epochs(&rig, host)), [[2, 6], [2, 6], [2, 6]]);
    assert_eq!([0, 1, 2].map(|host| epoch_of(&rig, host)), [2, 2, 2]);
    run_without_a_gap(&mut rig, &[0, 1, 2], 400 * SECOND);
    (0..3).for_each(|host| assert_only(&rig, host, 6));

    // A lower one in that slot, whole.
    let made = package(&rig, 2, &[0, 1, 2], Duration::ZERO, true);
    overhear(&mut rig, 1, &made);
    run_without_a_gap(&mut rig, &[0, 1, 2], 60 * SECOND);
    (0..3).for_each(|host| assert_only(&rig, host, 6));
}

#[test]
fn r1_four_rotations_prepared_ahead_bring_no_ended_epoch_back() {
    let mut rig = on_epoch(2);
    for epoch in 3..=6 {
        let made = package(&rig, epoch, &[0, 1, 2], 100 * u32::from(epoch) * SECOND, false);
        overhear(&mut rig, 0, &made);
    }
    for epoch in 2..=6 {
        run_without_a_gap(&mut rig, &[0, 1, 2], if epoch == 2 { 290 * SECOND } else { 100 * SECOND });
        assert_eq!([0, 1, 2].map(|host| epoch_of(&rig, host)), [epoch, epoch, epoch]);
        assert!(!epochs(&rig, 1).contains(&(epoch - 1)));
    }
}

#[test]
fn r1_an_administrator_that_counts_no_longer_takes_no_ended_epoch_back() {
    let mut rig = on_epoch(2);
    let without = |host| Input::Reconfigure(Box::new(config(host, &Options::default())));
    (0..3).for_each(|host| rig.handle(host, without(host)));
    run_without_a_gap(&mut rig, &[0, 1, 2], 60 * SECOND);
    (0..3).for_each(|host| assert_only(&rig, host, 2));
}

#[test]
fn r1_a_process_killed_as_a_package_takes_effect_goes_on_under_it() {
    let mut rig = trio();
    let made = package(&rig, 2, &[0, 1, 2], Duration::ZERO, true);
    rig.inject(0, &made).unwrap();
    rig.run_until(SECOND, |rig| rig.hosts[1].events.iter().any(|event| matches!(event, Event::PackageWhole { .. })));
    rig.loses = Box::new(|_, _, _| true);
    rig.restart_with_state(1, &administered_one());
    rig.run(10 * SECOND);
    assert_only(&rig, 1, 2);
    assert_eq!(epoch_of(&rig, 1), 2);
}

#[test]
fn r1_a_restart_with_half_of_a_package_issued_again_brings_no_ended_epoch_back() {
    let mut rig = on_epoch(2);
    let again = package(&rig, 2, &[0, 1, 2], Duration::ZERO, true);
    overhear(&mut rig, 1, &again[..3]);
    let engine = &rig.hosts[1].engine;
    rig.hosts[1].kept = (engine.administration(), engine.floors());
    assert_eq!(rig.hosts[1].kept.1.last().map(|floor| floor.epoch), Some(Epoch(2)));
    rig.loses = Box::new(|_, _, _| true);
    rig.restart_with_state(1, &administered_one());
    rig.run(60 * SECOND);
    assert_only(&rig, 1, 2);
    rig.loses = Box::new(|_, _, _| false);
    overhear(&mut rig, 0, &again);
    rig.run_until(60 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0) && rig.opens(1, 2) && rig.opens(2, 1));
}

#[test]
fn r1_keys_in_the_maps_tell_of_an_epoch_when_everything_else_is_lost() {
    let mut rig = on_epoch(2);
    rig.loses = Box::new(|_, _, _| true);
    rig.restart_control(1, &administered_one());
    rig.run(60 * SECOND);
    assert_only(&rig, 1, 2);
    assert!(!rig.hosts[1].maps.active.contains_key(&group()), "there is no key to seal with");
    rig.loses = Box::new(|_, _, _| false);
    rig.run_until(60 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    assert_only(&rig, 1, 2);
}

#[test]
fn r1_what_is_over_is_told_and_kept_and_only_rises() {
    let mut rig = on_epoch(2);
    let floors = rig.hosts[0].engine.floors();
    assert_eq!(floors.iter().map(|floor| (floor.group, floor.epoch)).collect::<Vec<_>>(), [(group(), Epoch(2))]);
    assert_eq!(rig.hosts[0].kept.1, floors, "before it has effects");
    let lower = Floor { epoch: Epoch(1), ..floors[0] };
    let now = rig.time();
    rig.hosts[0].engine.end_epochs(now, &[lower]);
    assert_eq!(rig.hosts[0].engine.floors(), floors);
}

#[test]
fn r1_f37_a_clock_set_back_revives_no_epoch_and_signs_nothing() {
    let mut rig = trio();
    rig.clock_set = 3600 * SECOND;
    rig.run(60 * SECOND);
    let made = package(&rig, 2, &[0, 1, 2], 5 * SECOND, false);
    rig.inject(0, &made).unwrap();
    rig.run(120 * SECOND);
    assert_eq!(epochs(&rig, 1), [2]);
    rig.clock_set = Duration::ZERO;
    rig.run(SECOND);
    let active = rig.active(1);
    rig.handle(1, Input::RotateSek(group()));
    run_without_a_gap(&mut rig, &[0, 1, 2], 120 * SECOND);
    (0..3).for_each(|host| assert_only(&rig, host, 2));
    assert_eq!(rig.active(1), active, "what seals goes on");
    assert!(rig.hosts[1].engine.signing_refusal(rig.time()).is_some());
    assert!(rig.hosts[1].events.iter().any(|event| matches!(event, Event::SigningRefused { .. })));
    // Nothing is said of 30 s.
    rig.clock_set = 3600 * SECOND - 20 * SECOND;
    rig.run(2 * SECOND);
    assert!(rig.hosts[1].engine.signing_refusal(rig.time()).is_none());
    (0..3).for_each(|host| assert_only(&rig, host, 2));
}

#[test]
fn f37_what_a_clock_that_was_ahead_began_and_ended_is_taken_back_when_the_operator_vouches_for_the_time() {
    let mut rig = trio();
    let made = package(&rig, 2, &[0, 1, 2], 1800 * SECOND, false);
    rig.inject(0, &made).unwrap();
    rig.run(10 * SECOND);
    rig.clock_set = 3600 * SECOND;
    rig.run(120 * SECOND);
    rig.clock_set = Duration::ZERO;
    rig.run(10 * SECOND);
    assert_eq!([0, 1, 2].map(|host| epochs(&rig, host)), [[2], [2], [2]], "until then it stays so");
    (0..3).for_each(|host| rig.handle(host, Input::AcceptClock));
    rig.run_until(60 * SECOND, |rig| (0..3).all(|host| epochs(rig, host) == [1, 2] && epoch_of(rig, host) == 1));
    rig.run_until(60 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0) && rig.opens(1, 2) && rig.opens(2, 1));
    assert!(rig.hosts[0].kept.1.is_empty(), "on the disk, too");
    run_without_a_gap(&mut rig, &[0, 1, 2], 1900 * SECOND);
    (0..3).for_each(|host| assert_only(&rig, host, 2));
}

#[test]
fn r1_a_gateway_that_may_not_sign_seals_nothing_rather_than_under_an_ended_epoch() {
    let mut rig = trio();
    rig.hosts[1].engine.clock_floor = rig.time().wall + 3600 * SECOND;
    let made = package(&rig, 2, &[0, 1], Duration::ZERO, true);
    rig.inject(0, &made).unwrap();
    rig.run(30 * SECOND);
    assert_eq!((epoch_of(&rig, 0), epochs(&rig, 1)), (2, vec![2]));
    assert!(!rig.hosts[1].maps.active.contains_key(&group()), "host 2, left out, could read it");
    assert!(rig.opens(1, 0), "it goes on opening");
    rig.handle(1, Input::AcceptClock);
    rig.run_until(30 * SECOND, |rig| rig.opens(0, 1));
    assert_eq!(epoch_of(&rig, 1), 2);
}

#[test]
fn r1_a_node_revoked_while_control_is_down_is_opened_no_more() {
    let mut rig = trio();
    let (old, made) = (rig.active(2), revoke(&rig, 2));
    rig.inject(0, &made).unwrap();
    rig.run(SECOND);
    rig.loses = Box::new(|_, _, _| true);
    // Its control process dies with the revocation on its disk, its maps still have the node's key.
    let kept = (rig.hosts[0].engine.administration(), vec![]);
    let mut stale = trio();
    stale.hosts[0].kept = kept;
    stale.loses = Box::new(|_, _, _| true);
    let old_there = stale.active(2);
    assert_eq!(old, old_there, "the same seeds");
    stale.restart_with_state(0, &administered_one());
    assert!(!stale.hosts[0].maps.keys.contains_key(&old) && stale.hosts[0].maps.bans.contains(&old));
    // The revocation comes after the restart, the node's own objects do not.
    let mut late = trio();
    late.loses = Box::new(|_, _, _| true);
    late.restart_control(0, &administered_one());
    assert!(late.opens(0, 2));
    late.inject(0, &[vec![administrator().node("head office", 1)], made].concat()).unwrap();
    assert!(!late.hosts[0].maps.keys.contains_key(&old) && late.hosts[0].maps.bans.contains(&old));
}
