//! The two timing profiles, and what follows from them.

use std::time::Duration;

/// How quickly a leader's loss is noticed, against how much delay is taken for a loss.
///
/// A follower stands for election after the leader's lease (= the longest election time-out)
/// plus a random time-out between the shortest and the longest: `Steady` 4.5–6 s, `Fast`
/// 0.45–0.6 s. The dispatch lease is shorter than either, so that a former owner has stopped
/// starting attempts before anybody can take its shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    #[default]
    Steady,
    Fast,
}

impl Timing {
    /// The inverse of its name in the settings.
    pub fn parse(name: &str) -> Option<Timing> {
        match name {
            "steady" => Some(Timing::Steady),
            "fast" => Some(Timing::Fast),
            _ => None,
        }
    }

    pub(crate) const fn heartbeat(self) -> Duration {
        match self {
            Timing::Steady => Duration::from_millis(250),
            Timing::Fast => Duration::from_millis(50),
        }
    }

    /// Shortest and longest.
    pub(crate) const fn election(self) -> (Duration, Duration) {
        match self {
            Timing::Steady => (Duration::from_millis(1_500), Duration::from_millis(3_000)),
            Timing::Fast => (Duration::from_millis(150), Duration::from_millis(300)),
        }
    }

    /// An owner starts attempts only within so long of hearing a leader that has a quorum.
    pub const fn owner_lease(self) -> Duration {
        match self {
            Timing::Steady => Duration::from_millis(1_500),
            Timing::Fast => Duration::from_millis(250),
        }
    }

    /// What is waited beyond the lease, for clocks that run at slightly different rates.
    pub(crate) const fn lease_margin(self) -> Duration {
        match self {
            Timing::Steady => Duration::from_millis(250),
            Timing::Fast => Duration::from_millis(50),
        }
    }

    /// An owner is given up so long after the contact on which its last lease rests: the lease and
    /// the margin, and then about as long as a busy machine holds up a heartbeat, because to move
    /// shards to and fro costs more than to wait. No longer than the loss of a leader takes.
    pub(crate) const fn lost_after(self) -> Duration {
        match self {
            Timing::Steady => Duration::from_millis(2_500),
            Timing::Fast => Duration::from_millis(500),
        }
    }

    pub(crate) fn config(self, cluster: u128) -> openraft::Config {
        let millis = |d: Duration| d.as_millis() as u64;
        let (shortest, longest) = self.election();
        openraft::Config {
            cluster_name: format!("{cluster:032x}"),
            heartbeat_interval: millis(self.heartbeat()),
            election_timeout_min: millis(shortest),
            election_timeout_max: millis(longest),
            install_snapshot_timeout: 60_000,
            max_payload_entries: 1_024,
            // Snapshots, purges and their cadence are ours.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            replication_lag_threshold: 1 << 20,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1 << 16,
            state_machine_channel_size: Some(4_096),
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        }
    }
}
