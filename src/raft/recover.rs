//! The way on when a majority of the voters is lost for good: one survivor goes on alone.
//!
//! It is given a membership of itself only, in a term above all it has seen, and its cluster
//! another id, so that no node of the old one, come back from somewhere, can speak to it. What only
//! the lost nodes had is lost; that somebody may have been told otherwise is why nothing ever does
//! this by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};

use openraft::Membership;

use super::folder::Directory;
use super::snapshots::Snapshots;
use super::types::{Member, Vote, VoteBytes, from_log, log_id, to_log};
use crate::log::{Identity, Kind, LogStore, Position};
use crate::model::{NodeId, decode, encode};

/// Entries are read in pieces of about this size.
const PIECE_BYTES: usize = 8 << 20;

/// How a stopped node stands: of several survivors the one with the greatest `last` lost least.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The end of its log, or of its store where the log was given up.
    pub last: Position,
    /// The members as it knows them: peer address by id.
    pub members: BTreeMap<NodeId, String>,
    known: BTreeMap<NodeId, Member>,
    term: u64,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Looks at the files of a stopped node.
///
/// # Errors
/// They cannot be read, or the node never was a member of a cluster.
pub fn standing(dir: &Path, identity: &Identity, log: &LogStore) -> Result<Standing, Failed> {
    let (_, stored) = Snapshots::open(Arc::new(Directory::open(dir.join("state"))?))?.state()?;
    let mut members = stored.members().membership().clone();
    let bounds = log.bounds();
    let mut next = bounds.purged.map_or(0, |purged| purged.index + 1);
    loop {
        let piece = log.read(next..u64::MAX, PIECE_BYTES)?;
        let Some(end) = piece.last() else { break };
        next = end.at.index + 1;
        for entry in piece {
            if entry.kind == Kind::Membership
                && let openraft::EntryPayload::Membership(changed) = from_log(entry)?.payload
            {
                members = changed;
            }
        }
    }
    let last = bounds.last.or(bounds.purged);
    let last = last.ok_or("this node has no log: it never was a member of a cluster")?;
    let known: BTreeMap<NodeId, Member> = members
        .nodes()
        .map(|(id, member)| (*id, member.clone()))
        .collect();
    if !known.contains_key(&identity.node) {
        return Err("this node is no member of its cluster any more".into());
    }
    let vote: Option<VoteBytes> = log.vote().map(|bytes| decode(&bytes)).transpose()?;
    let voted = vote.map_or(0, |vote| Vote::from(vote).leader_id.term);
    Ok(Standing {
        last,
        members: known
            .iter()
            .map(|(id, member)| (*id, member.peer.clone()))
            .collect(),
        known,
        term: voted.max(last.term),
    })
}

/// Makes a stopped node the only member of a cluster of its own, with all that it holds.
///
/// # Errors
/// The files cannot be written. It may be done again.
pub fn go_on_alone(
    dir: &Path,
    identity: &Identity,
    log: &LogStore,
    standing: &Standing,
) -> Result<(), Failed> {
    let node = identity.node;
    let at = Position {
        term: standing.term + 1,
        node,
        index: standing.last.index + 1,
    };
    // First, so that whatever happens next it does not speak to the old cluster.
    Identity {
        cluster: another(identity, at),
        ..*identity
    }
    .store(dir)?;
    let member = standing.known.get(&node).cloned().ok_or("no member")?;
    let alone = Membership::new(vec![[node].into()], BTreeMap::from([(node, member)]))?;
    let entry = openraft::Entry {
        log_id: log_id(at),
        payload: openraft::EntryPayload::Membership(alone),
    };
    let vote = Vote {
        leader_id: openraft::vote::RaftLeaderId::new(at.term, node),
        committed: true,
    };
    let (told, written) = mpsc::channel();
    let vote_told = told.clone();
    log.save_vote(
        encode(&VoteBytes::from(&vote)).into(),
        Box::new(move |result| drop(vote_told.send(result))),
    );
    log.append(
        vec![to_log(&entry)],
        Box::new(move |result| drop(told.send(result))),
    );
    for result in written {
        result?;
    }
    log.close();
    Ok(())
}

/// The id of the cluster that begins here.
fn another(identity: &Identity, at: Position) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&identity.cluster.to_le_bytes())
        .update(&identity.incarnation.to_le_bytes())
        .update(&at.term.to_le_bytes())
        .update(&at.index.to_le_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half).max(1)
}
