//! Figures from the simulator, for tests and for the benchmark: what the control plane costs, how fast it converges.

use super::{Shape, World};
use core::time::Duration;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Control traffic of a grid in which every gateway is a member and announces one prefix.
#[derive(Clone, Copy, Debug)]
pub struct ControlTraffic {
    /// Gateways.
    pub hosts: usize,
    /// GEM objects known everywhere: one NODE and one SEK each.
    pub objects: usize,
    /// Time from the start of all to everybody opening everything.
    pub cold_start: Duration,
    /// Bytes that a gateway sends per second when nothing happens, without UDP and IP headers.
    pub idle_bytes_per_s: f64,
    /// Bytes that a gateway sends because every gateway makes a new key.
    pub rotation_bytes: f64,
    /// Objects sent while nothing happened.
    pub idle_objects: u64,
}

/// Measures the control traffic of a grid.
///
/// # Panics
/// When it does not converge within two minutes of its own time.
pub fn control_traffic(columns: usize, rows: usize, seed: u64) -> ControlTraffic {
    const IDLE: Duration = Duration::from_secs(40);
    const AFTER_ROTATION: Duration = Duration::from_secs(20);
    let shape = Shape::grid(columns, rows);
    let per_host = |bytes: u64| bytes as f64 / shape.hosts as f64;
    let mut world = World::new(&shape, seed);
    world.watch_loops = false; // looking is quadratic
    world.start();
    let limit = Duration::from_secs(120);
    let start = world.now();
    world.eventually(limit, "tables are equal", |world| {
        world.all_synchronised() && world.engine(0).nodes().len() == shape.hosts
    });
    world.eventually(limit, "everybody opens everything", |world| world.all_open(&world.everyone()));
    let cold_start = world.now() - start;
    world.run(Duration::from_secs(20));

    world.reset_traffic();
    world.run(IDLE);
    let idle_bytes_per_s = per_host(world.traffic.bytes) / IDLE.as_secs_f64();
    let idle_objects = world.traffic.objects;

    world.reset_traffic();
    for host in 0..shape.hosts {
        world.rotate(host);
    }
    world.run(AFTER_ROTATION);
    let rotation_bytes = per_host(world.traffic.bytes) - idle_bytes_per_s * AFTER_ROTATION.as_secs_f64();
    let objects = 2 * shape.hosts;
    ControlTraffic { hosts: shape.hosts, objects, cold_start, idle_bytes_per_s, rotation_bytes, idle_objects }
}

/// Times from the cut of a random link of a grid to everybody reaching everybody again, one per seed, ascending.
///
/// # Panics
/// When a world does not converge within two minutes of its own time.
pub fn convergence_after_cut(columns: usize, rows: usize, seeds: u64) -> Vec<Duration> {
    let shape = Shape::grid(columns, rows);
    let limit = Duration::from_secs(120);
    let one = |seed: u64| {
        let mut world = World::new(&shape, seed);
        world.watch_loops = false;
        world.start();
        world.eventually(limit, "everybody reaches everybody", World::all_reach);
        world.run(Duration::from_secs(30));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let link = usize::try_from(rng.next_u64() % shape.links.len() as u64).expect("below a usize");
        world.run(Duration::from_micros(rng.next_u64() % 1_000_000));
        world.cut(link);
        world.eventually(limit, "routes lead around the cut", |world| world.all_reach_without(link))
    };
    let mut times: Vec<_> = (0..seeds).map(one).collect();
    times.sort_unstable();
    times
}
