//! Wire formats and messages that the gemcast processes and the eBPF program share.
//!
//! The core is `no_std`, allocates nothing and forbids `unsafe`, so that the very same classifier and frame codec run
//! inside the XDP program, in the packet workers and in host tests. The protobuf messages between the processes sit
//! behind the feature `messages`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(feature = "messages", test))]
extern crate std;

#[cfg(feature = "messages")]
pub mod api;
pub mod id;
#[cfg(feature = "messages")]
pub mod link;
#[cfg(feature = "messages")]
pub mod message;
pub mod reason;
pub mod wire;
