//! A paused application is not called.
//!
//! Nobody begins an attempt without having folded the entry that triggers it. So where that entry
//! stands behind a pause in the log, whoever begins it knows of the pause: until the application goes
//! on, no call of it may come. This holds whatever is broken, and however late others hear of it.

use super::fold::Folded;
use super::model::Attempt;
use super::run::{Delivery, Op, Run};
use super::{Findings, Verdict};

const NAME: &str = "pauses";

/// Whether any application was paused, as far as the log tells.
pub fn concerns(folded: &Folded) -> bool {
    !folded.model.pauses.is_empty()
}

pub fn check(run: &Run, folded: &Folded) -> Verdict {
    let mut found = Findings::default();
    let mut held = 0;
    for delivery in &run.sink {
        let attempt = folded.model.attempt(&delivery.key, delivery.fence);
        let Some((attempt, of_app)) = attempt.zip(folded.model.pauses.get(&delivery.key.0)) else {
            continue;
        };
        // The last word before it was triggered, and the next one that lets it go on.
        let before = of_app.range(..attempt.index).next_back();
        if before.is_none_or(|(_, paused)| !paused) {
            found.checked += 1;
            continue;
        }
        held += 1;
        let mut behind = of_app.range(attempt.index..);
        let resumed = behind.find(|(_, paused)| !**paused).map(|(at, _)| *at);
        let goes_on = resumed.is_some_and(|at| goes_on(run, delivery, at));
        found.check(goes_on, || {
            format!(
                "{}/{}, attempt {} was triggered at index {}, after its application was paused, and \
                 called at {} us, before anybody let it go on (index {resumed:?})",
                delivery.key.0, delivery.key.1, delivery.attempt, attempt.index, delivery.t_us
            )
        });
    }
    found.note(format!("{held} deliveries that a pause had held up"));
    if run.sink.is_empty() {
        found.checked += 1;
    }
    found.verdict(NAME)
}

/// Whether a pause may have held an attempt up, as far as the log tells.
pub fn held_up(folded: &Folded, app: &str, attempt: &Attempt) -> bool {
    let until = attempt.reported.map_or(u64::MAX, |(index, ..)| index);
    folded.model.pauses.get(app).is_some_and(|of_app| {
        let before = of_app.range(..attempt.index).next_back();
        before.is_some_and(|(_, paused)| *paused)
            || of_app
                .range(attempt.index..until.max(attempt.index))
                .any(|(_, paused)| *paused)
    })
}

/// Whether somebody had asked by then for what is in the log at an index, or later.
fn goes_on(run: &Run, delivery: &Delivery, index: u64) -> bool {
    let may = |op: &Op| {
        let decided = op.got["decided"].as_u64();
        op.f == "resume"
            && op.app.as_ref() == Some(&delivery.key.0)
            && op.began_us <= delivery.t_us
            && !op.had_surely_no_effect()
            && decided.is_none_or(|at| at >= index)
    };
    run.ops.iter().any(may)
}

#[cfg(test)]
mod tests {
    use super::super::build::{Build, at, fence, outcome, submit};
    use super::NAME;
    use serde_json::{Value, json};

    /// A task that is triggered while its application is paused, and called at an instant.
    fn run(called: u64, resumed: Option<u64>) -> Build {
        let mut b = Build::good();
        b.log("pause", 4_100, json!({ "app": "app" }));
        b.log("submit", 4_200, submit("p", &at(4_300), Value::Null));
        let trigger = json!({ "until": at(4_300), "max": 8_192 });
        b.log("trigger", 4_300, trigger);
        b.deliver("p", 1, fence(2, 1), 4_300, called, 200);
        if let Some(resumed) = resumed {
            let index = b.log("resume", resumed, json!({ "app": "app" }));
            let got = json!({ "status": 200, "decided": index });
            b.op("resume", "", json!({}), resumed - 5, "ok", got);
        }
        b.log("done", 4_900, outcome(6, fence(2, 1), called, 200));
        b
    }

    #[test]
    fn a_call_is_held_until_the_application_goes_on() {
        run(4_510, Some(4_500)).passes(NAME);
        run(4_400, Some(4_500)).fails(NAME, "app/p, attempt 1 was triggered at index 28");
        run(4_400, None).fails(NAME, "before anybody let it go on (index None)");
    }
}
