//! F04: the network splits, then heals. Both halves keep working; only the differences are exchanged afterwards, and the
//! other half's streams are opened at most 3 s after the adjacency returned.

use core::time::Duration;
use gemcast_lab::simulator::{Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

fn settled(shape: &Shape, seed: u64) -> World {
    let mut world = World::new(shape, seed);
    world.start();
    world.eventually(20 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    world
}

#[test]
fn f04_both_halves_live_on_and_find_together() {
    each_seed(6, |seed| {
        let shape = Shape::grid(4, 3);
        let mut world = settled(&shape, seed);
        let left: Vec<usize> = (0..12).filter(|host| host % 4 < 2).collect();
        let right: Vec<usize> = (0..12).filter(|host| host % 4 >= 2).collect();
        world.split(&left);
        for host in world.everyone() {
            world.rotate(host);
        }
        world.always(60 * SECOND, "each half opens its own", |world| world.all_open(&left) && world.all_open(&right));
        assert!(!world.opens(0, 3) && !world.opens(3, 0), "the other half's new keys are not known");
        assert!(left.iter().all(|&from| right.iter().all(|&to| !world.follow(from, to))), "routes across are gone");

        world.reset_traffic();
        world.heal();
        let across: Vec<usize> = (0..shape.links.len())
            .filter(|&link| shape.links[link].iter().filter(|host| left.contains(host)).count() == 1)
            .collect();
        let returned = |world: &World| {
            shape.links.iter().enumerate().filter(|(link, _)| across.contains(link)).all(|(_, members)| {
                members.iter().all(|&host| {
                    let up = world.engine(host).neighbours().iter().filter(|neighbour| neighbour.up).count();
                    up == shape.links.iter().filter(|members| members.contains(&host)).count()
                })
            })
        };
        world.eventually(10 * SECOND, "the adjacencies return", returned);
        world.eventually(3 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        world.eventually(30 * SECOND, "tables are equal", World::all_synchronised);
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);

        // 12 new keys had to cross, once per link that lacked them, perhaps by two ways at once. Old ones had not.
        let sent: u32 = world.traffic.seks.values().flat_map(|seks| seks.values()).sum();
        let links = u32::try_from(shape.links.len()).unwrap();
        assert!(sent <= 12 * links, "{sent} key objects for 12 keys over {links} links");
    });
}

#[test]
fn f04_a_link_that_flaps_leaves_equal_tables() {
    each_seed(6, |seed| {
        let mut world = settled(&Shape::line(4), seed);
        for round in 0..6u64 {
            world.cut(1);
            world.rotate(usize::try_from(round % 4).unwrap());
            world.run(Duration::from_millis(500 + 900 * ((seed + round) % 5)));
            world.heal();
            world.run(Duration::from_millis(300 + 700 * ((seed * 3 + round) % 5)));
        }
        world.eventually(15 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        world.eventually(30 * SECOND, "tables are equal", World::all_synchronised);
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    });
}

#[test]
fn f04_no_loop_ever_while_links_come_and_go() {
    each_seed(6, |seed| {
        let shape = Shape::random(10, 6, seed);
        let mut world = settled(&shape, seed);
        for round in 0..12 {
            world.heal();
            world.cut(usize::try_from((seed * 7 + round * 5) % shape.links.len() as u64).unwrap());
            // Loops are looked for every 20 ms.
            world.always(6 * SECOND, "time passes", |_| true);
        }
        world.heal();
        world.eventually(60 * SECOND, "everybody reaches everybody", World::all_reach);
    });
}
