//! Runs a story for many seeds, and tells how to run the one that failed again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Names the seed to run alone.
const SEED_VARIABLE: &str = "GEMCAST_SEED";

/// Runs `story` for seeds `0..seeds`, or for the one that `GEMCAST_SEED` names.
///
/// # Panics
/// When a story panics; the seed is printed first.
pub fn each_seed(seeds: u64, story: impl Fn(u64)) {
    let chosen = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse::<u64>().ok());
    let range = chosen.map_or(0..seeds, |seed| seed..seed + 1);
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| story(seed))) {
            let test = std::thread::current().name().unwrap_or("<test>").to_owned();
            eprintln!("seed {seed} failed; replay: {SEED_VARIABLE}={seed} cargo test -p gemcast-tests {test}");
            resume_unwind(panic);
        }
    }
}
