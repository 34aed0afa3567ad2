//! gemcastd and gemctl as a library, so that tests and both programs share one implementation.

pub mod config;
pub mod keyfile;
