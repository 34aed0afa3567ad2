//! What the pipeline costs per packet, beside ring's AEAD alone on the same bytes.
//!
//! `cargo bench -p gemcast-dataplane --bench pipeline [-- [--rounds N] [--json FILE] [FILTER]]`. Everything that is compared
//! takes turns, a fraction of a millisecond each, so that whatever else the machine does falls on all of them; a ratio
//! is the median of the rounds' ratios. With `--count N CASE` one case alone processes N packets and nothing is timed: two
//! runs under `valgrind --tool=callgrind` differ by its instructions.

mod case;
mod rig;

use case::{Case, Kind};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Cost of the pipeline per packet.
#[derive(Parser)]
struct Arguments {
    /// Rounds of every comparison.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Write the results to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run the one case of this name over so many packets, without timing it.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Only cases whose name contains this.
    filter: Option<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Batches of a turn.
const BATCHES_PER_TURN: usize = 8;
/// Turns before the first one that counts.
const WARM_UP: usize = 20;

/// What a case cost, one entry a round.
struct Cost {
    name: String,
    kind: Kind,
    /// Nanoseconds per packet.
    rounds: Vec<f64>,
}

impl Cost {
    fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// Median of the rounds' ratios to another case of the same comparison.
    fn ratio(&self, base: &Cost) -> f64 {
        let ratios: Vec<f64> = self.rounds.iter().zip(&base.rounds).map(|(own, base)| own / base).collect();
        median(&ratios)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn measure(cases: Vec<Case>, rounds: usize) -> Vec<Cost> {
    let mut running: Vec<_> = cases
        .into_iter()
        .map(|case| {
            let cost = Cost { name: case.name(), kind: case.kind, rounds: Vec::with_capacity(rounds) };
            (case.start(), cost)
        })
        .collect();
    for round in 0..WARM_UP + rounds {
        for (run, cost) in &mut running {
            let spent: Duration = (0..BATCHES_PER_TURN).map(|_| run.timed_batch()).sum();
            if round >= WARM_UP {
                cost.rounds.push(spent.as_nanos() as f64 / (BATCHES_PER_TURN * case::BATCH) as f64);
            }
        }
    }
    running.into_iter().map(|(_, cost)| cost).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let comparisons = case::comparisons();
    if let Some(count) = arguments.count {
        let wanted = arguments.filter.as_deref().unwrap_or_default();
        let Some(case) = comparisons.into_iter().flatten().find(|case| case.name() == wanted) else {
            eprintln!("no case `{wanted}`; without --count, all are run and named");
            return ExitCode::FAILURE;
        };
        let mut run = case.start();
        for _ in 0..count.div_ceil(case::BATCH) {
            run.timed_batch();
        }
        return ExitCode::SUCCESS;
    }
    println!("{:<44} {:>9} {:>9} {:>9} {:>8}", "case", "min ns", "ns", "p90 ns", "ratio");
    let mut results = serde_json::Map::new();
    for cases in comparisons {
        let filter = arguments.filter.as_deref().unwrap_or_default();
        if !cases.iter().any(|case| case.name().contains(filter)) {
            continue;
        }
        let costs = measure(cases, arguments.rounds);
        for cost in &costs {
            let mut sorted = cost.rounds.clone();
            sorted.sort_by(f64::total_cmp);
            let (min, p90) = (sorted[0], sorted[sorted.len() * 9 / 10]);
            let base = costs.iter().find(|base| Some(base.kind) == cost.kind.base());
            let ratio = base.map(|base| cost.ratio(base));
            let shown = ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
            println!("{:<44} {min:>9.1} {:>9.1} {p90:>9.1} {shown:>8}", cost.name, cost.median());
            results.insert(
                cost.name.clone(),
                serde_json::json!({
                    "ns_per_packet": cost.median(), "ns_min": min, "ns_p90": p90,
                    "ratio": ratio, "ratio_to": base.map(|base| &base.name),
                }),
            );
        }
    }
    if let Some(path) = arguments.json {
        let text = serde_json::to_string_pretty(&results).expect("names and numbers");
        if let Err(error) = std::fs::write(&path, text + "\n") {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
