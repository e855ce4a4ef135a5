//! Why something was refused: where it stands, what was found, and what is allowed there.

use std::fmt;

/// A refusal of an expression, a zone, a policy or a whole plan.
///
/// ```
/// use horolog::calendar::{Plan, PlanSpec};
///
/// let refused = Plan::parse("shop.report", &PlanSpec::cron("0 25 * * *")).unwrap_err();
/// assert_eq!(
///     refused.to_string(),
///     "crons[0], hour field, column 3: found \"25\"; allowed is 0-23"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// The member of the plan, such as `crons[0]` or `zone`.
    pub member: String,
    /// The field of a cron expression.
    pub field: Option<&'static str>,
    /// Where in the text of the member, counted in characters from 1.
    pub column: Option<usize>,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

impl PlanError {
    /// A refusal of a whole member.
    pub(super) fn of(member: &str, found: impl fmt::Display, allowed: impl Into<String>) -> Self {
        PlanError {
            member: member.to_owned(),
            field: None,
            column: None,
            found: found.to_string(),
            allowed: allowed.into(),
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.member)?;
        if let Some(field) = self.field {
            write!(f, ", {field} field")?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": found {:?}; allowed is {}", self.found, self.allowed)
    }
}

impl std::error::Error for PlanError {}
