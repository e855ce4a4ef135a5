//! Query strings and path segments, read strictly: an unknown or repeated parameter is refused,
//! because a filter that is silently ignored shows the wrong tasks.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use std::collections::BTreeMap;

use super::problem::Problem;
use crate::model::{Key, Span, Time};

/// The parameters of one request.
#[derive(Debug, Default)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// Accepts `allowed` names; one that ends with `.` allows every name that begins with it.
    pub fn read(uri: &Uri, allowed: &[&str]) -> Result<Params, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Problem::malformed(error.body_text()))?;
        let mut params = BTreeMap::new();
        for (name, value) in pairs {
            let fits = |a: &&str| *a == name || (a.ends_with('.') && name.starts_with(*a));
            if !allowed.iter().any(fits) {
                let detail = format!(
                    "unknown query parameter {name:?}; known: {}",
                    allowed.join(", ")
                );
                return Err(Problem::invalid(detail));
            }
            if params.insert(name.clone(), value).is_some() {
                return Err(Problem::invalid(format!(
                    "query parameter {name:?} is given twice"
                )));
            }
        }
        Ok(Params(params))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Those that begin with a prefix, without it.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        self.0
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    pub fn time(&self, name: &str) -> Result<Option<Time>, Problem> {
        self.parsed(name, |text| match text.parse::<u64>() {
            Ok(millis) if millis <= Time::MAX.0 => Ok(Time(millis)),
            Ok(_) => Err(format!("{text} ms lies beyond the year 9999")),
            Err(_) => Time::parse(text),
        })
    }

    pub fn span(&self, name: &str, max: Span) -> Result<Option<Span>, Problem> {
        self.parsed(name, |text| match Span::parse(text)? {
            span if span > max => Err(format!("{span} is longer than {max}")),
            span => Ok(span),
        })
    }

    pub fn number(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>, Problem> {
        self.parsed(name, |text| match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(format!("{text:?} is not a number from {min} to {max}")),
        })
    }

    /// `?read=local` asks for what this node knows, at once.
    pub fn local_read(&self) -> Result<bool, Problem> {
        let local = self.parsed("read", |text| match text {
            "local" => Ok(true),
            "linear" => Ok(false),
            _ => Err(format!("{text:?} is neither local nor linear")),
        })?;
        Ok(local.unwrap_or(false))
    }

    fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        let wrong = |reason| Problem::invalid(format!("`{name}`: {reason}"));
        self.get(name).map(parse).transpose().map_err(wrong)
    }
}

/// `{app}/{id}` of a path.
pub struct TaskKey(pub Key);

impl<S: Send + Sync> FromRequestParts<S> for TaskKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<TaskKey, Problem> {
        let Path((app, id)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::malformed(error.body_text()))?;
        Ok(TaskKey(Key::new(&app, &id)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Params, Problem> {
        Params::read(
            &format!("/x?{query}").parse().unwrap(),
            &["app", "due_from", "wait", "label."],
        )
    }

    #[test]
    fn parameters_are_read_strictly() {
        let params = read("app=shop&label.order=17&due_from=2026-01-01T00:00:00%2B01:00").unwrap();
        assert_eq!(params.get("app"), Some("shop"));
        assert_eq!(
            params.with_prefix("label.").collect::<Vec<_>>(),
            [("order", "17")]
        );
        assert!(params.time("due_from").unwrap().is_some());
        for bad in ["ap=1", "app=1&app=2", "stage=done"] {
            assert_eq!(read(bad).unwrap_err().status().as_u16(), 422, "{bad}");
        }
        assert!(
            read("wait=1h")
                .unwrap()
                .span("wait", Span::minutes(1))
                .is_err()
        );
        assert!(read("due_from=x").unwrap().time("due_from").is_err());
        assert!(read("").unwrap().time("due_from").unwrap().is_none());
    }
}
