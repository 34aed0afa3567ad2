//! F43: broadcast does not scale, so announcements are batched and differences travel, not tables: control traffic per
//! gateway is bounded by what there is to say, not by how many say it.

use core::time::Duration;
use gemcast_lab::simulator::{Shape, World, each_seed};

const SECOND: Duration = Duration::from_secs(1);

/// Bytes a host sends per second when nothing happens, and bytes per host that one rotation of everybody costs.
fn measure(columns: usize, rows: usize, seed: u64) -> (f64, f64) {
    let shape = Shape::grid(columns, rows);
    let hosts = shape.hosts as f64;
    let mut world = World::new(&shape, seed);
    world.watch_loops = false; // looking is quadratic
    world.start();
    world.eventually(60 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
    world.eventually(60 * SECOND, "tables are equal", World::all_synchronised);
    world.run(20 * SECOND);
    world.reset_traffic();
    world.run(40 * SECOND);
    let idle = world.traffic.bytes as f64 / hosts / 40.0;
    assert_eq!(world.traffic.objects, 0, "nothing new, so no object travels");
    world.reset_traffic();
    for host in 0..shape.hosts {
        world.rotate(host);
    }
    world.run(20 * SECOND);
    let churn = world.traffic.bytes as f64 / hosts - idle * 20.0;
    (idle, churn)
}

#[test]
fn f43_traffic_per_gateway_grows_with_what_there_is_to_say_and_no_faster() {
    each_seed(1, |seed| {
        let (small_idle, small_churn) = measure(3, 3, seed);
        let (large_idle, large_churn) = measure(8, 8, seed);
        println!("9 hosts: {small_idle:.0} B/s idle, {small_churn:.0} B per rotation of all");
        println!("64 hosts: {large_idle:.0} B/s idle, {large_churn:.0} B per rotation of all");
        // Seven times the hosts, seven times the routes and keys; links per host grow from 2.7 to 3.5, and a table that
        // takes longer to agree upon lets more repetitions out. Everybody telling everybody would be fifty times.
        assert!(large_idle < small_idle * 7.1 * 1.4, "idle: {small_idle:.0} → {large_idle:.0} B/s");
        assert!(large_churn < small_churn * 7.1 * 2.0, "churn: {small_churn:.0} → {large_churn:.0} B");
    });
}

#[test]
fn f43_sixty_gateways_on_one_segment_agree() {
    each_seed(1, |seed| {
        let mut world = World::new(&Shape::segment(60), seed);
        world.watch_loops = false;
        world.start();
        world.eventually(30 * SECOND, "everybody opens everything", |world| world.all_open(&world.everyone()));
        world.eventually(30 * SECOND, "tables are equal", World::all_synchronised);
        world.run(5 * SECOND);
        world.reset_traffic();
        world.rotate(7);
        world.run(10 * SECOND);
        // One multicast, repeated twice at most: nobody repeats what the whole segment heard.
        assert!(world.traffic.objects <= 3, "{} transmissions of one object", world.traffic.objects);
    });
}
