//! What gemcast reads from strangers, as fuzz targets. Each takes any bytes and asserts what must hold for them: a reader
//! answers with a value that its writer turns back into the same, or with an error that names what is wrong.
//!
//! `cargo xtask test` runs each for a while under libFuzzer, from the corpus in `corpus/`; one runs longer with
//! `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none babel`. The ordinary tests put the corpus, and what little
//! changes make of it, through the same targets.
#![forbid(unsafe_code)]

pub mod babel;
pub mod engine;
pub mod frame;
pub mod gem;
pub mod message;
pub mod seeds;

/// A target: its name, which is that of its binary and of its corpus, and what checks one input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("babel", babel::check),
    ("gem", gem::check),
    ("frame", frame::check),
    ("message", message::check),
    ("engine", engine::check),
];

/// An error says something, without line breaks, so that it fits into a log.
fn assert_told(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "an error that says nothing: {text:?}");
}
