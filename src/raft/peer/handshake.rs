//! Who is there: cluster, node, incarnation, and the cluster secret without sending it.

use bincode::{Decode, Encode};
use std::io;
use subtle::ConstantTimeEq;
use tokio::io::AsyncWriteExt;

use super::Duplex;
use super::frame::Frame;
use crate::model::{NodeId, decode, encode};

const VERSION: u16 = 1;
const HELLO: u8 = 250;
const WELCOME: u8 = 251;
const PROOF: u8 = 252;
const REFUSED: u8 = 253;

/// The key that the cluster secret becomes. Without a secret there is nothing to prove.
#[derive(Clone, Default)]
pub(crate) struct Secret(Option<[u8; 32]>);

impl Secret {
    pub(crate) fn new(secret: Option<&str>) -> Secret {
        Secret(secret.map(|s| blake3::derive_key("horolog peer handshake v1", s.as_bytes())))
    }

    /// Proves the secret over both nonces and the roles, so that no proof fits anywhere else.
    fn proof(&self, role: &str, hello: &Hello, nonce: [u8; 16]) -> [u8; 32] {
        let Some(key) = &self.0 else { return [0; 32] };
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher
            .update(role.as_bytes())
            .update(&encode(hello))
            .update(&nonce);
        *hasher.finalize().as_bytes()
    }
}

/// Who this node is. The cluster is 0 until it is formed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Self_ {
    pub(crate) cluster: u128,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u128,
}

/// What a dialer says first.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Hello {
    version: u16,
    pub(crate) cluster: u128,
    pub(crate) from: NodeId,
    /// 0: whoever is there.
    pub(crate) to: NodeId,
    pub(crate) incarnation: u128,
    pub(crate) lane: u8,
    nonce: [u8; 16],
}

#[derive(Encode, Decode)]
struct Welcome {
    node: NodeId,
    nonce: [u8; 16],
    proof: [u8; 32],
}

fn nonce() -> io::Result<[u8; 16]> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(nonce)
}

async fn send<T: Encode>(stream: &mut dyn Duplex, kind: u8, value: &T) -> io::Result<()> {
    let mut stream = stream;
    Frame {
        id: 0,
        kind,
        body: encode(value).into(),
    }
    .write(&mut stream)
    .await?;
    stream.flush().await
}

async fn receive<T: Decode<()>>(stream: &mut dyn Duplex, kind: u8) -> io::Result<T> {
    let mut stream = stream;
    let frame = Frame::read(&mut stream).await?;
    if frame.kind == REFUSED {
        let why = String::from_utf8_lossy(&frame.body).into_owned();
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if frame.kind != kind {
        return Err(io::Error::other(
            "the other side does not speak this protocol",
        ));
    }
    decode(&frame.body).map_err(io::Error::other)
}

/// The dialer's part.
pub(crate) async fn dial(
    stream: &mut dyn Duplex,
    me: Self_,
    (to, certified): (NodeId, Option<NodeId>),
    lane: u8,
    secret: &Secret,
) -> io::Result<()> {
    if let Some(certified) = certified.filter(|certified| to != 0 && *certified != to) {
        return Err(denied(&format!(
            "node {certified}'s certificate is shown where node {to} should be"
        )));
    }
    let hello = Hello {
        version: VERSION,
        cluster: me.cluster,
        from: me.node,
        to,
        incarnation: me.incarnation,
        lane,
        nonce: nonce()?,
    };
    send(stream, HELLO, &hello).await?;
    let welcome: Welcome = receive(stream, WELCOME).await?;
    if to != 0 && welcome.node != to {
        return Err(io::Error::other(format!(
            "node {} answers where node {to} should",
            welcome.node
        )));
    }
    if certified.is_some_and(|certified| certified != welcome.node) {
        return Err(denied(&mismatch(certified, welcome.node)));
    }
    let expected = secret.proof("acceptor", &hello, welcome.nonce);
    if !bool::from(expected.ct_eq(&welcome.proof)) {
        return Err(denied("the other node has another cluster secret"));
    }
    send(
        stream,
        PROOF,
        &secret.proof("dialer", &hello, welcome.nonce),
    )
    .await
}

/// The acceptor's part. `admit` says why a dialer is not wanted.
pub(crate) async fn accept(
    stream: &mut dyn Duplex,
    me: Self_,
    certified: Option<NodeId>,
    secret: &Secret,
    admit: impl FnOnce(&Hello) -> Result<(), String>,
) -> io::Result<Hello> {
    let hello: Hello = receive(stream, HELLO).await?;
    let nonce = nonce()?;
    let proof = secret.proof("acceptor", &hello, nonce);
    send(
        stream,
        WELCOME,
        &Welcome {
            node: me.node,
            nonce,
            proof,
        },
    )
    .await?;
    let proof: [u8; 32] = receive(stream, PROOF).await?;
    let refusal = if !bool::from(secret.proof("dialer", &hello, nonce).ct_eq(&proof)) {
        Some("the cluster secrets differ".into())
    } else if certified.is_some_and(|certified| certified != hello.from) {
        Some(mismatch(certified, hello.from))
    } else if hello.version != VERSION {
        Some(format!(
            "peer protocol {} is not spoken here, only {VERSION}",
            hello.version
        ))
    } else if hello.to != 0 && hello.to != me.node {
        Some(format!("this is node {}, not {}", me.node, hello.to))
    } else {
        admit(&hello).err()
    };
    let Some(why) = refusal else { return Ok(hello) };
    refuse(stream, &why).await?;
    Err(denied(&why))
}

/// Tells the dialer that it is not wanted.
pub(super) async fn refuse(mut stream: &mut dyn Duplex, why: &str) -> io::Result<()> {
    Frame {
        id: 0,
        kind: REFUSED,
        body: why.to_owned().into(),
    }
    .write(&mut stream)
    .await?;
    stream.flush().await
}

fn mismatch(certified: Option<NodeId>, said: NodeId) -> String {
    let certified = certified.unwrap_or_default();
    format!("node {said} shows the certificate of node {certified}: each has its own")
}

/// Whether a frame after the handshake is the acceptor's refusal, and its reason.
pub(crate) fn refusal(frame: &Frame) -> Option<String> {
    (frame.kind == REFUSED).then(|| String::from_utf8_lossy(&frame.body).into_owned())
}

pub(super) fn denied(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Self_ = Self_ {
        cluster: 9,
        node: 1,
        incarnation: 11,
    };
    const B: Self_ = Self_ {
        cluster: 9,
        node: 2,
        incarnation: 22,
    };

    async fn meet(ours: Option<&str>, theirs: Option<&str>) -> (io::Result<()>, io::Result<Hello>) {
        let (mut a, mut b) = tokio::io::duplex(4096);
        let (ours, theirs) = (Secret::new(ours), Secret::new(theirs));
        tokio::join!(
            async move { dial(&mut a, A, (2, None), 1, &ours).await },
            async move { accept(&mut b, B, None, &theirs, |_| Ok(())).await }
        )
    }

    #[tokio::test]
    async fn the_same_secret_or_none_meet() {
        for secret in [None, Some("s")] {
            let (dialled, accepted) = meet(secret, secret).await;
            assert!(dialled.is_ok());
            assert_eq!(accepted.unwrap().from, 1);
        }
    }

    #[tokio::test]
    async fn other_secrets_do_not() {
        for (ours, theirs) in [(Some("s"), Some("t")), (None, Some("t")), (Some("s"), None)] {
            let (dialled, accepted) = meet(ours, theirs).await;
            assert!(dialled.is_err() && accepted.is_err());
        }
    }
}
