//! F14: a gateway with the bootstrap key lies. Its neighbours find out, ban it and go on without it; the honest ones lose
//! nothing, and an operator or time lets it back in.

use core::time::Duration;
use gemcast_engine::time::Instant;
use gemcast_engine::view::Culprit;
use gemcast_lab::simulator::{Byzantine, Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);
const LIAR: usize = 3;
const HONEST: [usize; 5] = [0, 1, 2, 4, 5];
const NEIGHBOURS: [usize; 2] = [2, 4];

fn with_liar(seed: u64, byzantine: Byzantine) -> World {
    let mut world = World::new(&Shape::ring(6), seed);
    world.watch_loops = false; // garbage may well be a route
    world.start();
    world.eventually(30 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    world.hosts[LIAR].byzantine = Some(byzantine);
    world
}

/// Neighbours that a host banned.
fn banned(world: &World, host: usize) -> Vec<Culprit> {
    let all = world.engine(host).reputations(world.time(host));
    let all = all.into_iter().filter(|one| one.ban.is_some());
    all.map(|one| one.who).filter(|who| matches!(who, Culprit::Neighbour(..))).collect()
}

fn no_honest_one_is_banned(world: &World) -> bool {
    let liar = world.address_of(LIAR);
    let is_liar = |who: &Culprit| matches!(who, Culprit::Neighbour(_, address) if *address == liar);
    let honest = HONEST.map(|host| world.engine(host).node_id());
    HONEST.iter().all(|&host| {
        banned(world, host).iter().all(is_liar) && !honest.iter().any(|node| world.engine(host).is_banned(*node))
    })
}

#[test]
fn f14_a_neighbour_that_lies_is_isolated_and_comes_back_when_it_stops() {
    each_seed(3, |seed| {
        let mut world = with_liar(seed, Byzantine::AltersObjects);
        while NEIGHBOURS.iter().any(|&host| banned(&world, host).is_empty()) {
            // What it says of itself and passes on, altered.
            world.replace_at_once(LIAR);
            world.always(SECOND, "the honest go on", |world| world.all_open(&HONEST) && no_honest_one_is_banned(world));
            assert!(world.now() < Instant(300_000_000), "its neighbours do not ban it");
        }
        world.eventually(30 * SECOND, "it is out", |world| {
            let id = world.engine(LIAR).node_id();
            NEIGHBOURS.iter().all(|&host| !world.engine(host).is_alive(id))
        });
        world.rotate(1);
        world
            .always(40 * SECOND, "the others go on", |world| world.all_open(&HONEST) && no_honest_one_is_banned(world));
        // It is repaired, and one operator believes it. The other leaves it to time.
        world.hosts[LIAR].byzantine = None;
        for who in banned(&world, NEIGHBOURS[0]) {
            world.operate(NEIGHBOURS[0], |engine, now| engine.unban(now, who)).expect("it is banned");
        }
        world.eventually(60 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        world.eventually(3600 * SECOND, "every ban is over", |world| {
            HONEST.iter().all(|&host| banned(world, host).is_empty())
        });
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    });
}

#[test]
fn f14_garbage_harms_nobody_and_gets_nobody_else_banned() {
    each_seed(3, |seed| {
        let mut world = with_liar(seed, Byzantine::SendsGarbage);
        for _ in 0..10 {
            world.rotate(LIAR);
            world.rotate(0);
            world.always(10 * SECOND, "the honest go on", |world| {
                world.all_open(&HONEST) && no_honest_one_is_banned(world)
            });
        }
        let malformed = |host: usize| -> u64 {
            let all = world.engine(host).reputations(world.time(host));
            all.iter().map(|one| one.faults.malformed + one.faults.forged).sum()
        };
        assert!(NEIGHBOURS.iter().all(|&host| malformed(host) > 0), "it is noticed");
    });
}

#[test]
fn f14_a_node_that_contradicts_itself_loses_its_keys_and_nobody_else_does() {
    each_seed(3, |seed| {
        let mut world = with_liar(seed, Byzantine::ContradictsItself);
        let id = world.engine(LIAR).node_id();
        for _ in 0..4 {
            world.replace_at_once(LIAR);
            world.always(3 * SECOND, "the honest go on", |world| world.all_open(&HONEST));
        }
        world.eventually(30 * SECOND, "somebody bans it", |world| {
            NEIGHBOURS.iter().any(|&host| world.engine(host).is_banned(id))
        });
        for host in HONEST.into_iter().filter(|&host| world.engine(host).is_banned(id)) {
            assert!(!world.opens(host, LIAR), "its keys are gone from {host}");
        }
        assert!(world.all_open(&HONEST) && no_honest_one_is_banned(&world));
        world.hosts[LIAR].byzantine = None;
        world.eventually(7200 * SECOND, "every ban is over", |world| {
            HONEST.iter().all(|&host| !world.engine(host).is_banned(id))
        });
        world.rotate(LIAR);
        world.eventually(60 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    });
}
