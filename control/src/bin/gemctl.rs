//! gemctl: the operator's command line of a gemcast gateway.

use clap::Parser;
use gemcast_control::ctl::command::{Arguments, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("gemctl: {failure}");
            failure.exit.into()
        }
    }
}
