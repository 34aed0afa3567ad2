//! Fuzzing, a minute of it: every target for its share, from the corpus in the tree and what earlier runs found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::command::{cargo, root, run, text};
use crate::error::{Error, Result};

/// All targets together.
const TIME: Duration = Duration::from_secs(60);
/// The target that takes a thousand times longer for an input than the others, and so gets four times their share.
const SLOW: &str = "engine";
/// The package, as seen from the workspace's root.
const PACKAGE: &str = "tests/fuzz";
/// libFuzzer's instrumentation without a sanitizer: that is all a stable compiler has, and the code that is fuzzed holds
/// no `unsafe`.
const BUILD: [&str; 4] = ["--fuzz-dir", PACKAGE, "--sanitizer", "none"];

/// What became of one target.
pub(crate) struct Fuzzed {
    pub(crate) target: String,
    /// Inputs it was run with.
    pub(crate) executions: u64,
    pub(crate) failed: bool,
}

/// What became of all.
pub(crate) struct Report {
    /// Repeats the run, as far as the machine's speed lets it.
    pub(crate) seed: u32,
    pub(crate) targets: Vec<Fuzzed>,
}

/// Builds the targets, then runs each.
pub(crate) fn all() -> Result<Report> {
    run(cargo().args(["fuzz", "build"]).args(BUILD))?;
    let targets = targets()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // libFuzzer takes 0 for "draw one".
    let seed = now.subsec_nanos() | 1;
    let weight = |target: &str| if target == SLOW { 4 } else { 1 };
    let weights: u64 = targets.iter().map(|target| weight(target)).sum();
    let share = |target: &str| TIME.as_secs() * weight(target) / weights.max(1);
    let targets = targets.iter().map(|target| one(target, seed, share(target))).collect::<Result<_>>()?;
    Ok(Report { seed, targets })
}

/// Each target has a corpus of its name.
fn targets() -> Result<Vec<String>> {
    let corpus = root().join(PACKAGE).join("corpus");
    let io = |error| Error::Io(corpus.display().to_string(), error);
    let entries = fs::read_dir(&corpus).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(io)?;
    let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn one(target: &str, seed: u32, seconds: u64) -> Result<Fuzzed> {
    // What is found goes where builds go; the corpus in the tree stays as it is.
    let found = directory("corpus", target)?;
    let failed = directory("failed", target)?;
    let mut command = cargo();
    command.args(["fuzz", "run"]).args(BUILD).arg(target).arg(&found);
    command.arg(root().join(PACKAGE).join("corpus").join(target)).arg("--");
    command.args([format!("-seed={seed}"), format!("-max_total_time={seconds}")]);
    command.args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=1024"]);
    command.arg(format!("-artifact_prefix={}/", failed.display()));
    let output = output(&mut command)?;
    let log = String::from_utf8_lossy(&output.stderr);
    let executions = executions(&log).unwrap_or(0);
    // A target that ran nothing has tested nothing.
    let failed = !output.status.success() || executions == 0;
    if failed {
        let lines: Vec<_> = log.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
    }
    println!(
        "fuzzed {target}: {executions} executions in {seconds} s, seed {seed}{}",
        if failed { ": FAILED" } else { "" }
    );
    Ok(Fuzzed { target: target.into(), executions, failed })
}

fn directory(what: &str, target: &str) -> Result<PathBuf> {
    let path = Path::new("target/fuzz").join(what).join(target);
    let path = root().join(path);
    fs::create_dir_all(&path).map_err(|error| Error::Io(path.display().to_string(), error))?;
    Ok(path)
}

fn output(command: &mut Command) -> Result<std::process::Output> {
    command.stdin(Stdio::null()).output().map_err(|error| Error::Io(text(command), error))
}

/// From libFuzzer's final statistics.
fn executions(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_final_statistics() {
        let log = "Done 12345 runs in 12 second(s)\nstat::number_of_executed_units: 12345\nstat::peak_rss_mb: 40\n";
        assert_eq!(executions(log), Some(12_345));
        assert_eq!(executions("panicked"), None);
    }
}
