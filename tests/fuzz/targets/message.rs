//! Fuzzes [`gemcast_fuzz::message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gemcast_fuzz::message::check(data));
