//! Fuzzes [`gemcast_fuzz::engine`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gemcast_fuzz::engine::check(data));
