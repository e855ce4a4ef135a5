//! The network between the machines: connections that deliver bytes late, hold them back where
//! there is a partition, bend them, break, and know when a machine has gone.
//!
//! Bytes of one connection stay in order, as with TCP; those of several overtake each other.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use horolog::log::sim_disk::Dice;
use horolog::raft::{Accepted, Arrival, Connecting, Connection, Listener, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may be under way in one direction before the writer waits.
const UNDER_WAY_MAX: usize = 256 << 10;
/// A dialer that hears nothing looks again after this.
const DIAL_AGAIN: Duration = Duration::from_millis(200);

/// How a direction between two machines is, apart from its delay.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    blocked: bool,
    /// Further delay, in microseconds.
    slow_us: u64,
    /// One write in so many has a bit turned; 0: none.
    bends: u64,
}

/// One direction of a connection.
struct Pipe {
    from: u64,
    to: u64,
    queue: VecDeque<(u64, Vec<u8>)>,
    under_way: usize,
    last_us: u64,
    /// Ends of the connection that are gone.
    dropped: u8,
    /// After what is in the queue there is nothing more.
    ended: bool,
    /// It broke: both sides find that out.
    broken: bool,
    /// The machine at the other end lost its power: nobody hears that.
    silent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake_all(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }
}

/// A machine that listens.
#[derive(Default)]
struct Door {
    inbox: VecDeque<End>,
    waker: Option<Waker>,
}

struct State {
    now_us: u64,
    dice: Dice,
    next: u64,
    pipes: BTreeMap<u64, Pipe>,
    doors: BTreeMap<u64, Door>,
    ways: BTreeMap<(u64, u64), Way>,
    /// Writes, their bytes, and connections made: for the trace.
    writes: u64,
    bytes: u64,
    bent: u64,
}

/// All wires. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Wires(Arc<Mutex<State>>);

