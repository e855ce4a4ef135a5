//! `schedule`: what expressions mean, worked out here; and everything about the schedules of a server.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

use super::WrongUsage;
use super::client::{Answer, Remote, Server, encode};
use super::output::{line, say, show, table, text};
use crate::calendar::{Dst, Effect, Gap, Jump, Overlap, Plan, PlanSpec, preview, tz_version};
use crate::model::{Clock, Span, Time};
use crate::node::SystemClock;

/// How far ahead jumps of the clock are looked for.
const PREVIEW: Span = Span::days(366);

#[derive(Debug, Args)]
pub struct ScheduleArgs {
    #[command(flatten)]
    remote: Remote,
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
    /// Creates a schedule.
    Create {
        /// group.name, or name in the group DEFAULT
        id: String,
        #[command(flatten)]
        definition: DefinitionArgs,
    },
    /// Shows a schedule.
    Get { id: String },
    /// Lists schedules.
    List {
        /// Only this group's.
        #[arg(long)]
        group: Option<String>,
        /// active, paused, finished or deleted
        #[arg(long)]
        state: Option<String>,
    },
    /// Gives a schedule another definition, as a new version. What is not given stays as it is,
    /// unless there is a --file.
    Update {
        id: String,
        #[command(flatten)]
        definition: DefinitionArgs,
        /// Only if this is its version now.
        #[arg(long, value_name = "N")]
        if_version: Option<u32>,
        /// Changes nothing; tells which occurrences would be other ones.
        #[arg(long)]
        dry_run: bool,
    },
    /// Skips a schedule's occurrences from now on.
    Pause {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Lets a schedule fire again.
    Resume { id: String },
    /// Deletes a schedule.
    Delete { id: String },
    /// Runs a schedule now.
    Run { id: String },
    /// Runs what a schedule would have run between two instants.
    Backfill {
        id: String,
        #[arg(long, value_name = "TIME", value_parser = Time::parse)]
        from: Time,
        #[arg(long, value_name = "TIME", value_parser = Time::parse)]
        to: Time,
        /// So far apart.
        #[arg(long, value_parser = Span::parse)]
        pace: Option<Span>,
    },
    /// Shows a schedule's versions: who made them, when, and what they changed.
    History { id: String },
    /// Gives a schedule the definition of a former version.
    Revert {
        id: String,
        #[arg(value_name = "VERSION")]
        version: u32,
    },
    /// Shows what became of a schedule's occurrences, the newest first.
    Fires {
        id: String,
        /// fired, late, skipped, coalesced, missed, cancelled or queued
        #[arg(long)]
        outcome: Option<String>,
        #[arg(long, default_value_t = 100)]
        limit: u16,
    },
    /// Counts what falls into each second of the next day, over all schedules.
    Forecast {
        /// How far to look.
        #[arg(long, value_parser = Span::parse)]
        span: Option<Span>,
    },
}

/// What a schedule is to do: a file of JSON, or the most used members as options.
#[derive(Debug, Args)]
struct DefinitionArgs {
    /// The definition as JSON; - is standard input. Options are put on top of it.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// An expression; may be repeated.
    #[arg(long, value_name = "EXPR")]
    cron: Vec<String>,
    /// A period: 90s, or '90s phase 10s'.
    #[arg(long)]
    every: Option<String>,
    /// One instant.
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    at: Option<Time>,
    #[arg(long)]
    zone: Option<String>,
    /// What is called: with --invoke, who is asked to do it.
    #[arg(long)]
    url: Option<String>,
    /// bean.method("a", 2L); without --url a handler in a program that embeds a node.
    #[arg(long)]
    invoke: Option<String>,
    /// A JSON object.
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// allow, skip, queue_one, queue_all or cancel_running
    #[arg(long)]
    overlap: Option<String>,
    /// skip or once; more in a --file
    #[arg(long)]
    catch_up: Option<String>,
    #[arg(long)]
    max_runs: Option<u64>,
}

impl DefinitionArgs {
    /// The definition as it is sent, on top of another one.
    fn onto(&self, base: Map<String, Value>) -> Result<Map<String, Value>> {
        let mut whole = match &self.file {
            Some(path) => read_object(path)?,
            None => base,
        };
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                whole.insert(name.to_owned(), value);
            }
        };
        let crons = (!self.cron.is_empty()).then(|| json!(self.cron));
        set("crons", crons);
        set("every", self.every.as_ref().map(|text| json!(text)));
        set("at", self.at.map(|at| json!(at)));
        set("zone", self.zone.as_ref().map(|text| json!(text)));
        set("overlap", self.overlap.as_ref().map(|text| json!(text)));
        set("catch_up", self.catch_up.as_ref().map(|text| json!(text)));
        set("max_runs", self.max_runs.map(|n| json!(n)));
        if let Some(params) = &self.params {
            let wrong = |e| WrongUsage(format!("--params: {e}"));
            set("params", Some(serde_json::from_str(params).map_err(wrong)?));
        }
        match (&self.invoke, &self.url) {
            (Some(invoke), Some(url)) => {
                set("target", Some(json!({ "invoke": invoke, "url": url })))
            }
            (None, Some(url)) => set("target", Some(json!({ "http": { "url": url } }))),
            (Some(invoke), None) => set("target", Some(json!({ "invoke": invoke }))),
            (None, None) => {}
        }
        Ok(whole)
    }
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = match path == Path::new("-") {
        true => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
        }
        false => std::fs::read(path),
    };
    let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON object", path.display()))
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
/// [`WrongUsage`]: an expression or the zone is refused. Otherwise what the server said.
pub async fn run(args: ScheduleArgs) -> Result<()> {
    let json = args.remote.json;
    if let Verb::Next(next) = &args.verb {
        return next_fires(next, json);
    }
    let server = Server::new(&args.remote)?;
    let path = |id: &str, verb: &str| format!("/v1/schedules/{}{verb}", encode(id));
    let post = async |path: String, body: Option<Value>| {
        let body = body.map(|body| body.to_string().into_bytes());
        server.call(Method::POST, &path, body, Span::ZERO).await
    };
    match args.verb {
        Verb::Next(_) => Ok(()),
        Verb::Create { id, definition } => {
            let mut whole = definition.onto(Map::new())?;
            whole.insert("id".to_owned(), json!(id));
            let answer = post("/v1/schedules".to_owned(), Some(Value::Object(whole))).await?;
            told(&answer, json)
        }
        Verb::Get { id } => told(&server.get(&path(&id, "")).await?, json),
        Verb::List { group, state } => list(&server, group, state, json).await,
        Verb::Update {
            id,
            definition,
            if_version,
            dry_run,
        } => {
            let now = server.get(&path(&id, "")).await?.json;
            let mut whole = definition.onto(sendable(&now))?;
            whole.insert("id".to_owned(), json!(id));
            whole.insert(
                "version".to_owned(),
                if_version.map_or(now["version"].clone(), |v| json!(v)),
            );
            let path = path(&id, if dry_run { "?dry_run=true" } else { "" });
            let body = Some(Value::Object(whole).to_string().into_bytes());
            let answer = server.call(Method::PUT, &path, body, Span::ZERO).await?;
            match dry_run {
                true => line(answer.text.trim_end()),
                false => return told(&answer, json),
            }
            Ok(())
        }
        Verb::Pause { id, reason } => {
            let reason = Some(json!({ "reason": reason }));
            told(&post(path(&id, "/pause"), reason).await?, json)
        }
        Verb::Resume { id } => told(&post(path(&id, "/resume"), None).await?, json),
        Verb::Delete { id } => {
            let answer = server
                .call(Method::DELETE, &path(&id, ""), None, Span::ZERO)
                .await?;
            told(&answer, json)
        }
        Verb::Run { id } => fires(&post(path(&id, "/run"), None).await?, json),
        Verb::Backfill { id, from, to, pace } => {
            let mut body = json!({ "from": from, "to": to });
            if let Some(pace) = pace {
                body["pace"] = json!(pace);
            }
            fires(&post(path(&id, "/backfill"), Some(body)).await?, json)
        }
        Verb::History { id } => {
            show(&server.get(&path(&id, "/history")).await?, json, |answer| {
                let rows = answer["versions"].as_array().into_iter().flatten();
                let members = ["version", "at", "by", "why", "occurrences", "changed"];
                table(
                    &members,
                    rows.map(|row| members.map(|m| text(row, m)).to_vec()),
                );
            });
            Ok(())
        }
        Verb::Revert { id, version } => told(
            &post(path(&id, "/revert"), Some(json!({ "version": version }))).await?,
            json,
        ),
        Verb::Fires { id, outcome, limit } => {
            let outcome = outcome.map_or(String::new(), |o| format!("&outcome={}", encode(&o)));
            let query = format!("/fires?limit={limit}{outcome}");
            fires(&server.get(&path(&id, &query)).await?, json)
        }
        Verb::Forecast { span } => {
            let span = span.map_or(String::new(), |span| format!("?span={span}"));
            let answer = server.get(&format!("/v1/schedules/forecast{span}")).await?;
            show(&answer, json, |seen| {
                let rows = seen["busiest"].as_array().into_iter().flatten();
                let rows = rows.map(|row| {
                    vec![
                        row[0].as_str().unwrap_or_default().to_owned(),
                        row[1].to_string(),
                    ]
                });
                table(&["second", "occurrences"], rows);
                say(&format!(
                    "{} occurrences until {}",
                    seen["occurrences"],
                    text(seen, "until")
                ));
            });
            Ok(())
        }
    }
}

