//! `cargo xtask test`: every check there is, one after the other, one summary at the end.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::command::{cargo, run as execute, text};
use crate::compile::{Profile, binaries};
use crate::error::{Error, Result};
use crate::{fuzz, setup};

/// How a stage ended.
struct Stage {
    name: &'static str,
    took: Duration,
    passed: u64,
    failed: u64,
    /// What else the summary tells, line by line.
    notes: Vec<String>,
}

/// Tests counted from the harness's own summaries.
#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    notes: Vec<String>,
}

impl Count {
    fn one() -> Self {
        Self { passed: 1, ..Self::default() }
    }
}

/// Runs everything; `quick` leaves out what needs root or minutes.
pub(crate) fn run(quick: bool) -> Result<ExitCode> {
    setup::install(if quick { setup::Scope::Build } else { setup::Scope::Everything })?;
    let mut stages = vec![
        stage("format", || check(cargo().args(["fmt", "--all", "--check"]))),
        stage("build", || binaries(Profile::Release).map(|()| Count::one())),
        // Warnings are errors here; in the release profile, so that build scripts are not built and run twice.
        stage("clippy", || {
            check(cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--", "-Dwarnings"]))
        }),
    ];
    if !quick {
        stages.push(stage("rustdoc", || {
            let arguments = ["doc", "--release", "--workspace", "--no-deps", "--document-private-items"];
            check(cargo().args(arguments).env("RUSTDOCFLAGS", "-Dwarnings"))
        }));
        stages.push(stage("licences, bans, sources", || {
            eprintln!("advisories are not checked: their database cannot be fetched here");
            check(cargo().args(["deny", "--log-level", "warn", "check", "licenses", "bans", "sources"]))
        }));
    }
    stages.push(stage("unit and property tests", || {
        let without = ["--exclude", "gemcast-tests", "--exclude", "xtask"];
        tests(cargo().args(["test", "--release", "--workspace", "--no-fail-fast"]).args(without))
    }));
    if !quick {
        stages.push(stage("fuzzing", fuzzing));
        stages.push(stage("lab tests", || {
            let arguments = ["test", "--release", "--no-fail-fast", "--package", "gemcast-tests", "--package", "xtask"];
            tests(cargo().args(arguments).args(["--", "--test-threads=1"]))
        }));
    }
    Ok(summarise(&stages))
}

fn stage(name: &'static str, work: impl FnOnce() -> Result<Count>) -> Stage {
    eprintln!("\n== {name}");
    let start = Instant::now();
    // A stage that ends in an error without a failed test, as a build does, counts as one.
    let count = work().unwrap_or_else(|error| {
        eprintln!("{error}");
        Count { failed: 1, ..Count::default() }
    });
    Stage { name, took: start.elapsed(), passed: count.passed, failed: count.failed, notes: count.notes }
}

fn check(command: &mut Command) -> Result<Count> {
    execute(command).map(|()| Count::one())
}

/// Each target counts as a test.
fn fuzzing() -> Result<Count> {
    let fuzz::Report { seed, targets } = fuzz::all()?;
    let failed = targets.iter().filter(|target| target.failed).count() as u64;
    let told = targets.iter().map(|one| format!("{} {}", one.target, one.executions)).collect::<Vec<_>>().join(", ");
    let notes = vec![format!("executions: {told}"), format!("seed: {seed}")];
    Ok(Count { passed: targets.len() as u64 - failed, failed, notes })
}

/// Runs tests and shows their output while counting.
fn tests(command: &mut Command) -> Result<Count> {
    let io = |error| Error::Io("running tests".into(), error);
    let mut child = command
        .stdout(Stdio::piped())
        .env("RUST_BACKTRACE", env::var_os("RUST_BACKTRACE").unwrap_or_else(|| "0".into()))
        .spawn()
        .map_err(|error| Error::Io(text(command), error))?;
    let mut count = Count::default();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        let line = line.map_err(io)?;
        println!("{line}");
        if let Some((passed, failed)) = totals(&line) {
            count.passed += passed;
            count.failed += failed;
        }
    }
    let status = child.wait().map_err(io)?;
    if !status.success() && count.failed == 0 {
        // A test program that did not compile, or that ended before it could sum up.
        count.failed = 1;
    }
    Ok(count)
}

/// Passed and failed from `test result: ok. 12 passed; 0 failed; …`.
fn totals(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |unit: &str| {
        let part = rest.split([';', '.']).map(str::trim).find(|part| part.ends_with(unit))?;
        part.strip_suffix(unit)?.trim().parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

fn summarise(stages: &[Stage]) -> ExitCode {
    println!("\n{:<28}{:>9}  result", "stage", "time");
    for Stage { name, took, passed, failed, notes } in stages {
        let result =
            if *failed == 0 { format!("{passed} passed") } else { format!("{failed} FAILED, {passed} passed") };
        println!("{name:<28}{:>7.1} s  {result}", took.as_secs_f64());
        notes.iter().for_each(|note| println!("{:<28}{:>9}  {note}", "", ""));
    }
    let passed: u64 = stages.iter().map(|stage| stage.passed).sum();
    let failed: u64 = stages.iter().map(|stage| stage.failed).sum();
    println!("\n{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_from_the_harness() {
        let line = "test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 8.63s";
        assert_eq!(totals(line), Some((4, 1)));
        assert_eq!(totals("test result: ok. 0 passed; 0 failed; 0 ignored"), Some((0, 0)));
        assert_eq!(totals("test common ... ok"), None);
    }
}
