//! F30: a link that dies over and over is avoided until it is calm, and used all the same when there is no other.

use core::time::Duration;
use gemcast_engine::output::Event;
use gemcast_lab::simulator::{Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

/// A world in which everybody reaches everybody.
fn settled(shape: &Shape, seed: u64) -> World {
    let mut world = World::new(shape, seed);
    world.start();
    world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    world.run(20 * SECOND);
    world
}

/// The link dies and returns.
fn flap(world: &mut World, link: usize) {
    world.cut(link);
    world.run(5 * SECOND);
    world.heal();
    world.run(5 * SECOND);
}

fn count(world: &World, host: usize, wanted: fn(&Event) -> bool) -> usize {
    world.hosts[host].events.iter().filter(|event| wanted(event)).count()
}

#[test]
fn f30_a_link_that_flaps_is_avoided_until_it_is_calm() {
    each_seed(4, |seed| {
        // 0 – 1 – 2 – 0; the link between 0 and 1 is the one that flaps.
        let mut world = settled(&Shape::ring(3), seed);
        (0..3).for_each(|_| flap(&mut world, 0));
        let flapping = |event: &Event| matches!(event, Event::NeighbourFlapping { .. });
        assert_eq!((count(&world, 0, flapping), count(&world, 1, flapping)), (1, 1));
        assert!(world.all_reach_without(0), "it carries again, and is not used");
        for _ in 0..3 {
            world.cut(0);
            world.always(5 * SECOND, "nobody is touched by its death", |world| world.all_reach_without(0));
            world.heal();
            world.always(5 * SECOND, "nor by its return", |world| world.all_reach_without(0));
        }
        // It stays up from now on.
        let calm = |event: &Event| matches!(event, Event::NeighbourCalm { .. });
        world.eventually(200 * SECOND, "it is calm", |world| count(world, 0, calm) == 1 && count(world, 1, calm) == 1);
        world.eventually(60 * SECOND, "it is used again", |world| world.all_reach() && !world.all_reach_without(0));
    });
}

#[test]
fn f30_a_link_that_flaps_serves_when_there_is_no_other() {
    each_seed(4, |seed| {
        let mut world = settled(&Shape::line(2), seed);
        (0..4).for_each(|_| flap(&mut world, 0));
        assert!(world.engine(0).neighbours()[0].flapping);
        world.eventually(20 * SECOND, "both reach each other", World::all_reach);
        let deaths = count(&world, 0, |event| matches!(event, Event::NeighbourDead { .. }));
        let returns = count(&world, 0, |event| matches!(event, Event::NeighbourBack { away: Some(_), .. }));
        assert_eq!((deaths, returns), (4, 4), "each death has its return");
    });
}

#[test]
fn f30_nothing_of_a_dead_neighbour_stays_beyond_its_grace() {
    each_seed(4, |seed| {
        let mut world = settled(&Shape::line(2), seed);
        world.crash(1);
        world.run(20 * SECOND);
        assert_eq!(world.engine(0).neighbours()[0].state.name(), "dead");
        world.run(20 * SECOND);
        assert!(world.engine(0).neighbours().is_empty());
        assert_eq!(count(&world, 0, |event| matches!(event, Event::NeighbourForgotten { silent: true, .. })), 1);
    });
}
