//! `cargo xtask bench`: the benchmarks. xtask installs and builds what they run, then starts this.

mod babel;
mod error;
mod forward;
mod keys;
mod machine;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measure gemcast beside other software, on this machine.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    subject: Option<Subject>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
struct Options {
    /// Fewer and shorter rounds: under three minutes.
    #[arg(long, global = true)]
    quick: bool,
    /// Write the results to this file too.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Subcommand)]
enum Subject {
    /// What a gateway forwards, beside kernel multicast routing on the same wires. The default.
    Forward,
    /// What the control plane costs, beside babeld: large tables, control traffic, convergence.
    Babel,
    /// What the life of keys costs: objects verified, rotations, time from announcement to map.
    Keys,
}

fn main() -> ExitCode {
    let Arguments { subject, options } = Arguments::parse();
    let outcome = match subject.unwrap_or(Subject::Forward) {
        Subject::Forward => forward::run(options.quick, options.json.as_deref()),
        Subject::Babel => babel::run(options.quick, options.json.as_deref()),
        Subject::Keys => keys::run(options.quick, options.json.as_deref()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
