//! F03: a gateway crashes and restarts without its state: the full table is back in at most 5 s, and nobody floods anew.

use core::time::Duration;
use gemcast_lab::simulator::{Faults, Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

fn settled(shape: &Shape, seed: u64) -> World {
    let mut world = World::new(shape, seed);
    world.start();
    world.eventually(20 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    world.eventually(30 * SECOND, "tables are equal", World::all_synchronised);
    world.run(5 * SECOND);
    world
}

#[test]
fn f03_a_crashed_gateway_has_the_table_back_in_five_seconds() {
    each_seed(6, |seed| {
        let mut world = settled(&Shape::grid(3, 3), seed);
        world.crash(4);
        world.run(Duration::from_secs(1 + seed * 7));
        world.watch_loops = false; // it forgot what it had announced
        world.start_host(4);
        world.eventually(5 * SECOND, "it opens everything", |world| {
            (0..9).all(|sender| sender == 4 || world.opens(4, sender))
        });
        world.eventually(5 * SECOND, "it is opened everywhere", |world| world.all_open(&world.everyone()));
        world.eventually(40 * SECOND, "everybody reaches everybody", World::all_reach);
    });
}

#[test]
fn f03_no_other_link_carries_a_repeated_key() {
    each_seed(6, |seed| {
        let shape = Shape::grid(3, 3);
        let mut world = settled(&shape, seed);
        world.kill_control(4);
        world.run(2 * SECOND);
        world.reset_traffic();
        world.watch_loops = false;
        world.start_host(4);
        world.run(8 * SECOND);
        assert!(world.all_open(&world.everyone()));
        let own = world.id(4);
        let mut carrying = vec![];
        for (&link, seks) in &world.traffic.seks {
            let repeated: u32 = seks.iter().filter(|(name, _)| name.origin != own).map(|(_, times)| *times).sum();
            if repeated > 0 {
                carrying.push((link, repeated));
            }
        }
        let [(link, repeated)] = carrying[..] else { panic!("links with repeated keys: {carrying:?}") };
        assert!(shape.links[link].contains(&4), "only a link of the restarted gateway");
        // Its own former key comes back, too, and is not counted.
        assert_eq!(repeated, 8, "each key once");
    });
}

#[test]
fn f03_control_restarts_leave_no_gap_in_what_is_opened() {
    each_seed(6, |seed| {
        let mut world = settled(&Shape::ring(5), seed);
        for host in 0..5 {
            world.kill_control(host);
            world.watch_loops = false;
            world.always(3 * SECOND, "the maps keep working", |world| world.all_open(&world.everyone()));
            world.start_host(host);
            world.always(60 * SECOND, "and so they do afterwards", |world| world.all_open(&world.everyone()));
        }
    });
}

#[test]
fn f03_restarts_over_bad_links_end_well() {
    each_seed(6, |seed| {
        let mut world = settled(&Shape::random(8, 4, seed), seed);
        world.faults_everywhere(Faults::rough());
        world.watch_loops = false;
        for round in 0..4 {
            let host = usize::try_from((seed + round * 3) % 8).unwrap();
            world.crash(host);
            world.run(2 * SECOND);
            world.start_host(host);
            world.run(5 * SECOND);
        }
        world.eventually(60 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        world.eventually(120 * SECOND, "everybody reaches everybody", World::all_reach);
    });
}
