//! Runs a story for many seeds, and tells how to run the one that failed again.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Names the seed to run alone.
const SEED_VARIABLE: &str = "GEMCAST_SEED";

/// Runs `story` for seeds `0..seeds`, or for the one that `GEMCAST_SEED` names.
///
/// # Panics
/// When a story panics; the seed is printed first.
pub fn each_seed(seeds: u64, story: impl Fn(u64)) {
    each_seed_and(seeds, 0, story);
}

/// The same with some seeds more that are other ones each time.
///
/// # Panics
/// When a story panics; the seed is printed first.
pub fn each_seed_and(seeds: u64, fresh: u64, story: impl Fn(u64)) {
    let chosen = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse::<u64>().ok());
    // The standard library's hash keys are random; what is hashed does not matter.
    let fresh = (0..fresh).map(|number| RandomState::new().hash_one(number) >> 1);
    let seeds = chosen.map_or_else(|| (0..seeds).chain(fresh).collect(), |seed| vec![seed]);
    println!("seeds {seeds:?}");
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| story(seed))) {
            let test = std::thread::current().name().unwrap_or("<test>").to_owned();
            eprintln!("seed {seed} failed; replay: {SEED_VARIABLE}={seed} cargo test -p gemcast-tests {test}");
            resume_unwind(panic);
        }
    }
}
