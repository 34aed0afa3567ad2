//! `cargo xtask bench babel`: what the control plane costs. gemcastd and Debian's babeld take turns at one place, with
//! the same four neighbours that announce 10,000 routes each; then gemcastd alone with 10,000 objects besides. Objects
//! per second, control traffic and convergence are measured without sockets.

mod objects;
mod report;
mod router;
mod site;
mod speaker;
mod traffic;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::machine;
use report::Report;
use router::Make;
use site::Site;

/// Routes that every neighbour announces.
const ROUTES: u32 = 10_000;
/// Neighbours of the router under test.
const NEIGHBOURS: usize = 4;
/// Groups that every neighbour makes a key for, so that there are 10,000 SEK objects.
const GROUPS: u32 = 2_500;
/// Interval of periodic updates, of every router here.
const UPDATE_INTERVAL: Duration = Duration::from_secs(4);

/// How much is measured.
struct Extent {
    /// Turns of each router.
    turns: usize,
    /// Update intervals of each turn, for the CPU time.
    intervals: u32,
    /// Turns of gemcastd with objects.
    object_turns: usize,
    /// Columns and rows of the simulated grids.
    grids: &'static [(usize, usize)],
    /// Simulated link cuts.
    cuts: u64,
}

const FULL: Extent = Extent { turns: 5, intervals: 5, object_turns: 3, grids: &[(5, 2), (10, 10), (40, 25)], cuts: 40 };
const QUICK: Extent = Extent { turns: 2, intervals: 3, object_turns: 1, grids: &[(5, 2), (10, 10)], cuts: 20 };

/// Runs the benchmark.
pub(crate) fn run(quick: bool, json: Option<&Path>) -> Result<ExitCode> {
    let extent = if quick { QUICK } else { FULL };
    let mut report = Report::new(machine::describe());
    let progress = |what: &str| eprint!("\r\x1b[K{what}");
    progress("objects in one process");
    report.objects = Some(objects::measure(if quick { 3 } else { 7 }));
    for &(columns, rows) in extent.grids {
        progress(&format!("control traffic of {} gateways", columns * rows));
        report.traffic.push(traffic::measure(columns, rows));
    }
    progress("convergence after a cut");
    report.cuts = traffic::cuts(extent.cuts);

    let site = Site::up()?;
    let neighbours = site.neighbours(0)?;
    for turn in 0..extent.turns {
        for make in [Make::Gemcastd, Make::Babeld] {
            progress(&format!("turn {} of {}: {} with {ROUTES} routes", turn + 1, extent.turns, make.name()));
            report.add(make, false, site.turn(make, &neighbours, extent.intervals)?);
        }
    }
    drop(neighbours);
    site.configure(GROUPS)?;
    let neighbours = site.neighbours(GROUPS)?;
    for turn in 0..extent.object_turns {
        progress(&format!("turn {} of {}: gemcastd with objects too", turn + 1, extent.object_turns));
        report.add(Make::Gemcastd, true, site.turn(Make::Gemcastd, &neighbours, extent.intervals)?);
    }
    progress("");
    print!("{}", report.to_text());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report.to_json()).expect("names and numbers");
        std::fs::write(path, text + "\n").map_err(|error| Error::Io(path.display().to_string(), error))?;
    }
    Ok(ExitCode::SUCCESS)
}