/// The members of a schedule that make its definition.
fn sendable(shown: &Value) -> Map<String, Value> {
    let members = [
        "crons",
        "every",
        "at",
        "zone",
        "dst",
        "exclude",
        "start",
        "end",
        "max_runs",
        "jitter",
        "overlap",
        "queue_max",
        "catch_up",
        "misfire",
        "target",
        "params",
        "labels",
        "retry",
        "accept_timeout",
        "placement",
    ];
    let there = members
        .into_iter()
        .filter(|member| !shown[*member].is_null());
    there
        .map(|member| (member.to_owned(), shown[member].clone()))
        .collect()
}

/// A schedule, a member a line.
fn told(answer: &Answer, json: bool) -> Result<()> {
    show(answer, json, |schedule| {
        for member in [
            "id",
            "version",
            "state",
            "crons",
            "every",
            "at",
            "zone",
            "next",
            "overlap",
            "catch_up",
            "running",
            "queued",
            "totals",
            "changed_at",
            "changed_by",
        ] {
            let value = text(schedule, member);
            if !value.is_empty() {
                line(&format!("{member:<12} {value}"));
            }
        }
    });
    Ok(())
}

/// Lines of the ledger.
fn fires(answer: &Answer, json: bool) -> Result<()> {
    show(answer, json, |answer| {
        let rows = answer["fires"].as_array().into_iter().flatten();
        let members = [
            "planned", "cause", "version", "outcome", "reason", "decided", "stage", "ended",
        ];
        table(
            &members,
            rows.map(|row| members.map(|m| text(row, m)).to_vec()),
        );
    });
    Ok(())
}

async fn list(
    server: &Server,
    group: Option<String>,
    state: Option<String>,
    json: bool,
) -> Result<()> {
    let mut query = "?limit=1000".to_owned();
    for (name, value) in [("group", group), ("state", state)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encode(&value)));
        }
    }
    let mut cursor = String::new();
    loop {
        let answer = server.get(&format!("/v1/schedules{query}{cursor}")).await?;
        show(&answer, json, |page| {
            let rows = page["schedules"].as_array().into_iter().flatten();
            let members = ["id", "version", "state", "next", "overlap", "running"];
            table(
                &members,
                rows.map(|row| members.map(|m| text(row, m)).to_vec()),
            );
        });
        match answer.json["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode(next)),
            None => return Ok(()),
        }
    }
}

fn next_fires(args: &NextArgs, json: bool) -> Result<()> {
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
    match json {
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
        say(&in_words(jump));
    }
    say(&format!("time-zone data {}", tz_version()));
}

/// What a jump does, in a sentence.
fn in_words(jump: &Jump) -> String {
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
