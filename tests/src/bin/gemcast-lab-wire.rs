//! Carries the frames of one faulty segment of a lab. Started by the lab, with its configuration as the only argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    let configuration = std::env::args().nth(1).unwrap_or_default();
    match gemcast_lab::run_wire(&configuration) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
