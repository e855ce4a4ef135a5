//! Handlers in the program that embeds a node: what an `invoke` target is given to.
//!
//! ```text
//! "shop.bill('a', 2L)" ─► Invocation { arguments, id, fence, … } ─► the closure of that name ─► outcome
//! ```
//!
//! Nodes tell each other the names of their handlers with their load, and an attempt is carried out
//! only by one that has the handler (`placement.rs`).

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use super::deliver::{Delivered, Failure, FailureKind};
use super::verdict::cut;
use crate::model::limits::{ANSWER_KEPT_BYTES, ERROR_BYTES_MAX, HANDLER_BYTES_MAX, HANDLERS_MAX};
use crate::model::{Argument, Fence, Handled, Invoke, Key, NodeId, RunOf, Span, Time};
use crate::raft::HandlerNames;

/// What a handler is called with.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The name that it is registered under.
    pub handler: String,
    /// As they were written: see [`Invocation::argument`].
    pub arguments: Vec<Argument>,
    /// The JSON object of the task or schedule, as it was written.
    pub params: Option<String>,
    /// The task.
    pub app: String,
    pub id: String,
    /// From 1 on; it rises also when an attempt was handed out again because a node was lost.
    pub attempt: u32,
    /// Rises with every attempt of a task: what refuses anything below the highest that it has seen
    /// takes effect once, although a task may be carried out more than once.
    pub fence: Fence,
    /// When it was to begin.
    pub due: Time,
    /// When it began, by the clock of its node.
    pub started: Time,
    /// The occurrence of a schedule that this is a run of.
    pub run_of: Option<RunOf>,
    /// The node that it runs on.
    pub node: NodeId,
    /// After so long it is dropped, and the attempt has failed.
    pub timeout: Span,
}

impl Invocation {
    /// An argument by its place, from 0. A `f64` is also taken from `4`, and an `i64` from `4`.
    ///
    /// # Errors
    /// There is none, or it is of another type. To try again would be of no use, so that `?` in a
    /// handler ends the task.
    pub fn argument<'a, T: FromArgument<'a>>(&'a self, place: usize) -> Result<T, HandlerError> {
        let nth = place + 1;
        let wrong = |what: String| HandlerError::Final(format!("{}: {what}", self.handler));
        let argument = self.arguments.get(place).ok_or_else(|| {
            let given = self.arguments.len();
            wrong(format!("argument {nth} is missing, {given} were given"))
        })?;
        T::from_argument(argument)
            .ok_or_else(|| wrong(format!("argument {nth} is {argument}, not {}", T::NAME)))
    }
}

/// A type that an argument may have.
pub trait FromArgument<'a>: Sized {
    /// For errors, with its article.
    const NAME: &'static str;
    /// `None`: it is of another type.
    fn from_argument(argument: &'a Argument) -> Option<Self>;
}

impl<'a> FromArgument<'a> for &'a str {
    const NAME: &'static str = "a text";
    fn from_argument(argument: &'a Argument) -> Option<&'a str> {
        match argument {
            Argument::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl FromArgument<'_> for String {
    const NAME: &'static str = "a text";
    fn from_argument(argument: &Argument) -> Option<String> {
        <&str>::from_argument(argument).map(str::to_owned)
    }
}

impl FromArgument<'_> for bool {
    const NAME: &'static str = "true or false";
    fn from_argument(argument: &Argument) -> Option<bool> {
        match argument {
            Argument::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl FromArgument<'_> for i32 {
    const NAME: &'static str = "a number of 32 bits such as 4";
    fn from_argument(argument: &Argument) -> Option<i32> {
        match argument {
            Argument::Int(value) => Some(*value),
            _ => None,
        }
    }
}

impl FromArgument<'_> for i64 {
    const NAME: &'static str = "a whole number such as 4L";
    fn from_argument(argument: &Argument) -> Option<i64> {
        match argument {
            Argument::Int(value) => Some((*value).into()),
            Argument::Long(value) => Some(*value),
            _ => None,
        }
    }
}

impl FromArgument<'_> for f64 {
    const NAME: &'static str = "a number such as 4D";
    fn from_argument(argument: &Argument) -> Option<f64> {
        match argument {
            Argument::Int(value) => Some((*value).into()),
            Argument::Double(value) => Some(*value),
            _ => None,
        }
    }
}

/// Why a handler did not do what it was asked for. Any [`std::error::Error`] becomes
/// [`HandlerError::Retry`] by `?`, with what caused it.
///
/// This is no `Error` itself: else that could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerError {
    /// The attempt has failed; the retry policy of the task decides what follows.
    Retry(String),
    /// It is of no use to try again: the task is dead.
    Final(String),
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandlerError::Retry(text) | HandlerError::Final(text) => f.write_str(text),
        }
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    fn from(error: E) -> HandlerError {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        HandlerError::Retry(text)
    }
}

/// What a handler may return when it is done: nothing, or a text whose first KiB is kept with the
/// attempt.
pub trait Reply {
    /// The text, if there is one.
    fn into_text(self) -> Option<String>;
}

impl Reply for () {
    fn into_text(self) -> Option<String> {
        None
    }
}

impl Reply for String {
    fn into_text(self) -> Option<String> {
        Some(self)
    }
}

impl Reply for &'static str {
    fn into_text(self) -> Option<String> {
        Some(self.to_owned())
    }
}

impl<T: Reply> Reply for Option<T> {
    fn into_text(self) -> Option<String> {
        self.and_then(T::into_text)
    }
}

/// Why a handler cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// No target could ever name it.
    #[error("{name:?} names no handler: {what}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong, and what to write.
        what: String,
    },
    /// Two would share a name.
    #[error("there is a handler {0} already")]
    Twice(String),
    /// A node tells the others the names of all its handlers, again and again.
    #[error("more than {HANDLERS_MAX} handlers; give one an argument that says what to do")]
    TooMany,
}

