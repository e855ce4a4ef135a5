//! The executor as its neighbours see it: changes and a clock in, calls and outcomes out.
#![allow(clippy::disallowed_methods)] // Real sockets and threads are waited for on the real clock.

mod away;
mod begin;
mod handlers;
mod lateness;
mod queues;
mod report;
mod rig;
mod secure;
mod time;
mod wire;
