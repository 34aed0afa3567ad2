//! Messages between gemctl and gemcastd: see `api.proto`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/gemcast.api.rs"));
