//! F43: broadcast does not scale, so announcements are batched and differences travel, not tables: control traffic per
//! gateway is bounded by what there is to say, not by how many say it.

use core::time::Duration;
use gemcast_lab::simulator::{Shape, World, control_traffic, convergence_after_cut, each_seed};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn f43_traffic_per_gateway_grows_with_what_there_is_to_say_and_no_faster() {
    each_seed(1, |seed| {
        let (small, large) = (control_traffic(3, 3, seed), control_traffic(8, 8, seed));
        println!("{small:?}\n{large:?}");
        assert_eq!((small.idle_objects, large.idle_objects), (0, 0), "nothing new, so no object travels");
        // Seven times the hosts, seven times the routes and keys; links per host grow from 2.7 to 3.5, and a table that
        // takes longer to agree upon lets more repetitions out. Everybody telling everybody would be fifty times.
        assert!(large.idle_bytes_per_s < small.idle_bytes_per_s * 7.1 * 1.4);
        assert!(large.rotation_bytes < small.rotation_bytes * 7.1 * 2.0);
    });
}

#[test]
fn f43_a_cut_link_is_routed_around_in_seconds() {
    let times = convergence_after_cut(4, 4, 8);
    println!("{times:?}");
    // Two of three Hellos have to be missed, then updates travel.
    assert!(times.iter().all(|&time| time < 5 * SECOND), "{times:?}");
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
