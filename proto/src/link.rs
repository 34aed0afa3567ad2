//! Messages between gemcastd and the data plane: see `link.proto`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/gemcast.link.rs"));
