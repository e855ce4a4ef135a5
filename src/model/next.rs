//! What follows a task: others that its end starts.

use bincode::{Decode, Encode};
use serde::Serialize;
use std::sync::Arc;

use super::limits::{ID_BYTES_MAX, TEMPLATES_MAX};
use super::{Key, Span, Spec, SpecError, Stage};

/// A task that the end of another one starts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Template {
    /// Absent: that of the task before it.
    pub app: Option<String>,
    /// Absent: derived from that of the task before it.
    pub id: Option<String>,
    /// It is due so long after the end.
    pub delay: Span,
    /// An encoded [`Spec`], which may have templates itself.
    #[serde(serialize_with = "super::shown::spec")]
    pub spec: Arc<[u8]>,
}

/// What the end of a task starts. A cancelled task starts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Next {
    /// When it is done.
    pub on_success: Option<Template>,
    /// When it is dead.
    pub on_failure: Option<Template>,
    /// Encoded last of all, so that [`Spec::starts_more`] reads nothing else.
    #[serde(skip)]
    any: bool,
}

impl Next {
    pub fn new(on_success: Option<Template>, on_failure: Option<Template>) -> Next {
        Next {
            any: on_success.is_some() || on_failure.is_some(),
            on_success,
            on_failure,
        }
    }

    /// The template for an end.
    pub fn after(&self, end: Stage) -> Option<&Template> {
        match end {
            Stage::Done => self.on_success.as_ref(),
            Stage::Dead => self.on_failure.as_ref(),
            _ => None,
        }
    }

    fn each(&self) -> impl Iterator<Item = (&'static str, Stage, &Template)> {
        let good = self.on_success.iter();
        let bad = self.on_failure.iter();
        good.map(|t| ("on_success", Stage::Done, t))
            .chain(bad.map(|t| ("on_failure", Stage::Dead, t)))
    }

    /// Checks all templates behind a task, and theirs. `left`: how many there may yet be.
    pub(super) fn check(&self, left: &mut usize) -> Result<(), SpecError> {
        for (name, _, template) in self.each() {
            let within = |e: SpecError| SpecError::new(&format!("{name}.{}", e.field), e.reason);
            *left = left.checked_sub(1).ok_or_else(|| {
                let reason =
                    format!("a task starts at most {TEMPLATES_MAX}, all that follows counted");
                SpecError::new(name, reason)
            })?;
            let (app, id) = (template.app.as_deref(), template.id.as_deref());
            Key::new(app.unwrap_or("a"), id.unwrap_or("a"))
                .map_err(|e| SpecError::new(name, e.to_string()))?;
            let spec = Spec::decode(&template.spec)
                .map_err(|e| SpecError::new(name, format!("cannot be read: {e}")))?;
            spec.check_with(left).map_err(within)?;
        }
        Ok(())
    }

    /// Whether any of them, or of theirs, has an id of its own.
    pub fn names_ids(&self) -> bool {
        self.each().any(|(_, _, template)| {
            let inner = Spec::decode(&template.spec);
            template.id.is_some() || inner.is_ok_and(|spec| spec.next.names_ids())
        })
    }
}

impl Template {
    /// The task that it becomes when the task with this key ends so.
    ///
    /// Without an id of its own it is called like its parent with `:done` or `:dead` behind it, and
    /// where that is too long, like the beginning of it and a hash.
    pub fn key(&self, parent: &Key, end: Stage) -> Option<Key> {
        let app = self.app.as_deref().unwrap_or(&parent.app);
        match &self.id {
            Some(id) => Key::new(app, id).ok(),
            None => Key::new(app, &derived(&parent.id, end.name())).ok(),
        }
    }
}

fn derived(parent: &str, end: &str) -> String {
    let whole = format!("{parent}:{end}");
    if whole.len() <= ID_BYTES_MAX {
        return whole;
    }
    let hash = blake3::hash(whole.as_bytes()).to_hex();
    let tail = format!("~{}:{end}", &hash[..16]);
    // All characters of an id have one byte.
    let kept = parent.get(..ID_BYTES_MAX - tail.len()).unwrap_or_default();
    format!("{kept}{tail}")
}

