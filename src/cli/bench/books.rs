//! The books: a run counts only if everything that was submitted is somewhere.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What was done with the tasks of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Books {
    pub app: String,
    /// Tasks that the server said are new.
    pub submitted: u64,
    /// Tasks that got another answer; surely none of them is in the state.
    pub refused: u64,
    pub done: u64,
    pub dead: u64,
    pub cancelled: u64,
    /// In any stage that is not final.
    pub pending: u64,
    /// Different tasks that arrived at the receiver.
    pub arrived: u64,
    pub early: u64,
    pub duplicates: u64,
    pub balanced: bool,
}

impl Books {
    /// Closes the books with the answer of `/v1/stats`.
    pub fn close(mut self, stats: &Value) -> Books {
        let stages: BTreeMap<String, u64> =
            serde_json::from_value(stats["tasks"].clone()).unwrap_or_default();
        for (stage, count) in stages {
            match stage.as_str() {
                "done" => self.done = count,
                "dead" => self.dead = count,
                "cancelled" => self.cancelled = count,
                _ => self.pending += count,
            }
        }
        self.balanced = self.problems().is_empty();
        self
    }

    /// Everything that is wrong, in words.
    pub fn problems(&self) -> Vec<String> {
        let found = self.done + self.dead + self.cancelled + self.pending;
        let mut problems = Vec::new();
        let mut wrong = |is: bool, text: String| {
            if is {
                problems.push(format!("{}: {text}", self.app));
            }
        };
        let submitted = self.submitted;
        wrong(
            found != submitted,
            format!("{submitted} tasks were submitted, the server knows {found}"),
        );
        wrong(
            self.arrived < self.done,
            format!("{} are done, {} arrived", self.done, self.arrived),
        );
        wrong(self.early > 0, format!("{} came early", self.early));
        wrong(self.dead > 0, format!("{} are dead", self.dead));
        wrong(
            self.refused > 0,
            format!("{} submits were not taken", self.refused),
        );
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn books(submitted: u64, stats: Value) -> Books {
        let open = Books {
            app: "a".into(),
            submitted,
            arrived: 7,
            ..Books::default()
        };
        open.close(&json!({ "index": 9, "tasks": stats }))
    }

    #[test]
    fn every_stage_is_counted() {
        let stats = json!({ "scheduled": 1, "triggered": 2, "running": 3, "accepted": 4,
            "retrying": 5, "done": 6, "dead": 0, "cancelled": 8 });
        let books = books(29, stats);
        assert!(books.balanced, "{:?}", books.problems());
        assert_eq!((books.pending, books.done, books.cancelled), (15, 6, 8));
    }

    #[test]
    fn what_is_missing_is_named() {
        let books = books(10, json!({ "scheduled": 9 }));
        assert!(!books.balanced);
        let text = "a: 10 tasks were submitted, the server knows 9";
        assert_eq!(books.problems(), [text]);
    }

    #[test]
    fn early_dead_and_unheard_tasks_do_not_count() {
        let mut books = books(8, json!({ "done": 8 }));
        assert_eq!(books.problems(), ["a: 8 are done, 7 arrived"]);
        books.early = 1;
        books.dead = 1;
        books.refused = 1;
        assert_eq!(books.problems().len(), 5);
    }

    #[test]
    fn an_answer_without_stages_does_not_balance() {
        assert!(!books(1, json!(null)).balanced);
    }
}
