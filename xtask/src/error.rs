//! Why a task failed.

use std::process::ExitStatus;

/// Result of a task.
pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Lab(#[from] gemcast_lab::Error),
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    #[error("`{command}` failed: {status}")]
    Command { command: String, status: ExitStatus },
    #[error("{missing}; as root, run:\n  {fix}")]
    Privilege { missing: String, fix: String },
    #[error("{missing}; this is no Debian machine: install what corresponds to\n  {fix}")]
    NotDebian { missing: String, fix: String },
}