/// The keys of all tasks that the end of this one may lead to, whatever comes of each.
pub fn all_that_follow(key: &Key, spec: &[u8]) -> Vec<Key> {
    let (mut found, mut todo) = (Vec::new(), vec![(key.clone(), Arc::<[u8]>::from(spec))]);
    while let Some((key, spec)) = todo.pop() {
        if !Spec::starts_more(&spec) || found.len() >= TEMPLATES_MAX {
            continue;
        }
        let Ok(spec) = Spec::decode(&spec) else {
            continue;
        };
        for (_, end, template) in spec.next.each() {
            if let Some(key) = template.key(&key, end) {
                found.push(key.clone());
                todo.push((key, template.spec.clone()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Http, Target};

    fn spec(next: Next) -> Spec {
        Spec {
            labels: Default::default(),
            target: Target::Http(Http {
                url: "http://a/".into(),
                ..Http::default()
            }),
            retry: None,
            accept_timeout: None,
            expires_at: None,
            placement: None,
            next,
        }
    }

    fn template(app: Option<&str>, id: Option<&str>, spec: &Spec) -> Option<Template> {
        Some(Template {
            app: app.map(str::to_owned),
            id: id.map(str::to_owned),
            delay: Span::ZERO,
            spec: spec.encode(),
        })
    }

    /// So many in a row.
    fn row(length: usize) -> Spec {
        (0..length).fold(spec(Next::default()), |last, _| {
            spec(Next::new(template(None, None, &last), None))
        })
    }

    #[test]
    fn what_follows_is_seen_at_the_last_byte() {
        let last = spec(Next::default());
        assert!(!Spec::starts_more(&last.encode()));
        for next in [
            Next::new(template(None, None, &last), None),
            Next::new(None, template(None, Some("x"), &last)),
            Next::new(
                template(Some("b"), None, &row(2)),
                template(None, None, &last),
            ),
        ] {
            let bytes = spec(next.clone()).encode();
            assert!(Spec::starts_more(&bytes));
            assert_eq!(Spec::decode(&bytes).unwrap().next, next);
        }
        assert!(!Spec::starts_more(&[]));
    }

    #[test]
    fn ids_are_derived_from_the_parents() {
        let last = spec(Next::default());
        let (plain, named) = (
            template(None, None, &last),
            template(Some("bank"), Some("x"), &last),
        );
        let (plain, named) = (plain.unwrap(), named.unwrap());
        let parent = Key::new("shop", "order-17").unwrap();
        let of =
            |template: &Template, parent: &Key, end| template.key(parent, end).unwrap().to_string();
        assert_eq!(of(&plain, &parent, Stage::Done), "shop/order-17:done");
        assert_eq!(of(&plain, &parent, Stage::Dead), "shop/order-17:dead");
        assert_eq!(of(&named, &parent, Stage::Done), "bank/x");
        let (one, other) = (
            "a".repeat(ID_BYTES_MAX),
            format!("{}b", "a".repeat(ID_BYTES_MAX - 1)),
        );
        let long = |id: &str| {
            plain
                .key(&Key::new("shop", id).unwrap(), Stage::Done)
                .unwrap()
        };
        assert_eq!(long(&one).id.len(), ID_BYTES_MAX);
        assert!(long(&one).id.ends_with(":done") && long(&one) != long(&other));
    }

    #[test]
    fn there_is_an_end_to_what_follows() {
        assert_eq!(row(TEMPLATES_MAX).check(), Ok(()));
        let error = row(TEMPLATES_MAX + 1).check().unwrap_err();
        assert!(error.field.ends_with("on_success.on_success"), "{error}");
        assert!(error.reason.contains("at most 16"), "{error}");
        let parent = Key::new("shop", "a").unwrap();
        let keys = all_that_follow(&parent, &row(3).encode());
        let ids: Vec<&str> = keys.iter().map(|key| &*key.id).collect();
        assert_eq!(ids, ["a:done", "a:done:done", "a:done:done:done"]);

        let mut bad = row(0);
        bad.labels = [(String::new(), "x".into())].into();
        let error = spec(Next::new(None, template(None, None, &bad))).check();
        assert_eq!(error.unwrap_err().field, "on_failure.labels");
        let error = spec(Next::new(template(None, Some("a b"), &row(0)), None)).check();
        assert_eq!(error.unwrap_err().field, "on_success");
    }
}
