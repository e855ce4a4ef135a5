//! What the API is told at the start.

use super::auth::Credential;
use super::old_fields::Compat;
use crate::model::Span;

/// See the settings page for their keys and defaults.
#[derive(Clone)]
pub struct ApiSettings {
    /// Demanded of clients when set.
    pub token: Option<Credential>,
    /// Demanded on the internal paths when set.
    pub secret: Option<Credential>,
    /// Longest `?wait=` and longest synchronous execution.
    pub wait_max: Span,
    /// The old paths.
    pub compat: Compat,
}

impl Default for ApiSettings {
    fn default() -> ApiSettings {
        ApiSettings {
            token: None,
            secret: None,
            wait_max: Span::minutes(1),
            compat: Compat::default(),
        }
    }
}
