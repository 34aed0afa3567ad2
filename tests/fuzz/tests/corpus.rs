//! The corpus: kept equal to what our writers write, and put through the targets, whole, cut short and with bits turned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use gemcast_fuzz::{TARGETS, seeds};

/// Set to write the corpus anew, after a format has changed.
const WRITE: &str = "GEMCAST_WRITE_CORPUS";
/// Files that are no seed but an input which once failed; they are kept whatever the writers write.
const FAILED: &str = "failed-";

fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn files(target: &str) -> BTreeMap<String, Vec<u8>> {
    let directory = directory(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("ASCII names");
        (name, fs::read(entry.path()).expect("it is readable"))
    };
    entries.map(|entry| read(entry.expect("it is readable"))).collect()
}

#[test]
fn the_corpus_is_what_our_writers_write() {
    for (target, _) in TARGETS {
        let written: BTreeMap<_, _> =
            seeds::of(target).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(directory(target)).expect("the tree is writable");
            for (name, bytes) in &written {
                fs::write(directory(target).join(name), bytes).expect("the tree is writable");
            }
        }
        let mut kept = files(target);
        kept.retain(|name, _| !name.starts_with(FAILED));
        let names: BTreeSet<_> = kept.keys().chain(written.keys()).collect();
        let other: Vec<_> = names.into_iter().filter(|&name| kept.get(name) != written.get(name)).collect();
        assert!(
            other.is_empty(),
            "the corpus of {target} is not what the writers write now, in {other:?}; {WRITE}=1 cargo test -p gemcast-fuzz \
             renews it"
        );
    }
}

#[test]
fn every_target_takes_its_corpus_and_what_little_changes_make_of_it() {
    for (target, check) in TARGETS {
        for bytes in files(target).into_values() {
            check(&bytes);
            let step = if target == "engine" { 37 } else { 1 };
            for at in (0..bytes.len()).step_by(step) {
                check(&bytes[..at]);
                for bit in [0x01, 0x80] {
                    let mut bent = bytes.clone();
                    bent[at] ^= bit;
                    check(&bent);
                }
            }
        }
    }
}
