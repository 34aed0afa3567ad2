//! Engines wired together in memory on a virtual clock.

mod bounds;
mod byzantine;
mod claims;
mod epochs;
mod garbage;
mod keys;
mod kmg;
mod lease;
mod peers;
mod recorded;
mod rig;
mod routes;
mod spread;
mod stock;
mod succession;
