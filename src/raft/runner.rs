//! Work that may block, as a seam: whoever folds or answers must not wait for a disk.

use tokio::sync::oneshot;

/// Does work that may block, beside the tasks of the runtime.
pub trait Runner: Send + Sync + 'static {
    /// Begins the work; `what` it is, for people.
    fn run(&self, what: &'static str, work: Box<dyn FnOnce() + Send>);
}

/// The runtime's threads for blocking work.
pub struct Threads;

impl Runner for Threads {
    fn run(&self, _: &'static str, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(work));
    }
}

/// The work panicked, or the runtime is going down.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not come to its end")]
pub(crate) struct Unfinished(&'static str);

/// Has work done and waits for what it comes to. It is done also when nobody waits any more.
pub(crate) async fn blocking<T: Send + 'static>(
    runner: &dyn Runner,
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        // Whoever waited may have gone.
        let _ = tell.send(work());
    };
    runner.run(what, Box::new(work));
    told.await.map_err(|_| Unfinished(what))
}
