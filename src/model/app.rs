//! What is known of an application besides its tasks.

use bincode::{Decode, Encode};
use serde::Serialize;
use std::sync::Arc;

use super::{By, Time};

/// An application whose tasks are not called at present.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Paused {
    /// Since when.
    pub at: Time,
    /// Where the log says so.
    pub index: u64,
    pub reason: Option<Arc<str>>,
    pub by: By,
}
