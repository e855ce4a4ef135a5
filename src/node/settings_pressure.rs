//! Settings of what holds work back: calls, breakers, room, and what clients may take.

use serde::{Deserialize, Serialize};

use crate::api::serve;
use crate::executor::BreakerSettings;
use crate::model::Span;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callbacks {
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    pub per_target: u32,
    pub total: u32,
    pub max_bytes: u64,
    pub breaker: Breaker,
}

impl Default for Callbacks {
    fn default() -> Callbacks {
        Callbacks {
            allow: vec![],
            deny: vec![],
            per_target: 64,
            total: 4096,
            max_bytes: 256 << 20,
            breaker: Breaker::default(),
        }
    }
}

/// When a failing target is left alone, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    pub percent: u32,
    pub calls: u32,
    pub window: Span,
    pub open: Span,
    pub open_max: Span,
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Breaker {
        let breaker = BreakerSettings::default();
        Breaker {
            percent: breaker.percent,
            calls: breaker.least,
            window: breaker.window.into(),
            open: breaker.open.into(),
            open_max: breaker.open_max.into(),
            probes: breaker.probes,
        }
    }
}

impl Breaker {
    /// What the executor needs of it.
    pub fn settings(&self) -> BreakerSettings {
        BreakerSettings {
            percent: self.percent,
            least: self.calls,
            window: self.window.std(),
            open: self.open.std(),
            open_max: self.open_max.std(),
            probes: self.probes,
        }
    }
}

/// Room on the disk of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    pub refuse_below: String,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            refuse_below: "256MiB".into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub connections: usize,
    pub head_timeout: Span,
    pub body_timeout: Span,
    pub idle_timeout: Span,
    pub shutdown_grace: Span,
    pub app_submits_per_second: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        let limits = serve::Limits::default();
        Limits {
            connections: limits.connections,
            head_timeout: limits.head.into(),
            body_timeout: limits.body.into(),
            idle_timeout: limits.idle.into(),
            shutdown_grace: limits.grace.into(),
            app_submits_per_second: 0,
        }
    }
}
