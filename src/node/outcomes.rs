//! From the executor back into the log.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bugs::{self, Bug};
use crate::model::Event;
use crate::raft::{Busy, Class, Cluster, Decided};

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
        until_decided(&mut events, |events| {
            let cluster = cluster.clone();
            async move { cluster.decide(Class::Outcome, events).await }
        })
        .await;
    }
}

/// Proposes what was not decided again and again, until all of it is.
async fn until_decided<F>(events: &mut Vec<Event>, decide: impl Fn(Vec<Event>) -> F)
where
    F: Future<Output = Vec<Result<Decided, Busy>>>,
{
    while !events.is_empty() {
        let mut answers = decide(events.clone()).await.into_iter();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttemptEnd, Done, Fence, Outcome, Seq};
    use std::collections::VecDeque;
    use std::sync::Mutex;

    #[tokio::test]
    async fn what_the_log_did_not_take_is_proposed_until_it_does() {
        let done = |seq| {
            Event::from(Done {
                seq: Seq(seq),
                fence: Fence::default(),
                node: 1,
                end: AttemptEnd::default(),
            })
        };
        let decided = || {
            Ok(Decided {
                index: 1,
                outcome: Outcome::Folded,
            })
        };
        let answers = Mutex::new(VecDeque::from([
            vec![decided(), Err(Busy::NoLeader)],
            vec![Err(Busy::Unknown)],
            vec![decided()],
        ]));
        let asked = Mutex::new(Vec::new());
        let mut events = vec![done(1), done(2)];
        until_decided(&mut events, |events| {
            asked.lock().unwrap().push(events);
            let answer = answers.lock().unwrap().pop_front();
            async move { answer.expect("it was decided") }
        })
        .await;
        let asked = asked.into_inner().unwrap();
        let expected = [vec![done(1), done(2)], vec![done(2)], vec![done(2)]];
        assert_eq!(asked, expected, "I-16: what was not decided is asked again");
        assert!(events.is_empty());
    }
}
