//! F41: a new node has a partial table: every new adjacency reconciles in full, and what is missing or stale is asked
//! for by name. Liars between change nothing for honest neighbours.

use core::time::Duration;
use gemcast_lab::simulator::{Byzantine, Faults, Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn f41_a_newcomer_has_everything_in_seconds() {
    each_seed(6, |seed| {
        let mut world = World::new(&Shape::random(10, 5, seed), seed);
        let newcomer = 9;
        for host in 0..newcomer {
            world.start_host(host);
        }
        let others: Vec<usize> = (0..newcomer).collect();
        world.eventually(20 * SECOND, "the others open everything", |world| world.all_open(&others));
        world.run(40 * SECOND);
        world.start_host(newcomer);
        world.eventually(5 * SECOND, "the newcomer, too", |world| world.all_open(&world.everyone()));
    });
}

#[test]
fn f41_a_table_with_holes_is_filled_by_name() {
    each_seed(6, |seed| {
        let mut world = World::new(&Shape::line(3), seed);
        world.start_host(0);
        world.start_host(1);
        world.eventually(10 * SECOND, "the first two agree", |world| world.all_open(&[0, 1]));
        // The third gets some of it, and loses the rest.
        world.start_host(2);
        world.faults_everywhere(Faults::loss(60));
        world.run(3 * SECOND);
        world.faults_everywhere(Faults::default());
        world.eventually(10 * SECOND, "tables are equal", World::all_synchronised);
        assert!(world.all_open(&world.everyone()));
    });
}

#[test]
fn f41_a_gateway_that_is_no_member_carries_the_keys_and_holds_none() {
    each_seed(3, |seed| {
        let mut world = World::with_relays(&Shape::line(5), seed, &[1, 2, 3]);
        world.start();
        world.eventually(10 * SECOND, "the ends open each other", |world| world.all_open(&[0, 4]));
        let [first, last] = [world.active(0).unwrap(), world.active(4).unwrap()];
        for relay in [1, 2, 3] {
            assert!(world.hosts[relay].maps.keys.is_empty());
        }
        // Sealed packets are relayed from the side of their origin only, so that they cannot run in circles.
        world.eventually(20 * SECOND, "reverse paths are known", |world| {
            world.hosts[2].maps.transit.get(&first) == Some(&2) && world.hosts[2].maps.transit.get(&last) == Some(&3)
        });
    });
}

#[test]
fn f41_a_liar_with_the_bootstrap_key_cannot_plant_or_block_keys() {
    each_seed(3, |seed| {
        for byzantine in [Byzantine::AltersObjects, Byzantine::SendsGarbage] {
            // A ring: there is an honest way around the liar.
            let mut world = World::new(&Shape::ring(6), seed);
            world.watch_loops = false; // garbage may well be a route
            world.hosts[3].byzantine = Some(byzantine);
            world.start();
            let honest = [0, 1, 2, 4, 5];
            world.eventually(30 * SECOND, "the honest open each other", |world| world.all_open(&honest));
            world.rotate(2);
            world.always(40 * SECOND, "also through a rotation", |world| world.all_open(&honest));
            let refused: u64 =
                honest.iter().map(|&host| world.engine(host).counters).map(|c| c.refused_object + c.refused_tlv).sum();
            assert!(refused > 0, "{byzantine:?} was noticed");
        }
    });
}

#[test]
fn f37_clocks_within_the_tolerated_skew_do_not_matter() {
    each_seed(3, |seed| {
        let mut world = World::new(&Shape::ring(5), seed);
        for (host, ahead_ms) in [(0, 14_000), (1, -14_000), (2, 9_000), (3, -3_000)] {
            world.hosts[host].clock_ahead_ms = ahead_ms;
        }
        world.start();
        world.eventually(15 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        for host in 0..5 {
            world.rotate(host);
        }
        world.always(120 * SECOND, "through all rotations", |world| world.all_open(&world.everyone()));
    });
}
