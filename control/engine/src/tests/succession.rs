//! Successors: what anyone may say, when it counts, and that it costs the others nothing.

use super::kmg::{administered, listed, member, trio};
use super::rig::{Options, Rig, group};
use crate::config::Membership;
use crate::kmg::succession;
use crate::output::Output;
use crate::secret::Secret;
use core::time::Duration;
use gemcast_proto::wire::gem::Object;
use gemcast_proto::wire::gem::kmg::Rights;

const SECOND: Duration = Duration::from_secs(1);

/// Two listed hosts and a third one that is to follow host 0.
fn roster() -> Rig {
    let strict = |options: Options| Options { membership: Membership::Roster, ..options };
    let mut rig = Rig::new(administered(3).map(strict), &[&[0, 1, 2]]);
    let made = listed(&rig, &[(0, Rights::ALL), (1, Rights::ALL)]);
    rig.inject(0, &made).unwrap();
    rig.run_until(10 * SECOND, |rig| rig.opens(0, 1) && rig.opens(1, 0));
    rig
}

/// Host 0 names host 2, at a time.
fn naming(rig: &Rig, from_now: Duration) -> Vec<Vec<u8>> {
    let (old, new) = (Secret::new([1; 32]), Secret::new([3; 32]));
    succession(&old, member(rig, 0).agreement_key, "n0", &new, rig.time().wall + from_now)
}

#[test]
fn r5_successors_that_strangers_name_reinstall_no_key_and_are_looked_at_once_a_second() {
    let mut rig = trio();
    let mut installed = 0;
    let mut persisted = 0;
    for number in 0..20u8 {
        let (old, new) = (Secret::new([100 + number; 32]), Secret::new([200; 32]));
        let now = rig.time();
        let engine = &mut rig.hosts[1].engine;
        for body in succession(&old, [9; 32], "x", &new, now.wall) {
            engine.objects.offer(now.wall, &body).unwrap();
            engine.object_changed(now, None, &Object::parse(&body).unwrap().header);
        }
        let engine = &mut rig.hosts[1].engine;
        engine.handle_timeout(crate::time::Now { mono: now.mono + Duration::from_millis(30), ..now });
        while let Some(output) = engine.poll_output() {
            installed += usize::from(matches!(output, Output::InstallKey(_)));
            persisted += usize::from(matches!(output, Output::Persist { .. }));
        }
    }
    assert_eq!((installed, persisted), (0, 0));
}

#[test]
fn keys_that_did_not_change_are_not_installed_again() {
    let mut rig = trio();
    let failed = rig.hosts[1].engine.counters.unwrap_failed;
    let now = rig.time();
    let engine = &mut rig.hosts[1].engine;
    engine.govern(now);
    let outputs: Vec<_> = core::iter::from_fn(|| engine.poll_output()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::InstallKey(_))));
    assert_eq!(engine.counters.unwrap_failed, failed);
    // New maps get them all.
    rig.hosts[1].maps = super::rig::Maps { incarnation: 2, ..Default::default() };
    rig.data_plane_up(1);
    assert!(rig.opens(1, 0) && rig.opens(1, 2));
}

#[test]
fn keys_that_do_not_open_are_tried_once() {
    let mut hosts: Vec<_> = administered(2).collect();
    hosts[1].gak = 8;
    let mut rig = Rig::new(hosts, &[&[0, 1]]);
    rig.run(5 * SECOND);
    assert_eq!(rig.hosts[0].engine.counters.unwrap_failed, 1);
    let now = rig.time();
    rig.hosts[0].engine.learn_all(now);
    rig.hosts[0].engine.learn_all(now);
    assert_eq!(rig.hosts[0].engine.counters.unwrap_failed, 1);
}

#[test]
fn a_succession_counts_from_its_time_until_it_runs_out_without_another_word() {
    let mut rig = roster();
    let made = naming(&rig, 100 * SECOND);
    rig.inject(1, &made).unwrap();
    rig.run(60 * SECOND);
    assert!(!rig.opens(1, 2), "30 s before its time at the earliest");
    rig.run(45 * SECOND);
    assert!(rig.opens(1, 2) && rig.opens(2, 1));
    assert!(rig.hosts[2].maps.active.contains_key(&group()));
    rig.clock_set = 22 * 24 * 3600 * SECOND;
    rig.run(150 * SECOND);
    assert!(rig.opens(1, 0), "who is listed stays");
    assert!(!rig.opens(1, 2), "the roster did not follow");
    assert!(!rig.hosts[2].maps.active.contains_key(&group()));
}