impl Wires {
    pub fn new(seed: u64) -> Wires {
        Wires(Arc::new(Mutex::new(State {
            now_us: 0,
            dice: Dice::new(seed),
            next: 0,
            pipes: BTreeMap::new(),
            doors: BTreeMap::new(),
            ways: BTreeMap::new(),
            writes: 0,
            bytes: 0,
            bent: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the trace has of it: writes, bytes, open pipes, bent writes.
    pub fn counts(&self) -> (u64, u64, usize, u64) {
        let state = self.state();
        (state.writes, state.bytes, state.pipes.len(), state.bent)
    }

    /// Time goes on: whoever waits for what arrives now is woken.
    pub fn tick(&self, now_us: u64) {
        let mut state = self.state();
        state.now_us = now_us;
        let State { pipes, ways, .. } = &mut *state;
        for pipe in pipes.values_mut() {
            let blocked = ways.get(&(pipe.from, pipe.to)).is_some_and(|w| w.blocked);
            let due = pipe.queue.front().is_some_and(|(at, _)| *at <= now_us);
            if due && !blocked {
                pipe.reader.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// Bytes from one machine to another are held back, or no longer.
    pub fn block(&self, from: u64, to: u64, blocked: bool) {
        let mut state = self.state();
        state.ways.entry((from, to)).or_default().blocked = blocked;
        if !blocked {
            let of = |pipe: &&mut Pipe| (pipe.from, pipe.to) == (from, to);
            state.pipes.values_mut().filter(of).for_each(Pipe::wake_all);
        }
    }

    pub fn slow(&self, from: u64, to: u64, slow_us: u64) {
        self.state().ways.entry((from, to)).or_default().slow_us = slow_us;
    }

    pub fn bend(&self, from: u64, to: u64, bends: u64) {
        self.state().ways.entry((from, to)).or_default().bends = bends;
    }

    /// Every connection between two machines breaks.
    pub fn cut(&self, one: u64, other: u64) {
        self.break_where(|pipe| {
            (pipe.from, pipe.to) == (one, other) || (pipe.from, pipe.to) == (other, one)
        });
    }

    /// A machine is gone. `told`: its system closes its connections; else nobody hears of it
    /// before it is back.
    pub fn gone(&self, node: u64, told: bool) {
        let door = self.state().doors.remove(&node);
        // What waited at the door is dropped without the lock.
        drop(door);
        match told {
            true => self.break_where(|pipe| pipe.from == node || pipe.to == node),
            false => {
                let mut state = self.state();
                let of = |pipe: &&mut Pipe| pipe.from == node || pipe.to == node;
                state.pipes.values_mut().filter(of).for_each(|pipe| {
                    pipe.silent = true;
                    pipe.queue.clear();
                });
            }
        }
    }

    /// A machine is back: what others still held of its former life breaks.
    pub fn listen(&self, node: u64) -> Box<dyn Listener> {
        self.break_where(|pipe| pipe.silent && (pipe.from == node || pipe.to == node));
        self.state().doors.insert(node, Door::default());
        Box::new(Ear(self.clone(), node))
    }

    /// The network as a machine sees it.
    pub fn of(&self, node: u64) -> Arc<dyn Network> {
        Arc::new(Plug(self.clone(), node))
    }

    fn break_where(&self, which: impl Fn(&Pipe) -> bool) {
        let mut state = self.state();
        for pipe in state.pipes.values_mut().filter(|pipe| which(pipe)) {
            pipe.broken = true;
            pipe.queue.clear();
            pipe.wake_all();
        }
    }

    /// One try to connect: the two ends, or nothing while it cannot get through.
    fn connect(&self, from: u64, to: u64) -> Option<io::Result<End>> {
        let mut state = self.state();
        let blocked = |way| state.ways.get(&way).is_some_and(|way: &Way| way.blocked);
        if blocked((from, to)) || blocked((to, from)) {
            return None;
        }
        if !state.doors.contains_key(&to) {
            return Some(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let (there, back) = (state.pipe(from, to), state.pipe(to, from));
        let end = |reads, writes| End {
            wires: self.clone(),
            reads,
            writes,
        };
        if let Some(door) = state.doors.get_mut(&to) {
            door.inbox.push_back(end(there, back));
            door.waker.take().into_iter().for_each(Waker::wake);
        }
        Some(Ok(end(back, there)))
    }

    fn delay(&self, from: u64, to: u64) -> Duration {
        let mut state = self.state();
        Duration::from_micros(state.delay_us(from, to))
    }
}

impl State {
    fn pipe(&mut self, from: u64, to: u64) -> u64 {
        let pipe = Pipe {
            from,
            to,
            queue: VecDeque::new(),
            under_way: 0,
            last_us: 0,
            dropped: 0,
            ended: false,
            broken: false,
            silent: false,
            reader: None,
            writer: None,
        };
        self.next += 1;
        self.pipes.insert(self.next, pipe);
        self.next
    }

    /// Mostly a fraction of a millisecond, seldom much more.
    fn delay_us(&mut self, from: u64, to: u64) -> u64 {
        let slow = self.ways.get(&(from, to)).map_or(0, |way| way.slow_us);
        let jitter = match self.dice.below(200) {
            0 => self.dice.below(20_000),
            _ => self.dice.below(1_000),
        };
        200 + jitter
            + slow
                .checked_ilog2()
                .map_or(0, |_| self.dice.below(slow * 2))
    }
}

struct Plug(Wires, u64);

impl Network for Plug {
    fn dial(&self, address: String) -> Connecting {
        let (wires, from) = (self.0.clone(), self.1);
        Box::pin(async move {
            let to = address.parse::<u64>().map_err(io::Error::other)?;
            loop {
                #[allow(clippy::disallowed_methods)] // The way there.
                tokio::time::sleep(wires.delay(from, to)).await;
                if let Some(end) = wires.connect(from, to) {
                    return end.map(connection);
                }
                #[allow(clippy::disallowed_methods)] // The dialer's system tries again.
                tokio::time::sleep(DIAL_AGAIN).await;
            }
        })
    }
}

fn connection(end: End) -> Connection {
    Connection {
        stream: Box::new(end),
        certified: None,
    }
}

struct Ear(Wires, u64);

impl Listener for Ear {
    fn accept(&mut self) -> Accepted<'_> {
        Box::pin(std::future::poll_fn(|context| {
            let mut state = self.0.state();
            let Some(door) = state.doors.get_mut(&self.1) else {
                return Poll::Pending;
            };
            match door.inbox.pop_front() {
                Some(end) => Poll::Ready(Ok(Arrival {
                    connection: Box::pin(std::future::ready(Ok(connection(end)))),
                    from: "a peer".into(),
                })),
                None => {
                    door.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }
}

/// One end of a connection.
struct End {
    wires: Wires,
    reads: u64,
    writes: u64,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.wires.state();
        let now_us = state.now_us;
        for id in [self.reads, self.writes] {
            let Some(pipe) = state.pipes.get_mut(&id) else {
                continue;
            };
            pipe.dropped += 1;
            if pipe.dropped == 2 {
                state.pipes.remove(&id);
                continue;
            }
            // Nobody hears it of a machine without power, and of one that was killed all have
            // heard: in which order a runtime drops its tasks must not matter to others.
            if pipe.silent || pipe.broken {
                continue;
            }
            if id == self.reads {
                pipe.broken = true;
            } else {
                // The end travels like bytes.
                pipe.ended = true;
                pipe.queue.push_back((pipe.last_us.max(now_us), Vec::new()));
            }
            pipe.wake_all();
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.wires.state();
        let State {
            now_us,
            pipes,
            ways,
            ..
        } = &mut *state;
        let Some(pipe) = pipes.get_mut(&self.reads) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let blocked = ways.get(&(pipe.from, pipe.to)).is_some_and(|w| w.blocked);
        let arrived = pipe.queue.front().is_some_and(|(at, _)| at <= now_us);
        if blocked || !arrived {
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        if let Some((at, mut bytes)) = pipe.queue.pop_front() {
            let taken = bytes.len().min(out.remaining());
            out.put_slice(&bytes[..taken]);
            pipe.under_way -= taken;
            if taken < bytes.len() {
                pipe.queue.push_front((at, bytes.split_off(taken)));
            }
        }
        pipe.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.wires.state();
        let state = &mut *state;
        let Some(way) = state.pipes.get(&self.writes).map(|p| (p.from, p.to)) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let delay = state.delay_us(way.0, way.1);
        let bends = state.ways.get(&way).map_or(0, |way| way.bends);
        let bent = bends > 0 && state.dice.below(bends) == 0;
        let bit = state.dice.roll() as usize;
        let now_us = state.now_us;
        let Some(pipe) = state.pipes.get_mut(&self.writes) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if pipe.broken || pipe.ended {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.under_way >= UNDER_WAY_MAX {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.writes += 1;
        state.bytes += bytes.len() as u64;
        if pipe.silent {
            return Poll::Ready(Ok(bytes.len()));
        }
        let mut sent = bytes.to_vec();
        if bent && !sent.is_empty() {
            let at = bit / 8 % sent.len();
            sent[at] ^= 1 << (bit % 8);
            state.bent += 1;
        }
        pipe.under_way += sent.len();
        pipe.last_us = pipe.last_us.max(now_us + delay);
        pipe.queue.push_back((pipe.last_us, sent));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
