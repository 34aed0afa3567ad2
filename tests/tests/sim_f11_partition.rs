//! F11: a network that splits is seen as a partition by both sides, with who is on which, and healing is told.

use core::time::Duration;
use gemcast_engine::output::{Event, NodeName};
use gemcast_engine::view::Reach;
use gemcast_lab::simulator::{Shape, World, each_seed};
use gemcast_proto::id::NodeId;
use std::collections::BTreeSet;

const SECOND: Duration = Duration::from_secs(1);

fn settled(shape: &Shape, seed: u64) -> World {
    let mut world = World::new(shape, seed);
    world.start();
    world.eventually(30 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    world.run(20 * SECOND);
    world
}

fn ids(world: &World, hosts: &[usize]) -> BTreeSet<NodeId> {
    hosts.iter().map(|&host| world.id(host)).collect()
}

/// What a host told of losses and returns, in order: the gateways, and how many are missing.
fn told(world: &World, host: usize) -> Vec<(bool, BTreeSet<NodeId>, usize)> {
    let ids = |nodes: &[NodeName]| nodes.iter().map(|node| node.id).collect();
    let told = world.hosts[host].events.iter().filter_map(|event| match event {
        Event::NodesLost { nodes, .. } => Some((true, ids(nodes), 0)),
        Event::NodesBack { nodes, missing, .. } => Some((false, ids(nodes), missing.len())),
        _ => None,
    });
    told.collect()
}

#[test]
fn f11_both_sides_see_the_partition_and_its_healing() {
    each_seed(4, |seed| {
        let shape = Shape::grid(4, 3);
        let mut world = settled(&shape, seed);
        assert!(world.everyone().iter().all(|&host| told(&world, host).is_empty()), "nothing was lost so far");
        let left: Vec<usize> = (0..12).filter(|host| host % 4 < 2).collect();
        let right: Vec<usize> = (0..12).filter(|host| host % 4 >= 2).collect();
        let sides = [(&left, ids(&world, &right)), (&right, ids(&world, &left))];

        world.split(&left);
        world.run(30 * SECOND);
        for (side, others) in &sides {
            for &host in *side {
                assert_eq!(told(&world, host), [(true, others.clone(), 0)], "host {host}, at once and once");
                for node in world.engine(host).nodes() {
                    match node.reach {
                        Reach::Lost { with, .. } => {
                            let together: BTreeSet<_> = with.into_iter().chain([node.id]).collect();
                            assert_eq!(together, *others);
                        }
                        reach => assert!(!others.contains(&node.id), "{reach:?}"),
                    }
                }
            }
        }

        world.heal();
        world.eventually(20 * SECOND, "everybody tells that nobody is missing", |world| {
            world.everyone().iter().all(|&host| matches!(told(world, host).last(), Some((false, _, 0))))
        });
        world.run(20 * SECOND);
        for (side, others) in &sides {
            for &host in *side {
                let told = told(&world, host);
                let back: Vec<_> = told[1..].iter().flat_map(|(_, nodes, _)| nodes.iter().copied()).collect();
                assert!(told[1..].iter().all(|(lost, ..)| !lost), "host {host}: {told:?}");
                assert_eq!(back.len(), others.len(), "each once");
                assert_eq!(back.into_iter().collect::<BTreeSet<_>>(), *others);
            }
        }
        world.eventually(30 * SECOND, "tables are equal", World::all_synchronised);
        assert!(world.all_open(&world.everyone()));
    });
}

#[test]
fn f11_a_gateway_that_dies_is_lost_alone() {
    each_seed(4, |seed| {
        let mut world = settled(&Shape::ring(5), seed);
        world.crash(2);
        world.run(40 * SECOND);
        let dead = ids(&world, &[2]);
        assert!([0, 1, 3, 4].iter().all(|&host| told(&world, host) == [(true, dead.clone(), 0)]));
        world.watch_loops = false; // it forgot what it had announced
        world.start_host(2);
        world.eventually(60 * SECOND, "everybody tells of its return", |world| {
            [0, 1, 3, 4].iter().all(|&host| told(world, host).last() == Some(&(false, dead.clone(), 0)))
        });
    });
}
