//! What can go wrong in the lab, said so that the reader can act on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of an operation on the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, veth pairs and XDP need root.
    #[error("the lab makes network namespaces and loads XDP programs: run it as root (this is user id {0})")]
    NotRoot(u32),
    /// A program the lab is built with is missing.
    #[error("`{0}` is not installed; `cargo xtask setup` installs what is missing")]
    NoTool(&'static str),
    /// The daemons have not been built.
    #[error("no `{binary}` in {}; `cargo xtask build --release` builds it", .looked_in.display())]
    NoBinary {
        /// Name of the binary.
        binary: &'static str,
        /// Where it should be.
        looked_in: PathBuf,
    },
    /// A lab of this instance exists.
    #[error("lab `{0}` is up already; `cargo xtask lab down --instance {0}` removes it")]
    AlreadyUp(String),
    /// No lab of this instance exists.
    #[error("no lab `{0}` is up; `cargo xtask lab up --instance {0}` raises one")]
    NotUp(String),
    /// An instance or host name that cannot be used.
    #[error("`{0}` is no usable name: expected 1 to 32 letters, digits, `-` or `_`")]
    BadName(String),
    /// The topology has no such host.
    #[error("no host `{name}` in this lab; there are {known}")]
    NoHost {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The topology has no such segment.
    #[error("no segment `{name}` in this topology; there are {known}")]
    NoSegment {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The host has no such interface.
    #[error("no interface `{interface}` in {host}; there are {known}")]
    NoInterface {
        /// The host.
        host: String,
        /// The interface asked for.
        interface: String,
        /// The interfaces there are.
        known: String,
    },
    /// The segment's links do only good.
    #[error(
        "the links of segment `{segment}` are ordinary ones: raise the lab with it as a faulty one; such are: {known}"
    )]
    NoFaultySegment {
        /// The segment asked for.
        segment: String,
        /// Those that can.
        known: String,
    },
    /// No such topology.
    #[error("no topology `{0}`; there are pair, trio, line and dual")]
    NoTopology(String),
    /// A command failed.
    #[error("{command}: {outcome}\n{stderr}")]
    Command {
        /// The command, as a person would type it.
        command: String,
        /// Its exit status.
        outcome: String,
        /// What it wrote to its standard error.
        stderr: String,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it was refused.
        source: std::io::Error,
    },
    /// Output or a file that is not what it should be.
    #[error("{what}: {reason}")]
    Unreadable {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something awaited did not happen.
    #[error("waited {waited:?} in vain: {what}")]
    Timeout {
        /// What was awaited, and what was seen instead.
        what: String,
        /// For how long.
        waited: Duration,
    },
    /// A daemon ended although it should run.
    #[error("{daemon} of gateway {gateway} ended by itself; the end of {}:\n{tail}", .log.display())]
    DaemonEnded {
        /// Which one.
        daemon: &'static str,
        /// Of which gateway.
        gateway: String,
        /// Its log file.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
}

impl Error {
    /// An operating system error, with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether the operating system says that a device is down or away.
    pub(crate) fn is_gone(&self) -> bool {
        let gone = [libc::ENETDOWN, libc::ENXIO, libc::ENODEV, libc::EBADF];
        matches!(self, Self::Io { source, .. } if source.raw_os_error().is_some_and(|code| gone.contains(&code)))
    }

    /// An operating system error about a file.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        Self::io(path.display().to_string())
    }
}
