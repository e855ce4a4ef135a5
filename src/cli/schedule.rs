//! `schedule`: what expressions mean, worked out here, without a server.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::WrongUsage;
use super::output::{line, say, table};
use crate::calendar::{Dst, Effect, Gap, Jump, Overlap, Plan, PlanSpec, preview, tz_version};
use crate::model::{Clock, Span, Time};
use crate::node::SystemClock;

/// How far ahead jumps of the clock are looked for.
const PREVIEW: Span = Span::days(366);

#[derive(Debug, Args)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prints when expressions fire next, and what the jumps of the clock do to them.
    ///
    /// Works offline. Five fields are Unix cron, six or seven are Quartz; @daily and its like, and
    /// @every 90s, are understood as well.
    Next(NextArgs),
}

#[derive(Debug, Args)]
struct NextArgs {
    /// The expressions, together one schedule: '0 30 9 ? * MON-FRI'.
    #[arg(required = true, value_name = "EXPR")]
    expressions: Vec<String>,
    /// The time zone, an IANA name.
    #[arg(long, default_value = "UTC")]
    zone: String,
    /// How many times to print.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    count: u16,
    /// The times after this instant (RFC 3339); after now unless given.
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    from: Option<Time>,
    /// What to do when the clock jumps: gap=skip or gap=after, overlap=once or overlap=twice.
    #[arg(long, value_name = "gap=…,overlap=…", value_parser = dst, default_value = "gap=skip,overlap=once")]
    dst: Dst,
    /// The schedule's name, from which H is drawn.
    #[arg(long, default_value = "")]
    name: String,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Reads `gap=after,overlap=twice`.
fn dst(text: &str) -> Result<Dst, String> {
    let mut dst = Dst::default();
    for part in text.split(',') {
        match part.trim() {
            "gap=skip" => dst.gap = Gap::Skip,
            "gap=after" => dst.gap = Gap::After,
            "overlap=once" => dst.overlap = Overlap::Once,
            "overlap=twice" => dst.overlap = Overlap::Twice,
            other => {
                return Err(format!(
                    "{other:?} is none of gap=skip, gap=after, overlap=once, overlap=twice"
                ));
            }
        }
    }
    Ok(dst)
}

/// Does what a `schedule` line says.
///
/// # Errors
/// [`WrongUsage`]: an expression or the zone is refused.
pub fn run(args: &ScheduleArgs) -> Result<()> {
    let Verb::Next(args) = &args.verb;
    let spec = PlanSpec {
        crons: args.expressions.clone(),
        zone: args.zone.clone(),
        dst: args.dst,
        ..PlanSpec::default()
    };
    let plan = Plan::parse(&args.name, &spec).map_err(|e| WrongUsage(e.to_string()))?;
    let from = args.from.unwrap_or_else(|| SystemClock::default().wall());
    let fires: Vec<Time> = plan.after(from).take(usize::from(args.count)).collect();
    let jumps = preview(&plan, from, PREVIEW);
    match args.json {
        true => line(&as_json(&plan, &spec, from, &fires, &jumps).to_string()),
        false => for_people(&plan, args.count, &fires, &jumps),
    }
    Ok(())
}

fn as_json(plan: &Plan, spec: &PlanSpec, from: Time, fires: &[Time], jumps: &[Jump]) -> Value {
    let fires = fires
        .iter()
        .map(|at| json!({ "at": at, "local": plan.shown(*at) }));
    json!({
        "expressions": spec.crons,
        "dialects": plan.dialects().collect::<Vec<_>>(),
        "zone": plan.zone(),
        "tz_version": tz_version(),
        "dst": spec.dst,
        "from": from,
        "fires": fires.collect::<Vec<_>>(),
        "jumps": jumps,
    })
}

fn for_people(plan: &Plan, count: u16, fires: &[Time], jumps: &[Jump]) {
    let rows = fires.iter().map(|at| vec![at.to_string(), plan.shown(*at)]);
    table(&["instant", "on the wall"], rows);
    if fires.len() < usize::from(count) {
        say("no more after these");
    }
    for jump in jumps {
        say(&told(jump));
    }
    say(&format!("time-zone data {}", tz_version()));
}

/// What a jump does, in a sentence.
fn told(jump: &Jump) -> String {
    let (clock, then) = match jump.effect {
        Effect::Skipped => ("leaves out", "they are skipped"),
        Effect::MovedToEnd => ("leaves out", "they fire once, at the end of the gap"),
        Effect::FiresOnce => ("shows twice", "they fire the first time only"),
        Effect::FiresTwice => ("shows twice", "they fire both times"),
    };
    let more = match jump.count - jump.times.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "at {} the clock {clock} {} to {}, with {}{more} of {}: {then}",
        jump.at,
        jump.wall_from,
        jump.wall_to,
        jump.times.join(", "),
        jump.member
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read() {
        let after = Dst {
            gap: Gap::After,
            overlap: Overlap::Once,
        };
        assert_eq!(dst("gap=after"), Ok(after));
        let both = Dst {
            gap: Gap::After,
            overlap: Overlap::Twice,
        };
        assert_eq!(dst("overlap=twice, gap=after"), Ok(both));
        for bad in ["", "gap", "gap=twice", "gap=skip,", "overlap=never"] {
            assert!(
                dst(bad).unwrap_err().contains("is none of gap=skip"),
                "{bad}"
            );
        }
    }
}
