//! F10: a gateway dies. Its neighbours notice by the Hellos that do not come, and routes lead around it; when it returns,
//! it is taken up again.

use core::time::Duration;
use gemcast_engine::output::Event;
use gemcast_lab::simulator::{Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

fn settled(shape: &Shape, seed: u64, hello_ms: u64) -> World {
    let mut world = World::new(shape, seed);
    world.tune = match hello_ms {
        100 => |config| config.hello_interval = Duration::from_millis(100),
        _ => |_| (),
    };
    world.start();
    world.eventually(30 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    world.run(20 * SECOND);
    world
}

/// Whether every neighbour of a host has told of its death.
fn told(world: &World, shape: &Shape, dead: usize) -> bool {
    let is_death = |event: &Event| matches!(event, Event::NeighbourDead { missed: 3, .. });
    let links = shape.links.iter().filter(|link| link.contains(&dead));
    links.flatten().filter(|host| **host != dead).all(|&host| world.hosts[host].events.iter().any(is_death))
}

#[test]
fn f10_routes_lead_around_a_dead_gateway_within_a_second_of_fast_hellos() {
    each_seed(4, |seed| {
        let shape = Shape::grid(3, 3);
        let mut world = settled(&shape, seed, 100);
        world.crash(4);
        world.eventually(SECOND, "the neighbours notice, and everybody else is reached", |world| {
            told(world, &shape, 4) && world.all_reach()
        });
        for neighbour in [1, 3, 5, 7] {
            let deaths = world.hosts[neighbour].events.iter().filter_map(|event| match event {
                Event::NeighbourDead { moved, lost, .. } => Some((*moved, *lost)),
                _ => None,
            });
            let [(moved, lost)] = deaths.collect::<Vec<_>>()[..] else { panic!("one death") };
            assert!(lost.nodes >= 1 && lost.groups == 1, "the dead one itself is lost: {lost:?}");
            assert!(moved.nodes + lost.nodes <= 8, "{moved:?} {lost:?}");
        }
        assert!(!world.engine(0).is_alive(world.id(4)));
        assert!((0..9).filter(|&host| host != 4).all(|host| world.engine(0).is_alive(world.id(host))));
        world.watch_loops = false; // it forgot what it had announced
        world.start_host(4);
        world.eventually(5 * SECOND, "it opens everything, and is opened", |world| world.all_open(&world.everyone()));
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
        let back = |event: &Event| matches!(event, Event::NeighbourBack { away: Some(_), .. });
        assert!([1, 3, 5, 7].iter().all(|&host| world.hosts[host].events.iter().any(back)));
    });
}

#[test]
fn f10_routes_lead_around_a_dead_gateway_with_slow_hellos() {
    each_seed(4, |seed| {
        let shape = Shape::grid(3, 3);
        let mut world = settled(&shape, seed, 1000);
        world.crash(4);
        let took = world
            .eventually(30 * SECOND, "everybody else is reached", |world| told(world, &shape, 4) && world.all_reach());
        assert!(took > 2 * SECOND, "one missed Hello is no death: {took:?}");
    });
}