type Answer = Result<Option<String>, HandlerError>;
type Run = dyn Fn(Invocation) -> BoxFuture<'static, Answer> + Send + Sync;

/// Handlers by name. Clones share them.
///
/// ```
/// use horolog::node::{HandlerError, Handlers};
///
/// let handlers = Handlers::default()
///     .handler("report.send", |call| async move {
///         let (to, pages): (String, i64) = (call.argument(0)?, call.argument(1)?);
///         match pages {
///             0 => Err(HandlerError::Final("a report has pages".into())),
///             _ => Ok(format!("{pages} pages for {to}, attempt {}", call.attempt)),
///         }
///     })?
///     .handler("cache.clear", |_| async { Ok(()) })?;
/// assert_eq!(handlers.names().count(), 2);
///
/// let refused = handlers.handler("clear", |_| async { Ok(()) }).unwrap_err();
/// assert!(refused.to_string().contains("write bean.method"));
/// # Ok::<(), horolog::node::RegisterError>(())
/// ```
#[derive(Clone, Default)]
pub struct Handlers(BTreeMap<String, Arc<Run>>);

impl Handlers {
    /// Adds one. `name` is what a target says before its arguments: `bean.method`.
    ///
    /// The closure is called on the runtime that the node was started on, once for each attempt, many
    /// at a time. What blocks a thread belongs into `tokio::task::spawn_blocking`.
    ///
    /// # Errors
    /// The name is none, or is taken, or there are [`HANDLERS_MAX`] already.
    pub fn handler<F, Fut, R>(mut self, name: &str, run: F) -> Result<Handlers, RegisterError>
    where
        F: Fn(Invocation) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: Reply,
    {
        let wrong = |what: String| RegisterError::Name {
            name: name.into(),
            what,
        };
        let parsed: Invoke = name.parse().map_err(|e| wrong(format!("{e}")))?;
        if parsed.name() != name {
            return Err(wrong(
                "write bean.method, without arguments or spaces".into(),
            ));
        }
        if name.len() > HANDLER_BYTES_MAX {
            let bytes = name.len();
            return Err(wrong(format!("{bytes} bytes, at most {HANDLER_BYTES_MAX}")));
        }
        if self.0.contains_key(name) {
            return Err(RegisterError::Twice(name.into()));
        }
        if self.0.len() == HANDLERS_MAX {
            return Err(RegisterError::TooMany);
        }
        let run = Arc::new(run);
        let boxed = move |call: Invocation| -> BoxFuture<'static, Answer> {
            let run = run.clone();
            // Within the future, so that a panic of the closure itself is one of the attempt.
            async move { run(call).await.map(R::into_text) }.boxed()
        };
        self.0.insert(name.to_owned(), Arc::new(boxed));
        Ok(self)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn all_names(&self) -> HandlerNames {
        Arc::new(self.0.keys().cloned().collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Calls a handler; ends within its time-out. Its outcome is told like an answer to a request:
    /// 200, 500 for a failure that may pass, 410 for one that will not.
    pub(super) async fn call(&self, handled: Handled, attempt: Attempt) -> Delivered {
        let call = match invocation(handled, attempt) {
            Ok(call) => call,
            Err(why) => return failed(410, &why),
        };
        let Some(run) = self.0.get(&call.handler) else {
            let text = format!("this node has no handler {}", call.handler);
            return Delivered::failed(FailureKind::Connect, text);
        };
        let timeout = call.timeout;
        // A task of its own: should it block its thread, the time-out still comes.
        let mut running = Running(tokio::spawn(run(call)));
        match tokio::time::timeout(timeout.std(), &mut running.0).await {
            Err(_) => {
                let text = format!("timed out after {timeout}");
                Delivered::failed(FailureKind::Timeout, text)
            }
            Ok(Ok(Ok(answer))) => Delivered {
                answer: answer.map(|text| cut(&text, ANSWER_KEPT_BYTES)),
                ..Delivered::status(200)
            },
            Ok(Ok(Err(HandlerError::Retry(text)))) => failed(500, &text),
            Ok(Ok(Err(HandlerError::Final(text)))) => failed(410, &text),
            Ok(Err(ended)) => match ended.try_into_panic() {
                Ok(panic) => failed(500, &format!("the handler panicked: {}", said(&*panic))),
                Err(_) => Delivered::failed(FailureKind::Broken, "its runtime is going down"),
            },
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What an invocation needs to know beside its target.
pub(super) struct Attempt {
    pub key: Key,
    pub fence: Fence,
    pub due: Time,
    pub started: Time,
    pub node: NodeId,
    pub timeout: Span,
}

fn invocation(handled: Handled, attempt: Attempt) -> Result<Invocation, String> {
    let parsed: Invoke = handled
        .invoke
        .parse()
        .map_err(|e| format!("the target cannot be read: {e}"))?;
    Ok(Invocation {
        handler: parsed.name().to_owned(),
        arguments: parsed.arguments().to_vec(),
        params: handled.params,
        app: attempt.key.app.to_string(),
        id: attempt.key.id.to_string(),
        attempt: attempt.fence.attempt,
        fence: attempt.fence,
        due: attempt.due,
        started: attempt.started,
        run_of: handled.run_of,
        node: attempt.node,
        timeout: attempt.timeout,
    })
}

fn failed(status: u16, text: &str) -> Delivered {
    Delivered {
        status,
        failure: Some(Failure {
            kind: FailureKind::Handler,
            text: cut(text, ERROR_BYTES_MAX).to_string(),
        }),
        ..Delivered::default()
    }
}

/// The words of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}

/// Ends with whoever waits for it.
struct Running(JoinHandle<Answer>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}
