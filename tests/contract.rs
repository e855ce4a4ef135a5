//! The outer contract, as a client sees it: every case talks to the real binary over a socket, or
//! runs it as a command, and asserts what comes back.
//!
//! Cases share one node where they can; each has an application of its own, so that they do not
//! see each other. A scripted receiver in this process plays the targets.
#![allow(clippy::disallowed_methods)] // reason: a black-box test lives in real time

mod contract {
    pub mod http;
    pub mod node;
    pub mod receiver;
    pub mod task;

    mod access;
    mod batch;
    mod bulk;
    mod callbacks;
    mod chains;
    mod commands;
    mod complete;
    mod deploy;
    mod dev;
    mod history;
    mod hostile;
    mod import;
    mod lifecycle;
    mod lists;
    mod log;
    mod old;
    mod past;
    mod pressure;
    mod schedule;
    mod served;
    mod shards;
    mod stages;
    mod submit;
}
