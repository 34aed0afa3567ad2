//! Builds the product. Everything that runs it uses the release profile, so that one build serves demo and tests alike.

use crate::command::{cargo, run};
use crate::error::Result;

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

/// Builds every binary of the workspace.
pub(crate) fn binaries(profile: Profile) -> Result<()> {
    let profile = match profile {
        Profile::Dev => "dev",
        Profile::Release => "release",
    };
    let packages = ["--package", "gemcast-control", "--package", "gemcast-dataplane"];
    run(cargo().args(["build", "--bins", "--profile", profile]).args(packages))
}
