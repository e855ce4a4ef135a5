//! Applications: which of them are paused.
//!
//! A pause stops calls and nothing else: tasks are accepted, the wheel turns, what falls due is
//! triggered and waits at its owner, and can be cancelled there. So the fold only notes the pause
//! and tells the rim; it is part of what is hashed, saved and sent in snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Entry, State};
use crate::model::limits::PAUSED_APPS_MAX;
use crate::model::{Change, Outcome, PauseApp, Paused, Refusal, ResumeApp};

impl State {
    /// A pause of what is paused already keeps its beginning, under the new reason.
    pub(super) fn pause(&mut self, entry: Entry, e: PauseApp) -> Outcome {
        let held = self.core.paused.get(&e.app);
        if held.is_none() && self.core.paused.len() >= PAUSED_APPS_MAX {
            return Outcome::Refused(Refusal::TooManyPaused);
        }
        let (at, index) = held.map_or((entry.stamp, entry.index), |held| (held.at, held.index));
        let paused = Paused {
            at,
            index,
            reason: e.reason,
            by: e.by,
        };
        self.core.paused.insert(e.app, paused.clone());
        self.tell_paused();
        Outcome::App(Some(Box::new(paused)))
    }

    /// Of what is not paused it changes nothing.
    pub(super) fn resume(&mut self, e: &ResumeApp) -> Outcome {
        if self.core.paused.remove(&e.app).is_some() {
            self.tell_paused();
        }
        Outcome::App(None)
    }

    fn tell_paused(&mut self) {
        let change = self.paused_change();
        self.changes.push(change);
    }

    /// What the rim has to know, whatever it knew before.
    pub fn paused_change(&self) -> Change {
        let apps: BTreeSet<Arc<str>> = self.core.paused.keys().cloned().collect();
        Change::Paused {
            apps: Arc::new(apps),
        }
    }

    /// The pause of an application.
    pub fn paused(&self, app: &str) -> Option<&Paused> {
        self.core.paused.get(app)
    }

    /// All that are paused, by name.
    pub fn paused_apps(&self) -> impl Iterator<Item = (&Arc<str>, &Paused)> {
        self.core.paused.iter()
    }
}
