//! The checkers of the fault harness, checked: runs written by hand, good and bad, and a real one.

mod support;

#[path = "jepsen-style/check/mod.rs"]
mod check;
