//! gemctl's parts: the command line, the connection to the daemon, and how answers are shown.

pub mod client;
pub mod command;
pub mod events;
pub mod key;
pub mod kmg;
pub mod peer;
pub mod text;

use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// Version of the JSON that `-o json` prints; it grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done, and nothing is wrong.
    Healthy = 0,
    /// It did not work.
    Error = 1,
    /// The command line makes no sense (clap's own).
    Usage = 2,
    /// Done, and the gateway is degraded or halted.
    Degraded = 3,
    /// The daemon is not there.
    Unreachable = 4,
    /// Not allowed.
    NotPermitted = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not work: one line for the operator, and an exit code for scripts.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What went wrong, where, and how to fix it.
    pub message: String,
    /// The exit code.
    pub exit: Exit,
}

impl Failure {
    /// A failure.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { message: message.into(), exit }
    }
}

/// Form of the output.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Prints an answer in the chosen form.
pub fn show<T: Serialize>(form: Form, answer: &T, in_words: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        schema: u32,
        #[serde(flatten)]
        answer: &'a T,
    }

    let output = match form {
        Form::Text => text::printable_lines(&in_words(answer)),
        Form::Json => {
            let versioned = Versioned { schema: SCHEMA, answer };
            serde_json::to_string_pretty(&versioned).expect("messages have string keys") + "\n"
        }
    };
    match io::stdout().lock().write_all(output.as_bytes()) {
        // The reader has seen enough: `gemctl … | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::new(Exit::Error, format!("cannot write: {error}"))),
    }
}
