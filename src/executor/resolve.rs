//! Names to addresses, one look-up at a time for each name.
//!
//! A look-up blocks a thread of the runtime's pool for as long as the resolver likes. Without
//! sharing, a target whose name does not resolve could take all of those threads with it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

/// How long an answer is used again. Short: operators move services by changing names.
const FRESH: Duration = Duration::from_secs(2);
/// Names remembered at most.
const NAMES_MAX: usize = 4096;

type Found = Result<Arc<[IpAddr]>, Arc<str>>;
type LookUp = Shared<BoxFuture<'static, Found>>;

/// Resolves names; clones share what is under way.
#[derive(Clone, Default)]
pub(super) struct Resolver(Arc<Mutex<HashMap<String, (Instant, LookUp)>>>);

impl Resolver {
    /// Every address of a name, as the system's resolver orders them.
    pub async fn resolve(&self, host: &str) -> Found {
        let found = self.shared(host).await;
        if found.is_err() {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(host);
        }
        found
    }

    fn shared(&self, host: &str) -> LookUp {
        let now = Instant::now();
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((begun, look_up)) = names.get(host)
            && (now.duration_since(*begun) < FRESH || look_up.peek().is_none())
        {
            return look_up.clone();
        }
        if names.len() >= NAMES_MAX {
            names.retain(|_, (begun, _)| now.duration_since(*begun) < FRESH);
        }
        let look_up = look_up(host.into()).boxed().shared();
        if names.len() < NAMES_MAX {
            names.insert(host.into(), (now, look_up.clone()));
        }
        look_up
    }
}

async fn look_up(host: String) -> Found {
    match tokio::net::lookup_host((host.as_str(), 0)).await {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) => Err(format!("{host} does not resolve: {error}").into()),
    }
}
