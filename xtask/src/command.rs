//! Runs programs: by name, with their output shown, failing when they fail.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// The workspace's root directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where `cargo install` puts binaries.
pub(crate) fn cargo_bin() -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    home.unwrap_or_else(|| "/root/.cargo".into()).join("bin")
}

/// Where a program is: in cargo's own directory or on the path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(cargo_bin()).chain(env::split_paths(&path));
    places.find(|place| place.join(program).is_file()).map(|place| place.join(program))
}

/// Runs a command with its output shown, on standard error; it must succeed. Standard output is the task's own.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(std::io::stderr()).status().map_err(|error| Error::Io(text(command), error))?;
    if status.success() { Ok(()) } else { Err(Error::Command { command: text(command), status }) }
}

/// Runs a command and returns what it printed; nothing, when it fails or is missing.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as a person would type it.
pub(crate) fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
