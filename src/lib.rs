//! horolog: an event-sourced scheduler for delayed tasks and cron.
//!
//! The modules stand on floors; each uses only the floors below its own:
//! `model` → `wheel`, `calendar`, `log` → `state` → `raft` → `executor` → `api` → `node` → `cli`.
//! Below all of them lies `bugs`: mistakes on purpose, of which a normal build has none.
#![forbid(unsafe_code)]

pub mod api;
pub mod bugs;
pub mod calendar;
pub mod cli;
pub mod executor;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod log;
pub mod model;
pub mod node;
pub mod raft;
pub mod state;
pub mod wheel;

#[cfg(test)]
mod thorough;
