//! The deterministic simulator: real engines, a virtual clock, links with faults, and one seed behind every choice.
//!
//! A test is a story about a [`World`]: links are lossy, hosts crash, networks split and heal, and in the end everyone
//! opens what everyone seals. Invariants that must hold always are checked at every step. [`each_seed`] runs a story for
//! several seeds; a failing one prints how to replay it alone.

mod administration;
mod byzantine;
mod faults;
mod host;
mod measure;
mod runner;
mod shape;
mod world;

pub use administration::Delivery;
pub use byzantine::Byzantine;
pub use faults::Faults;
pub use host::{Host, Maps};
pub use measure::{ControlTraffic, control_traffic, convergence_after_cut};
pub use runner::{each_seed, each_seed_and};
pub use shape::Shape;
pub use world::{Traffic, World};
