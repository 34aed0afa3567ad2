//! `cargo xtask`: everything a developer does with the checkout. Each command first sets up what it needs.

mod chaos;
mod command;
mod compile;
mod demo;
mod error;
mod fault;
mod fuzz;
mod lab;
mod setup;
mod test;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;

/// Setup, build, lab, demo and tests of gemcast.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find and install what the other commands need.
    Setup,
    /// Build the data plane, and with it the XDP program.
    Ebpf,
    /// Build the daemons and gemctl.
    Build {
        /// Optimised, as everything that runs them wants it.
        #[arg(long)]
        release: bool,
    },
    /// Raise, inspect and remove networks of gateways and hosts in network namespaces.
    #[command(subcommand)]
    Lab(lab::Task),
    /// Random faults against three gateways with streams on, and whether everything that must hold does.
    Chaos(chaos::Arguments),
    /// Show encrypted multicast at work between two gateways, and check it.
    Demo {
        /// Write the results to this file too.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How long to send.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(15..=86_400))]
        seconds: u64,
    },
    /// Measure gemcast beside other software on this machine; `bench --help` lists what.
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Format, lints, documentation, licences, unit tests, a minute of fuzzing, and lab tests.
    Test {
        /// Only what needs neither root nor minutes: format, lints, unit tests.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::install(setup::Scope::Everything)?,
        Task::Ebpf => {
            setup::install(setup::Scope::Build)?;
            compile::data_plane()?;
        }
        Task::Build { release } => {
            setup::install(setup::Scope::Build)?;
            compile::binaries(if release { compile::Profile::Release } else { compile::Profile::Dev })?;
        }
        Task::Lab(task) => return lab::run(task),
        Task::Chaos(arguments) => return chaos::run(arguments),
        Task::Demo { json, seconds } => return demo::run(json.as_deref(), seconds),
        Task::Bench { arguments } => {
            compile::for_lab()?;
            setup::packages(&setup::BENCH_PACKAGES)?;
            return compile::bench(&arguments);
        }
        Task::Test { quick } => return test::run(quick),
    }
    Ok(ExitCode::SUCCESS)
}
