//! The seam between the executor and the wire.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::model::{Fence, Http, Key, NodeId, Seq, Span, Time};

/// Carries calls out: over HTTP, or as a test says.
pub trait Delivery: Send + Sync + 'static {
    /// Must end within the call's time-out; the executor waits for it.
    fn deliver(&self, call: Call) -> BoxFuture<'static, Delivered>;
}

/// One request to be made.
#[derive(Clone, Debug)]
pub struct Call {
    pub seq: Seq,
    pub fence: Fence,
    pub key: Key,
    pub due: Time,
    /// The wall clock when the attempt began.
    pub started: Time,
    /// The node that makes it.
    pub node: NodeId,
    pub http: Http,
    /// Covers the whole exchange, from connecting to the end of the answer.
    pub timeout: Span,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// 0 when no answer began.
    pub status: u16,
    /// The header as it was sent.
    pub retry_after: Option<String>,
    /// The beginning of the answer.
    pub answer: Option<Arc<str>>,
    /// Why the exchange did not come to its end.
    pub failure: Option<Failure>,
}

/// Why an exchange broke off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// For people: short, and without secrets.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    Timeout,
    /// No connection: name, address, TLS.
    Connect,
    /// The guard does not allow the address.
    Denied,
    /// The connection or the answer broke.
    Broken,
    /// A handler returned an error, or panicked; the status says whether it may pass.
    Handler,
}

impl Delivered {
    /// An exchange without an answer.
    pub fn failed(kind: FailureKind, text: impl Into<String>) -> Delivered {
        Delivered {
            failure: Some(Failure {
                kind,
                text: text.into(),
            }),
            ..Delivered::default()
        }
    }

    /// An answer with this status and nothing else.
    pub fn status(status: u16) -> Delivered {
        Delivered {
            status,
            ..Delivered::default()
        }
    }
}
