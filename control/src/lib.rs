//! gemcastd and gemctl as a library, so that tests and both programs share one implementation.

pub mod api;
pub mod babel;
pub mod bans;
pub mod bundle;
pub mod clock;
pub mod config;
pub mod ctl;
pub mod echo;
pub mod event_loop;
pub mod events;
pub mod instance;
pub mod interfaces;
pub mod keyfile;
pub mod legs;
pub mod link;
pub mod log;
pub mod maps;
pub mod mode;
pub mod netlink;
pub mod report;
pub mod routes;
pub mod store;
pub mod stream;
