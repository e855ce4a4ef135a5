//! The calendar, from outside.

mod dst;
mod expressions;
mod opinions;
mod oracle;
mod questions;

use super::*;
use crate::model::Time;

/// An instant.
fn time(text: &str) -> Time {
    Time::parse(text).unwrap()
}

fn plan(spec: &PlanSpec) -> Plan {
    Plan::parse("group.name", spec).unwrap_or_else(|e| panic!("{e}"))
}

/// One expression in a zone, with the default policy.
fn cron(expression: &str, zone: &str) -> Plan {
    plan(&PlanSpec::cron(expression).in_zone(zone))
}

/// What an expression is refused with.
fn refusal(expression: &str) -> String {
    let refused = Plan::parse("group.name", &PlanSpec::cron(expression));
    refused.expect_err(expression).to_string()
}

/// What the wall clock shows at the next occurrences, with the offset.
fn next(plan: &Plan, after: &str, n: usize) -> Vec<String> {
    let next = plan.after(time(after)).take(n);
    next.map(|at| shown(plan, at)).collect()
}

fn shown(plan: &Plan, at: Time) -> String {
    plan.shown(at).split('[').next().unwrap().to_owned()
}
