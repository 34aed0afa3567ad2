//! Fuzzes [`gemcast_fuzz::gem`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gemcast_fuzz::gem::check(data));
