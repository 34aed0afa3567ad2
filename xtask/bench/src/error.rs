//! Why a benchmark failed.

use std::process::ExitStatus;

/// Result of a benchmark.
pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Lab(#[from] gemcast_lab::Error),
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    #[error("{0} did not happen within {1} s")]
    Late(&'static str, u64),
    #[error("compiling {program} with clang failed: {status}")]
    Compile { program: String, status: ExitStatus },
}
