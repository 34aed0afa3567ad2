//! F01: a SEK announcement is lost. No acknowledgements; the next digest or refresh repairs it, in seconds.

use core::time::Duration;
use gemcast_lab::simulator::{Faults, Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn f01_a_rotation_is_known_everywhere_before_it_counts_whatever_is_lost() {
    for loss in [1, 10, 30, 50] {
        each_seed(6, |seed| {
            let mut world = World::new(&Shape::random(8, 3, seed), seed);
            world.start();
            world.eventually(15 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
            world.faults_everywhere(Faults::loss(loss));
            world.rotate(0);
            let others: Vec<_> = (1..8).collect();
            let before = world.active(0);
            // The new key seals after 30 s of lead; by then nobody may lack it.
            world
                .always(32 * SECOND, "everybody opens host 0", |world| others.iter().all(|&host| world.opens(host, 0)));
            assert_ne!(world.active(0), before);
        });
    }
}

#[test]
fn f01_a_cold_start_over_bad_links_takes_seconds_not_minutes() {
    for (loss, limit) in [(1, 6), (10, 10), (30, 20), (50, 45)] {
        each_seed(6, |seed| {
            let mut world = World::new(&Shape::line(4), seed);
            world.faults_everywhere(Faults::loss(loss));
            world.start();
            world.eventually(limit * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        });
    }
}

#[test]
fn f01_delay_jitter_duplicates_and_damage_change_nothing() {
    each_seed(6, |seed| {
        let mut world = World::new(&Shape::grid(3, 3), seed);
        world.faults_everywhere(Faults::rough());
        world.start();
        world.eventually(20 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    });
}
