//! `cargo xtask bench babel`: what the control plane costs. gemcastd and Debian's babeld take turns at one place, with
//! the same four neighbours, which all announce the same routes; then gemcastd alone with 10,000 objects besides. Objects
//! per second, control traffic and convergence are measured without sockets.

mod objects;
mod report;
mod router;
mod site;
mod speaker;
mod traffic;

pub(crate) use objects::{End, Rates, measure as objects, taken_in_by};

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::machine;
use report::Report;
use router::Make;
use site::Site;

/// Neighbours of the router under test.
const NEIGHBOURS: usize = 4;
/// Interval of periodic updates, of every router here.
const UPDATE_INTERVAL: Duration = Duration::from_secs(4);

/// What every neighbour announces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    routes: u32,
    /// Groups that it makes a key for, each a SEK object.
    groups: u32,
}

impl Load {
    /// Those that the turns are about; babeld has no objects.
    const ALL: [Self; 3] =
        [Self { routes: 1_000, groups: 0 }, Self { routes: 10_000, groups: 0 }, Self { routes: 10_000, groups: 2_500 }];

    /// SEK objects of all neighbours.
    fn objects(self) -> u32 {
        self.groups * NEIGHBOURS as u32
    }

    fn routers(self) -> &'static [Make] {
        if self.groups == 0 { &[Make::Gemcastd, Make::Babeld] } else { &[Make::Gemcastd] }
    }
}

/// How much is measured.
struct Extent {
    /// Turns of each router with each load.
    turns: usize,
    /// Update intervals of each turn, for the CPU time.
    intervals: u32,
    /// Columns and rows of the simulated grids.
    grids: &'static [(usize, usize)],
    /// Simulated link cuts.
    cuts: u64,
}

const FULL: Extent = Extent { turns: 3, intervals: 5, grids: &[(5, 2), (10, 10), (40, 25)], cuts: 40 };
const QUICK: Extent = Extent { turns: 1, intervals: 3, grids: &[(5, 2), (10, 10)], cuts: 20 };

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
    for load in Load::ALL {
        let Load { routes, groups } = load;
        site.configure(groups)?;
        let neighbours = site.neighbours(load)?;
        for turn in 1..=extent.turns {
            for &make in load.routers() {
                let objects = load.objects();
                progress(&format!(
                    "{routes} routes, {objects} objects, turn {turn} of {}: {}",
                    extent.turns,
                    make.name()
                ));
                report.add(make, load, site.turn(make, load, &neighbours, extent.intervals)?);
            }
        }
    }
    progress("");
    print!("{}", report.to_text());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report.to_json()).expect("names and numbers");
        std::fs::write(path, text + "\n").map_err(|error| Error::Io(path.display().to_string(), error))?;
    }
    Ok(ExitCode::SUCCESS)
}
