//! What goes wrong, when, and for how long: drawn from the seed.

use std::io::ErrorKind;

use horolog::log::sim_disk::Dice;

use crate::disk::End;
use crate::machine::{CrashPoint, Machine, STEPS};
use crate::wires::Wires;

/// What can go wrong. The names are those of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The process ends, or the machine loses its power.
    Ends(End, Vec<u64>),
    /// It is stopped in good order, and started again.
    Stops(u64),
    /// The process is stopped for a while; the machine sleeps for a while.
    StandsStill(u64, bool),
    /// Nothing gets from the first to the second.
    Parted(Vec<(u64, u64)>, &'static str),
    Slow(Vec<(u64, u64)>, u64),
    Bends(Vec<(u64, u64)>),
    Cut(u64, u64),
    Clock(u64, i64),
    Stalls(u64),
    /// The disks take so many bytes more.
    Fails(u64, u64, ErrorKind),
    Crash(u64, CrashPoint),
    /// Somebody asks for this node to lead.
    Leads(u64),
    /// A node is to own nothing for a while.
    Drains(u64),
}

impl What {
    pub fn name(&self) -> &'static str {
        match self {
            What::Ends(End::Killed, nodes) if nodes.len() > 1 => "kill all",
            What::Ends(End::Killed, _) => "kill",
            What::Ends(End::PowerLost, nodes) if nodes.len() > 1 => "power lost, all",
            What::Ends(End::PowerLost, _) => "power lost",
            What::Stops(_) => "stop",
            What::StandsStill(_, false) => "pause",
            What::StandsStill(_, true) => "sleep",
            What::Parted(_, name) => name,
            What::Slow(..) => "slow wires",
            What::Bends(_) => "bent bytes",
            What::Cut(..) => "connections cut",
            What::Clock(..) => "clock",
            What::Stalls(_) => "disk stalls",
            What::Fails(_, _, ErrorKind::StorageFull) => "disk full",
            What::Fails(..) => "disk error",
            What::Crash(..) => "power lost at a step",
            What::Leads(_) => "lead moved",
            What::Drains(_) => "drained",
        }
    }

    pub fn nodes(&self) -> Vec<u64> {
        let mut nodes = match self {
            What::Ends(_, nodes) => nodes.clone(),
            What::Stops(n) | What::StandsStill(n, _) | What::Clock(n, _) => vec![*n],
            What::Stalls(n) | What::Fails(n, ..) | What::Crash(n, _) => vec![*n],
            What::Leads(n) | What::Drains(n) => vec![*n],
            What::Parted(ways, _) | What::Slow(ways, _) | What::Bends(ways) => {
                ways.iter().flat_map(|(from, to)| [*from, *to]).collect()
            }
            What::Cut(one, other) => vec![*one, *other],
        };
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Draws one, and how long it lasts, in microseconds.
    pub fn draw(dice: &mut Dice, nodes: u64) -> (What, u64) {
        let one = 1 + dice.below(nodes);
        let other = 1 + (one + dice.below(nodes - 1)) % nodes;
        let both = |a: u64, b: u64| [(a, b), (b, a)];
        let around = |a: u64| -> Vec<(u64, u64)> {
            let others = (1..=nodes).filter(move |b| *b != a);
            others.flat_map(|b| both(a, b)).collect()
        };
        let everywhere: Vec<(u64, u64)> = (1..=nodes)
            .flat_map(|a| (1..=nodes).map(move |b| (a, b)))
            .filter(|(a, b)| a != b)
            .collect();
        let lasts = 200_000 + dice.below(7_000_000);
        let ends = match dice.below(2) {
            0 => End::Killed,
            _ => End::PowerLost,
        };
        let what = match dice.below(108) {
            0..12 => What::Ends(ends, vec![one]),
            12..15 => What::Ends(ends, (1..=nodes).collect()),
            15..18 => What::Ends(ends, (1..=nodes).filter(|n| *n != one).collect()),
            18..22 => What::Stops(one),
            22..30 => What::StandsStill(one, dice.below(3) == 0),
            30..38 => What::Parted(around(one), "isolated"),
            38..46 => What::Parted(both(one, other).into(), "parted"),
            46..54 => What::Parted(vec![(one, other)], "parted one way"),
            54..58 => {
                let from = around(one).into_iter().filter(|(from, _)| *from == one);
                What::Parted(from.collect(), "mute")
            }
            58..62 => {
                let to = around(one).into_iter().filter(|(_, to)| *to == one);
                What::Parted(to.collect(), "deaf")
            }
            62..67 => What::Slow(everywhere, 1_000 + dice.below(150_000)),
            67..70 => What::Slow(around(one), 1_000 + dice.below(400_000)),
            70..73 => What::Bends(everywhere),
            73..76 => What::Cut(one, other),
            76..81 => {
                let far = [40_000, 300_000, 700_000, 3_600_000_000][dice.below(4) as usize];
                let sign = [1, -1][dice.below(2) as usize];
                What::Clock(one, sign * far)
            }
            81..86 => What::Stalls(one),
            86..89 => What::Fails(one, dice.below(40_000), ErrorKind::StorageFull),
            89..91 => What::Fails(one, dice.below(40_000), ErrorKind::Other),
            91..100 => What::Crash(one, crash_point(dice)),
            100..104 => What::Leads(one),
            _ => What::Drains(one),
        };
        let lasts = match what {
            What::Ends(..) | What::Stops(_) | What::Crash(..) => 50_000 + lasts / 2,
            _ => lasts,
        };
        (what, lasts)
    }

    /// What of it is the network's and the clocks'; the rest is the world's, which owns processes.
    pub fn set(&self, on: bool, wires: &Wires, machines: &mut [Machine], until_us: u64) {
        match self {
            What::Parted(ways, _) => {
                ways.iter()
                    .for_each(|(from, to)| wires.block(*from, *to, on));
            }
            What::Slow(ways, us) => {
                let us = if on { *us } else { 0 };
                ways.iter()
                    .for_each(|(from, to)| wires.slow(*from, *to, us));
            }
            What::Bends(ways) => {
                let bends = if on { 60 } else { 0 };
                ways.iter()
                    .for_each(|(from, to)| wires.bend(*from, *to, bends));
            }
            What::Cut(one, other) if on => wires.cut(*one, *other),
            _ => {}
        }
        let at = |n: &u64| (*n - 1) as usize;
        match (self, on) {
            (What::StandsStill(n, asleep), true) => {
                machines[at(n)].stand_still(until_us, *asleep);
            }
            (What::Clock(n, us), _) => machines[at(n)].set_offset(if on { *us } else { -5_000 }),
            (What::Stalls(n), true) => machines[at(n)].stall(until_us),
            (What::Crash(n, point), true) => machines[at(n)].arm(*point),
            (What::Crash(n, _), false) => machines[at(n)].disarm(),
            (What::Fails(n, bytes, kind), true) => {
                let life = machines[at(n)].life.iter();
                let disks = life.flat_map(|life| life.disks.each());
                disks.for_each(|disk| disk.fail_after(*bytes, *kind));
            }
            _ => {}
        }
    }
}

fn crash_point(dice: &mut Dice) -> CrashPoint {
    CrashPoint {
        step: STEPS[dice.below(STEPS.len() as u64) as usize],
        operations: dice.below(14),
    }
}
