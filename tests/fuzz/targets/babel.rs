//! Fuzzes [`gemcast_fuzz::babel`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gemcast_fuzz::babel::check(data));
