//! From the executor back into the log.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bugs::{self, Bug};
use crate::model::Event;
use crate::raft::{Class, Cluster};

/// Reports that may wait between executor and log; beyond it the executor starts fewer calls.
pub(super) const WAITING_MAX: usize = 8_192;
/// Reports that go to the log together.
const TOGETHER_MAX: usize = 512;
/// Between two tries while no leader takes them.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// Proposes what the executor reports, until the log has it: an outcome that is not in the log
/// would be made again by the next owner. When told to stop, it ends with what is waiting.
pub(super) async fn report(
    cluster: Cluster,
    mut inbox: mpsc::Receiver<Event>,
    stop: CancellationToken,
) {
    let mut events = Vec::with_capacity(TOGETHER_MAX);
    loop {
        let received = tokio::select! {
            biased;
            received = inbox.recv_many(&mut events, TOGETHER_MAX) => received,
            () = stop.cancelled() => return,
        };
        if received == 0 {
            return;
        }
        while !events.is_empty() {
            let answers = cluster.decide(Class::Outcome, events.clone()).await;
            let mut answers = answers.into_iter();
            // A repeated report finds its attempt closed, and changes nothing.
            events.retain(|_| answers.next().is_none_or(|answer| answer.is_err()));
            if bugs::on(Bug::OutcomeDropped) {
                events.clear();
            }
            if !events.is_empty() {
                #[allow(clippy::disallowed_methods)] // Until there is a leader.
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
