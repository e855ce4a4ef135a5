//! On which node an attempt of a task is carried out. Who decides about the task stays the owner of
//! its shard, wherever that is.

use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

use super::limits::LABEL_BYTES_MAX;

/// See the module. As text: `owner`, `round_robin`, `random`, `hash`, `leader`, `broadcast`, or
/// `label:NAME=VALUE`; in a task's JSON the last is `{ "label": "NAME=VALUE" }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Placement {
    /// Where its shard lives, unless that node has too much to do: then on the one that has the
    /// least.
    #[default]
    Owner,
    /// On each live node in turn.
    RoundRobin,
    /// On a live node drawn by chance.
    Random,
    /// Always on the same node for the same task, while the same nodes live.
    Hash,
    /// On the leader and nowhere else.
    Leader,
    /// On every live node: done when all have ended, failed if one has failed.
    Broadcast,
    /// On the least loaded live node that has this label.
    Label { name: String, value: String },
}

/// Why a text is no placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no placement; write owner, round_robin, random, hash, leader, broadcast, or a node's \
     label: {{ \"label\": \"NAME=VALUE\" }} in a task, label:NAME=VALUE in a setting"
)]
pub struct PlacementError(pub String);

const NAMED: [(&str, Placement); 6] = [
    ("owner", Placement::Owner),
    ("round_robin", Placement::RoundRobin),
    ("random", Placement::Random),
    ("hash", Placement::Hash),
    ("leader", Placement::Leader),
    ("broadcast", Placement::Broadcast),
];

impl Placement {
    /// A node's label, written `NAME=VALUE`.
    ///
    /// # Errors
    /// Names the text when it is no such pair, or one of both is empty or too long.
    pub fn label(text: &str) -> Result<Placement, PlacementError> {
        let fits = |part: &&str| (1..=LABEL_BYTES_MAX).contains(&part.len());
        let pair = text.split_once('=').map(|(n, v)| (n.trim(), v.trim()));
        match pair.filter(|(name, value)| fits(name) && fits(value)) {
            Some((name, value)) => Ok(Placement::Label {
                name: name.to_owned(),
                value: value.to_owned(),
            }),
            None => Err(PlacementError(text.to_owned())),
        }
    }

    fn name(&self) -> Option<&'static str> {
        let named = NAMED.iter().find(|(_, placement)| placement == self);
        named.map(|(name, _)| *name)
    }

    fn named(text: &str) -> Option<Placement> {
        let named = NAMED.iter().find(|(name, _)| *name == text);
        named.map(|(_, placement)| placement.clone())
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placement::Label { name, value } => write!(f, "label:{name}={value}"),
            other => f.write_str(other.name().unwrap_or_default()),
        }
    }
}

impl FromStr for Placement {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Placement, PlacementError> {
        match text.strip_prefix("label:") {
            Some(pair) => Placement::label(pair),
            None => Placement::named(text).ok_or_else(|| PlacementError(text.to_owned())),
        }
    }
}

/// The two forms in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    Labelled(Labelled),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Labelled {
    label: String,
}

impl Serialize for Placement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            Placement::Label { name, value } => Written::Labelled(Labelled {
                label: format!("{name}={value}"),
            }),
            other => Written::Name(other.to_string()),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Placement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Placement, D::Error> {
        let written = Written::deserialize(deserializer)
            .map_err(|_| de::Error::custom(PlacementError("this".into())))?;
        let placement = match &written {
            Written::Name(name) => name.parse(),
            Written::Labelled(Labelled { label }) => Placement::label(label),
        };
        placement.map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_back_from_text_and_from_json() {
        let mut all: Vec<Placement> = NAMED
            .iter()
            .map(|(_, placement)| placement.clone())
            .collect();
        all.push(Placement::label("gpu=yes").unwrap());
        for placement in all {
            assert_eq!(placement.to_string().parse(), Ok(placement.clone()));
            let json = serde_json::to_string(&placement).unwrap();
            assert_eq!(serde_json::from_str::<Placement>(&json).unwrap(), placement);
        }
        let labelled: Placement = serde_json::from_str(r#"{"label":"zone = a=b"}"#).unwrap();
        assert_eq!(labelled.to_string(), "label:zone=a=b");
    }

    #[test]
    fn what_is_none_says_what_to_write() {
        for text in [
            r#""master""#,
            r#"{"label":"gpu"}"#,
            r#"{"label":"=yes"}"#,
            r#"{"label":"gpu="}"#,
            r#"{"label":"a=b","x":1}"#,
            "7",
        ] {
            let error = serde_json::from_str::<Placement>(text).unwrap_err();
            assert!(error.to_string().contains("round_robin"), "{error}");
        }
        assert!("label:gpu".parse::<Placement>().is_err());
        assert!("Owner".parse::<Placement>().is_err());
    }
}
