//! The life of keys.

use super::rig::{Options, Rig, config, group, members};
use crate::input::Input;
use crate::sek::MAX_KEYS_PER_SOURCE;
use core::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Checks at every step that the receiver opens what the sender seals.
fn run_without_a_gap(rig: &mut Rig, duration: Duration) {
    let end = rig.now + duration;
    while rig.now < end {
        rig.run(Duration::from_millis(50));
        assert!(rig.opens(0, 1) && rig.opens(1, 0), "a gap at {:?}", rig.now);
    }
}

#[test]
fn a_key_is_replaced_after_its_announcement_and_wiped_after_the_overlap() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let old = rig.active(1);
    rig.handle(1, Input::RotateSek(group()));
    run_without_a_gap(&mut rig, 29 * SECOND);
    assert_eq!(rig.active(1), old, "the lead is 30 s");
    run_without_a_gap(&mut rig, 2 * SECOND);
    assert_ne!(rig.active(1), old);
    assert!(rig.hosts[1].maps.keys.contains_key(&old), "the overlap is 10 s");
    run_without_a_gap(&mut rig, 10 * SECOND);
    assert!(!rig.hosts[1].maps.keys.contains_key(&old));
    rig.run(7200 * SECOND);
    assert!(!rig.hosts[0].maps.keys.contains_key(&old), "the receiver keeps it while its object is valid");
}

#[test]
fn a_control_process_that_dies_before_the_switch_leaves_no_gap() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    rig.handle(1, Input::RotateSek(group()));
    rig.run_until(3 * SECOND, |rig| rig.hosts[0].maps.keys.len() == 3);
    // Its data plane goes on sealing with the old key, as long as the receiver may open it.
    rig.loses = Box::new(|from, to, _| from == 1 || to == 1);
    rig.hosts[1].engine = crate::Engine::new(config(1, &Options::default()), [42; 32], rig.time());
    rig.run(3600 * SECOND);
    assert!(rig.opens(0, 1));
}

#[test]
fn of_many_keys_of_a_source_the_oldest_are_wiped_for_good() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let first = rig.active(1);
    for _ in 0..10 {
        rig.handle(1, Input::RotateSek(group()));
        run_without_a_gap(&mut rig, 41 * SECOND);
    }
    let held = |rig: &Rig| rig.hosts[0].maps.keys.values().filter(|(key, _)| !key.seals).count();
    assert_eq!(held(&rig), MAX_KEYS_PER_SOURCE);
    assert!(!rig.hosts[0].maps.keys.contains_key(&first));
    rig.handle(0, Input::Reconfigure(Box::new(config(0, &Options::default()))));
    rig.data_plane_up(0);
    assert!(!rig.hosts[0].maps.keys.contains_key(&first), "installed again, it would open replayed packets");
    assert_eq!(held(&rig), MAX_KEYS_PER_SOURCE);
}

#[test]
fn keys_are_replaced_by_time_and_by_packets() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let first = rig.active(1);
    rig.run(3600 * SECOND);
    let second = rig.active(1);
    assert_ne!(first, second);
    rig.handle(1, Input::Sealed { key_id: second, packets: 1 << 32 });
    rig.run(31 * SECOND);
    let third = rig.active(1);
    assert_ne!(second, third);
    rig.handle(1, Input::Sealed { key_id: third, packets: 1 << 33 });
    assert_ne!(rig.active(1), third, "at once");
}

#[test]
fn a_control_restart_leaves_no_gap_and_ends_with_a_new_key() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let old = rig.active(1);
    rig.restart_control(1, &Options::default());
    run_without_a_gap(&mut rig, 29 * SECOND);
    assert_eq!(rig.active(1), old, "the adopted key seals until its replacement is known everywhere");
    run_without_a_gap(&mut rig, 120 * SECOND);
    assert_ne!(rig.active(1), old);
    assert!(!rig.hosts[1].maps.keys.contains_key(&old));
}

#[test]
fn lost_maps_mean_a_new_key_at_once() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let old = rig.active(1);
    rig.hosts[1].maps = super::rig::Maps { incarnation: 2, ..Default::default() };
    rig.data_plane_up(1);
    assert_ne!(rig.active(1), old);
    assert!(!rig.hosts[1].maps.keys.contains_key(&old), "never again");
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
}

#[test]
fn a_data_plane_that_comes_back_with_its_maps_goes_on_with_its_key() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
    let old = rig.active(1);
    rig.handle(1, Input::DataPlaneDown);
    rig.data_plane_up(1);
    assert_eq!(rig.active(1), old);
}

#[test]
fn a_key_found_in_the_maps_opens_until_its_object_is_back_or_its_group_is_gone() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
    rig.loses = Box::new(|_, _, _| true);
    rig.restart_control(0, &Options::default());
    rig.handle(0, Input::DataPlaneDown);
    rig.data_plane_up(0);
    assert!(rig.opens(0, 1), "the data plane came back before the object did");
    rig.hosts[0].maps.active.clear();
    let without = config(0, &Options { member: false, ..Options::default() });
    rig.handle(0, Input::Reconfigure(Box::new(without)));
    assert!(rig.hosts[0].maps.keys.is_empty());
}

#[test]
fn another_group_key_under_the_same_epoch_replaces_every_key() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    let (own, learnt) = (rig.active(0), rig.active(1));
    let other = |host| Input::Reconfigure(Box::new(config(host, &Options { gak: 8, ..Options::default() })));
    rig.handle(0, other(0));
    assert!(rig.active(0) != own && !rig.hosts[0].maps.keys.contains_key(&learnt));
    rig.handle(1, other(1));
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
}

#[test]
fn a_clock_that_is_set_forward_silences_nobody() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    rig.clock_set = 3600 * SECOND;
    run_without_a_gap(&mut rig, 60 * SECOND);
    let old = rig.active(1);
    rig.clock_set = 48 * 3600 * SECOND;
    rig.run(60 * SECOND);
    assert!(rig.opens(0, 1) && rig.opens(1, 0) && rig.active(1) != old);
    let nodes = rig.hosts[0].engine.nodes();
    assert!(nodes.len() == 2 && nodes[0].is_self);
}

#[test]
fn a_group_that_is_configured_away_leaves_nothing_behind() {
    let mut rig = Rig::new(members(2), &[&[0, 1]]);
    rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
    rig.hosts[0].maps.active.clear(); // the flow goes with the group, which gemcastd sees to
    let without = config(0, &Options { member: false, ..Options::default() });
    rig.handle(0, Input::Reconfigure(Box::new(without)));
    assert!(rig.hosts[0].maps.keys.is_empty() && rig.hosts[0].maps.gtags.is_empty());
    rig.handle(0, Input::Reconfigure(Box::new(config(0, &Options::default()))));
    assert!(rig.opens(0, 1), "and comes back from the table");
}

#[test]
fn a_generator_that_is_put_back_makes_other_keys_once_it_was_given_fresh_randomness() {
    let made = |fresh: Option<u8>| {
        let mut rig = Rig::new(members(2), &[&[0, 1]]);
        rig.run_until(3 * SECOND, |rig| rig.opens(0, 1));
        fresh.into_iter().for_each(|byte| rig.hosts[0].engine.reseed(&[byte; 32]));
        rig.handle(0, Input::ReplaceSek(group()));
        let key_id = rig.active(0);
        (key_id, rig.hosts[0].maps.keys[&key_id].1)
    };
    assert!(made(None) == made(None), "the same memory makes the same key");
    let (once, again) = (made(Some(1)), made(Some(2)));
    assert!(once.0 != again.0 && once.1 != again.1 && once != made(None));
}
