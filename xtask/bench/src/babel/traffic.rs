//! Figures of the simulator: it has a virtual clock, so they are the same on every machine.

use std::time::Duration;

use gemcast_lab::simulator::{ControlTraffic, control_traffic, convergence_after_cut};
use serde::Serialize;

use crate::statistics::quantile;

/// Seed of the grids whose traffic is counted.
const SEED: u64 = 1;
/// Columns and rows of the grid that links are cut in.
const CUT_GRID: (usize, usize) = (5, 5);

/// Control traffic of a grid in which every gateway is a member and announces a prefix.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Traffic {
    pub(crate) gateways: usize,
    pub(crate) objects: usize,
    /// From the start of all to everybody opening everything.
    pub(crate) cold_start_s: f64,
    /// Sent by each gateway when nothing happens.
    pub(crate) idle_bytes_per_s: f64,
    /// Sent by each gateway because every gateway makes a new key.
    pub(crate) rotation_bytes: f64,
}

pub(crate) fn measure(columns: usize, rows: usize) -> Traffic {
    let ControlTraffic { hosts, objects, cold_start, idle_bytes_per_s, rotation_bytes, .. } =
        control_traffic(columns, rows, SEED);
    let cold_start_s = cold_start.as_secs_f64();
    Traffic { gateways: hosts, objects, cold_start_s, idle_bytes_per_s, rotation_bytes }
}

/// Times until everybody is reached again after a link is cut, one cut per seed.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Cuts {
    pub(crate) gateways: usize,
    pub(crate) seeds: usize,
    pub(crate) p50_s: f64,
    pub(crate) p99_s: f64,
}

pub(crate) fn cuts(seeds: u64) -> Cuts {
    let (columns, rows) = CUT_GRID;
    let times: Vec<_> = convergence_after_cut(columns, rows, seeds).iter().map(Duration::as_secs_f64).collect();
    let (p50_s, p99_s) = (quantile(&times, 0.5), quantile(&times, 0.99));
    Cuts { gateways: columns * rows, seeds: times.len(), p50_s, p99_s }
}
