//! gemcastd and gemctl as a library, so that tests and both programs share one implementation.

pub mod api;
pub mod babel;
pub mod config;
pub mod interfaces;
pub mod keyfile;
pub mod link;
pub mod log;
pub mod maps;
pub mod netlink;
pub mod stream;
