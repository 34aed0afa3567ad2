//! `cargo xtask chaos`: random faults against a lab, and whether everything that must hold did.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use gemcast_lab::Chaos;

use crate::compile;
use crate::error::Result;

/// What to run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// No new faults after this; what is under way is finished.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Everything random follows from it; another one each time when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the result and the timeline as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(Arguments { seconds, seed, json }: Arguments) -> Result<ExitCode> {
    compile::for_lab()?;
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ gemcast_lab::monotonic_ns() >> 10);
    eprintln!("three gateways, streams from every host to every other, seed {seed}");
    let chaos = Chaos { seed, lasts: Duration::from_secs(seconds), instance: "chaos".into() };
    let report = chaos.run(&mut |event| eprintln!("{event}"))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report has string keys only"));
    } else {
        println!("{} faults in {} rounds; {} packets sent", report.faults, report.rounds, report.sent);
        println!("{} received, {} sealed on the wire", report.delivered, report.sealed);
        if report.missed > 0 {
            println!("{} frames on the wire were not looked at: the machine was too busy", report.missed);
        }
        println!("slowest recovery: {} ms after the last fault", report.slowest_recovery_ms);
        report.violations.iter().for_each(|violation| println!("VIOLATED: {violation}"));
        println!("again: cargo xtask chaos --seed {seed} --seconds {seconds}");
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
