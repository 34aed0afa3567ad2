//! Fuzzes [`gemcast_fuzz::frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gemcast_fuzz::frame::check(data));
