//! `cargo xtask bench forward`: what a gateway forwards, beside kernel multicast routing on the same wires.
//!
//! Rounds are interleaved: in each, every relay has its turn at every frame size, so that whatever else the machine does
//! falls on all of them. Ratios are medians of the rounds' ratios.

mod generator;
mod relay;
mod report;
mod restart;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::machine;
use relay::{Bench, Relay};
use report::Report;

/// Destination port of every stream.
const PORT: u16 = 5004;
/// UDP payloads in bytes.
const PAYLOADS: [usize; 4] = [64, 256, 1316, 1400];

/// Runs the benchmark.
pub(crate) fn run(quick: bool, json: Option<&Path>) -> Result<ExitCode> {
    let (rounds, time) = if quick { (3, Duration::from_millis(800)) } else { (7, Duration::from_secs(2)) };
    let bench = Bench::up()?;
    let directory = bench.one.state().directory.clone();
    let mut report = Report::new(machine::describe());
    for round in 0..rounds {
        for payload_len in PAYLOADS {
            for relay in Relay::ALL {
                eprint!("\r\x1b[Kround {} of {rounds}: {} B through {}", round + 1, payload_len, relay.name());
                report.add(relay, payload_len, bench.run(relay, payload_len, time, &directory)?);
            }
        }
    }
    eprintln!("\r\x1b[Krestarting a data plane");
    report.accounting = bench.accounted()?;
    report.restart = Some(restart::measure(&bench, rounds)?);
    print!("{}", report.to_text());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report.to_json()).expect("names and numbers");
        std::fs::write(path, text + "\n").map_err(|error| Error::Io(path.display().to_string(), error))?;
    }
    Ok(if report.is_accounted() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
