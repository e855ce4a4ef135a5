//! The instants of a plan, of the few forms that a workload uses: whoever reads them can work them
//! out in the head.

use serde_json::Value;
use std::collections::BTreeSet;

use super::words::{instant, span};

/// One form.
enum Form {
    /// Every so many milliseconds since 1970, and so many later.
    Every {
        period: u64,
        phase: u64,
    },
    /// At these seconds of every minute.
    Seconds(BTreeSet<u64>),
    At(u64),
}

/// Every instant of a plan later than `from`, up to `until`; `None`: it has a form that is not known
/// here.
pub fn within(plan: &Value, from: u64, until: u64) -> Option<BTreeSet<u64>> {
    const PLAIN: [&str; 8] = [
        "crons", "every", "at", "zone", "dst", "exclude", "max_runs", "jitter",
    ];
    let members = plan.as_object()?;
    let mut excludes = plan["exclude"].as_object().into_iter().flatten();
    let excludes = excludes.any(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty()));
    if members.keys().any(|name| !PLAIN.contains(&name.as_str())) || excludes {
        return None;
    }
    let mut all = BTreeSet::new();
    let crons = plan["crons"].as_array().into_iter().flatten();
    let texts = crons.map(|cron| cron.as_str());
    let mut forms = texts
        .map(|cron| cron.and_then(expression))
        .collect::<Option<Vec<Form>>>()?;
    if let Some(text) = plan["every"].as_str() {
        forms.push(every(text)?);
    }
    if !plan["at"].is_null() {
        forms.push(Form::At(instant(&plan["at"])?));
    }
    for form in forms {
        match form {
            Form::Every { period, phase } => {
                let first = (from + 1 + period - phase).div_ceil(period) * period + phase - period;
                all.extend((first..=until).step_by(period as usize));
            }
            Form::Seconds(seconds) => {
                let second = (from + 1).div_ceil(1_000) * 1_000;
                let each = (second..=until).step_by(1_000);
                all.extend(each.filter(|at| seconds.contains(&(at / 1_000 % 60))));
            }
            Form::At(at) => all.extend((at > from && at <= until).then_some(at)),
        }
    }
    Some(all)
}

/// `@every 2s`, or seconds of a Quartz expression that names nothing else.
fn expression(text: &str) -> Option<Form> {
    if let Some(period) = text.strip_prefix("@every ") {
        return every(period);
    }
    let (seconds, rest) = text.split_once(' ')?;
    if rest != "* * * * ?" {
        return None;
    }
    let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n < 60);
    let seconds = match seconds.split_once('/') {
        Some((first, step)) => {
            let first = if first == "*" { 0 } else { number(first)? };
            (first..60).step_by(number(step)?.max(1) as usize).collect()
        }
        None => seconds.split(',').map(number).collect::<Option<_>>()?,
    };
    Some(Form::Seconds(seconds))
}

/// `2s`, `2s phase 300ms`.
fn every(text: &str) -> Option<Form> {
    let (period, phase) = match text.split_once(" phase ") {
        Some((period, phase)) => (period, span(&phase.into())?),
        None => (text, 0),
    };
    let period = span(&period.into()).filter(|period| *period > phase)?;
    Some(Form::Every { period, phase })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_form_is_worked_out() {
        let told = |plan: Value, from, until| {
            let all = within(&plan, from, until).map(Vec::from_iter);
            all.unwrap_or_else(|| vec![0])
        };
        assert_eq!(told(json!({ "every": "2s" }), 2_000, 6_500), [4_000, 6_000]);
        let phased = json!({ "every": "2s phase 300ms", "zone": "UTC" });
        assert_eq!(told(phased.clone(), 2_300, 6_300), [4_300, 6_300]);
        assert_eq!(told(phased, 200, 2_299), [300]);
        let cron = json!({ "crons": ["*/20 * * * * ?", "@every 45s"], "at": 61_001 });
        assert_eq!(
            told(cron, 20_000, 90_000),
            [40_000, 45_000, 60_000, 61_001, 80_000, 90_000]
        );
        let from = json!({ "crons": ["50/7 * * * * ?"] });
        assert_eq!(told(from, 0, 60_000), [50_000, 57_000]);
        for other in [
            json!({ "crons": ["0 0 9 * * ?"] }),
            json!({ "every": "2s", "start": 5 }),
            json!({ "every": "2s", "exclude": { "weekdays": ["SUN"] } }),
        ] {
            assert_eq!(within(&other, 0, 9), None, "{other}");
        }
    }
}
