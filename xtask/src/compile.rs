//! Builds the product. Everything that runs it uses the release profile, so that one build serves demo and tests alike.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use crate::command::{cargo, run, text};
use crate::error::{Error, Result};
use crate::setup;

/// Profile of cargo.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Builds the data plane; its build script compiles the XDP program.
pub(crate) fn data_plane() -> Result<()> {
    run(cargo().args(["build", "--release", "--package", "gemcast-dataplane"]))
}

/// Sets up and builds what a lab runs, unless `GEMCAST_BIN_DIR` says where it is, as for an installed package.
pub(crate) fn for_lab() -> Result<()> {
    if env::var_os("GEMCAST_BIN_DIR").is_some() {
        return Ok(());
    }
    setup::install(setup::Scope::Build)?;
    binaries(Profile::Release)
}

/// Builds every binary of the product, and the one that carries frames in the lab.
pub(crate) fn binaries(profile: Profile) -> Result<()> {
    let profile = match profile {
        Profile::Dev => "dev",
        Profile::Release => "release",
    };
    let packages = ["--package", "gemcast-control", "--package", "gemcast-dataplane", "--package", "gemcast-tests"];
    run(cargo().args(["build", "--bins", "--profile", profile]).args(packages))
}

/// Builds and runs the benchmarks. They are a program of their own because they link with libbpf, and this one has to build
/// on a machine that has nothing yet.
pub(crate) fn bench(arguments: &[OsString]) -> Result<ExitCode> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "gemcast-bench", "--"]).args(arguments);
    let status = command.status().map_err(|error| Error::Io(text(&command), error))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
