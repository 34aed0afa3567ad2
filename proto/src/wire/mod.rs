//! Byte formats. Every codec here is total: any input yields a value or a named error, and nothing panics.

pub mod babel;
pub mod classify;
pub mod frame;
pub mod gem;
pub mod siphash;
