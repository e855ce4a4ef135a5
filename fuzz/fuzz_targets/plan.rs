#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| horolog::fuzz::plan(bytes));
