//! The gemcast data plane: from AF_XDP rings through seal and open back to AF_XDP rings.
//!
//! [`pipeline`] decides what happens to a packet and is pure; [`worker`] moves batches between rings and pipeline on a
//! pinned core; [`plane`] is the main thread that follows control's snapshots; [`xdp`] owns the program and its maps.

pub mod advertise;
pub mod aead;
pub mod hold;
pub mod interface;
pub mod join;
pub mod link;
pub mod nic;
pub mod open;
pub mod pipeline;
pub mod plane;
pub mod police;
pub mod replay;
pub mod seal;
pub mod snapshot;
pub mod stats;
pub mod tables;
pub mod worker;
pub mod xdp;
pub mod xsk;
