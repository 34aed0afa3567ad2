//! F36: several gateways on one LAN. Exactly one forwards a group, whatever the network between them does; when two do,
//! because they do not hear of each other, what is seen on the LAN ends it. F10: when it dies, another one takes over.

use core::time::Duration;
use gemcast_engine::output::Event;
use gemcast_lab::simulator::{Faults, Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

/// A network in which these share a LAN, with one forwarder.
fn shared(shape: &Shape, seed: u64, lan: &[usize]) -> World {
    let mut world = World::new(shape, seed);
    world.share_lan(lan);
    world.start();
    world.eventually(30 * SECOND, "one forwarder", |world| world.forwarders().len() == 1);
    world
}

#[test]
fn f10_the_next_takes_over_and_never_do_two_forward() {
    each_seed(6, |seed| {
        let mut world = shared(&Shape::segment(5), seed, &[0, 1, 2]);
        // Each goes once, whoever forwards then.
        for _ in 0..3 {
            let forwarder = world.forwarders()[0];
            world.crash(forwarder);
            let took = world.eventually(10 * SECOND, "another forwarder", |world| world.forwarders().len() == 1);
            assert!(took >= SECOND, "nobody can know so soon: {took:?}");
            world.start_host(forwarder);
            world.always(30 * SECOND, "at most one forwards", |world| world.forwarders().len() <= 1);
            assert_eq!(world.forwarders().len(), 1);
        }
    });
}

#[test]
fn f36_where_loss_makes_one_look_dead_the_lan_tells_better() {
    each_seed(6, |seed| {
        let mut world = World::new(&Shape::segment(5), seed);
        world.faults_everywhere(Faults::loss(10));
        world.share_lan(&[0, 1, 2]);
        world.start();
        world.eventually(60 * SECOND, "one forwarder", |world| world.forwarders().len() == 1);
        for _ in 0..300 {
            world.run(SECOND);
            world.hear_on_lan();
            assert!(world.forwarders().len() <= 1, "{:?} forward at {:?}", world.forwarders(), world.now());
        }
    });
}

#[test]
fn f36_gateways_that_started_apart_and_share_a_lan_become_one_forwarder() {
    each_seed(6, |seed| {
        // 0 – 1 – 2 – 3, and the ends share a LAN. In the middle the network is cut before anybody knows anybody.
        let mut world = World::new(&Shape::line(4), seed);
        world.share_lan(&[0, 3]);
        world.cut(1);
        world.start();
        world.eventually(30 * SECOND, "each thinks it is alone", |world| world.forwarders().len() == 2);
        world.heal();
        world.eventually(30 * SECOND, "one forwarder", |world| world.forwarders().len() == 1);
        world.always(30 * SECOND, "and it stays so", |world| world.forwarders().len() == 1);
    });
}

#[test]
fn f36_a_split_network_with_a_whole_lan_is_noticed_there() {
    each_seed(6, |seed| {
        let mut world = shared(&Shape::line(4), seed, &[0, 3]);
        world.cut(1);
        let twice = |world: &World| world.forwarders().len() == 2;
        world.eventually(60 * SECOND, "each thinks the other is dead", twice);
        world.hear_on_lan();
        assert_eq!(world.forwarders().len(), 1, "one of the two stands by as soon as it hears the other");
        let alarmed = |host: usize| {
            let other = world.id(3 - host);
            world.hosts[host].events.contains(&Event::ForwarderConflict { node: other })
        };
        assert!(alarmed(0) && alarmed(3));
        for _ in 0..20 {
            world.always(SECOND, "one forwards", |world| world.forwarders().len() == 1);
            world.hear_on_lan();
        }
        world.heal();
        world.always(60 * SECOND, "one forwards", |world| world.forwarders().len() == 1);
    });
}
