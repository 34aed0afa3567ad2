//! F38: latency and jitter are no death. What is late is awaited longer, and no longer than twice the time.

use core::time::Duration;
use gemcast_engine::output::Event;
use gemcast_lab::simulator::{Faults, Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn deaths(world: &World) -> usize {
    let events = world.hosts.iter().flat_map(|host| &host.events);
    events.filter(|event| matches!(event, Event::NeighbourDead { .. })).count()
}

/// A slow world of Hellos every 100 ms: packets take 300 ms and more, and overtake each other.
fn slow(seed: u64, jitter: Duration) -> World {
    let mut world = World::new(&Shape::grid(3, 2), seed);
    world.tune = |config| config.hello_interval = 100 * MS;
    world.faults_everywhere(Faults { delay: 300 * MS, jitter, ..Faults::default() });
    world.start();
    world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    world
}

#[test]
fn f38_latency_and_jitter_make_nobody_dead() {
    each_seed(4, |seed| {
        let mut world = slow(seed, 240 * MS);
        world.run(60 * SECOND);
        assert_eq!(deaths(&world), 0);
        assert!(world.engine(0).neighbours().iter().all(|one| one.lateness > 50 * MS && one.deaths == 0));
    });
}

#[test]
fn f38_jitter_of_less_than_two_hellos_moves_no_route() {
    each_seed(4, |seed| {
        let mut world = slow(seed, 180 * MS);
        world.run(20 * SECOND);
        world.always(60 * SECOND, "everybody reaches everybody", World::all_reach);
        assert_eq!(deaths(&world), 0);
    });
}

#[test]
fn f38_a_death_is_noticed_on_a_slow_network_and_its_lateness_is_forgotten_on_a_good_one() {
    each_seed(4, |seed| {
        let mut world = slow(seed, 240 * MS);
        world.run(20 * SECOND);
        world.crash(5);
        // 540 ms for what is under way, then 350 ms, and 300 ms of patience at most.
        world.eventually(1200 * MS, "the death", |world| deaths(world) == 2);
        world.faults_everywhere(Faults::default());
        world.run(20 * SECOND);
        assert!(world.engine(0).neighbours().iter().all(|one| one.lateness < 5 * MS));
        world.crash(0);
        world.eventually(400 * MS, "a quick one", |world| deaths(world) == 4);
    });
}
