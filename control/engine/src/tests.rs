//! Engines wired together in memory on a virtual clock.

mod keys;
mod rig;
mod routes;
mod spread;
