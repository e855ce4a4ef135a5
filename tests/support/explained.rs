//! Why a task came more than once: the log must know.

use serde_json::Value;

use super::cluster::Cluster;
use super::receiver::Receiver;
use super::work::{self, APP};

/// A task that was begun more than once, with its events, oldest first.
pub struct Again {
    pub id: String,
    pub events: Vec<Value>,
}

impl Again {
    fn count(&self, kind: &str) -> usize {
        let of_kind = |event: &&Value| event["kind"] == kind;
        self.events.iter().filter(of_kind).count()
    }

    /// Whether it was taken from a node that did not let go of it by itself: one that was lost, or
    /// started again.
    pub fn was_taken(&self) -> bool {
        let forced = |event: &Value| matches!(event["by"].as_str(), Some("lease" | "start"));
        let mut events = self.events.iter();
        events.any(|event| event["kind"] == "redispatched" && forced(event))
    }

    /// The node that an attempt was handed to.
    pub fn node_of(&self, fence: u64) -> Option<u64> {
        let mut handed = self.events.iter();
        handed.find_map(|event| match event["kind"].as_str() {
            Some("triggered" | "redispatched" | "run") if event["fence"] == fence => {
                event["node"].as_u64()
            }
            _ => None,
        })
    }
}

/// What repeated deliveries came to.
pub struct Explained {
    /// Deliveries beyond the first of each task.
    pub second: usize,
    pub again: Vec<Again>,
}

/// Asserts that every task that came more than once has events that say why, one each (I-17), that
/// none has two outcomes that were believed (I-15), and that what moved as planned came once.
#[track_caller]
pub fn assert_explained(cluster: &Cluster, receiver: &Receiver) -> Explained {
    let leader = cluster.wait_ready();
    let mut client = cluster.client(leader);
    let again: Vec<Again> = work::repeated(&mut client)
        .into_keys()
        .map(|id| {
            let path = format!("/v1/tasks/{APP}/{id}/events");
            let events = client.get(&path).unwrap().json()["events"]
                .as_array()
                .cloned();
            let events = events.unwrap_or_default();
            Again { id, events }
        })
        .collect();
    let times = receiver.times();
    for task in &again {
        let (id, came) = (&task.id, times.get(&task.id).copied().unwrap_or(0));
        let begun_again = task.count("redispatched") + task.count("retry");
        assert!(begun_again > 0, "{id} was begun again: {:?}", task.events);
        assert!(
            came <= 1 + begun_again,
            "I-17: {id} came {came} times: {:?}",
            task.events
        );
        assert!(task.count("done") <= 1, "I-15: {id}: {:?}", task.events);
        let planned = !task.was_taken() && task.count("retry") == 0;
        let watched = task.events.iter().any(|event| event["by"] == "watchdog");
        assert!(
            came <= 1 || !planned || watched,
            "{id} moved as planned, and came {came} times: {:?}",
            task.events
        );
    }
    for (id, came) in &times {
        let known = || again.iter().any(|task| task.id == *id);
        assert!(
            *came == 1 || known(),
            "I-17: {id} came {came} times and the log does not know"
        );
    }
    Explained {
        second: receiver.count() - times.len(),
        again,
    }
}
