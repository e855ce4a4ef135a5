//! `task submit`: a task from flags, or from a file as JSON.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use crate::model::Placement;

/// What a file says itself.
const MEMBERS: [&str; 17] = [
    "app",
    "id",
    "at",
    "delay",
    "url",
    "invoke",
    "params",
    "method",
    "header",
    "body",
    "body_json",
    "timeout",
    "attempts",
    "accept_timeout",
    "expires_at",
    "label",
    "placement",
];

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The application.
    #[arg(long, required_unless_present = "file")]
    app: Option<String>,
    /// The task; a UUIDv7 without it.
    #[arg(long)]
    id: Option<String>,
    /// When it is due: RFC 3339 or epoch milliseconds. Without this and --delay: now.
    #[arg(long, value_name = "INSTANT", conflicts_with = "delay")]
    at: Option<String>,
    /// How much later it is due: 250ms, 10s, 1h30m, 1d.
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    /// What is called.
    #[arg(long, required_unless_present_any = ["file", "invoke"])]
    url: Option<String>,
    /// bean.method("a", 2L): a handler in a program that embeds a node, in place of --url.
    #[arg(long, value_name = "TARGET", conflicts_with = "url")]
    invoke: Option<String>,
    /// A JSON object for the handler.
    #[arg(long, value_name = "JSON", requires = "invoke")]
    params: Option<String>,
    #[arg(long, conflicts_with = "invoke")]
    method: Option<String>,
    /// NAME:VALUE, as often as needed.
    #[arg(long, value_name = "NAME:VALUE", conflicts_with = "invoke")]
    header: Vec<String>,
    /// A text body.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["body_json", "invoke"])]
    body: Option<String>,
    /// A JSON body, sent as it is written.
    #[arg(long, value_name = "JSON", conflicts_with = "invoke")]
    body_json: Option<String>,
    /// For one attempt.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// All tries that may end.
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// How long a completion is awaited after a 202.
    #[arg(long, value_name = "DURATION")]
    accept_timeout: Option<String>,
    /// Dead if no attempt has begun by then.
    #[arg(long, value_name = "INSTANT")]
    expires_at: Option<String>,
    /// KEY=VALUE, as often as needed.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Which node carries it out: owner, round_robin, random, hash, leader, broadcast, or
    /// label:NAME=VALUE.
    #[arg(long, value_name = "WHERE")]
    placement: Option<Placement>,
    /// The whole task as JSON, from a file or from standard input (-).
    #[arg(long, value_name = "FILE", conflicts_with_all = MEMBERS)]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Task<'a> {
    app: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: &'a Option<String>,
    target: Target<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_timeout: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: &'a Option<Placement>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Target<'a> {
    Http {
        http: Http<'a>,
    },
    Handler {
        invoke: &'a String,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout: &'a Option<String>,
    },
}

#[derive(Serialize)]
struct Http<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    method: &'a Option<String>,
    url: &'a Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: &'a Option<String>,
}

#[derive(Serialize)]
struct Retry {
    attempts: u32,
}

impl SubmitArgs {
    /// The request's body.
    pub fn json(&self) -> Result<Vec<u8>> {
        if let Some(file) = &self.file {
            return read(file);
        }
        let json = |text: &String| serde_json::from_str(text);
        let body = match (&self.body, &self.body_json) {
            (Some(text), _) => Some(serde_json::value::to_raw_value(text)?),
            (None, Some(text)) => Some(json(text).context("--body-json")?),
            (None, None) => None,
        };
        let task = Task {
            app: &self.app,
            id: &self.id,
            due_at: self.at.as_deref().map(instant).transpose()?,
            delay: &self.delay,
            target: match &self.invoke {
                Some(invoke) => Target::Handler {
                    invoke,
                    params: self
                        .params
                        .as_ref()
                        .map(json)
                        .transpose()
                        .context("--params")?,
                    timeout: &self.timeout,
                },
                None => Target::Http {
                    http: Http {
                        method: &self.method,
                        url: &self.url,
                        headers: pairs("--header", ':', &self.header)?,
                        body,
                        timeout: &self.timeout,
                    },
                },
            },
            retry: self.attempts.map(|attempts| Retry { attempts }),
            accept_timeout: &self.accept_timeout,
            expires_at: self.expires_at.as_deref().map(instant).transpose()?,
            labels: pairs("--label", '=', &self.label)?,
            placement: &self.placement,
        };
        Ok(serde_json::to_vec(&task)?)
    }
}

/// Digits are epoch milliseconds, a number in JSON; anything else is a string.
fn instant(text: &str) -> Result<Box<RawValue>> {
    Ok(match text.parse::<u64>() {
        Ok(millis) => serde_json::value::to_raw_value(&millis)?,
        Err(_) => serde_json::value::to_raw_value(text)?,
    })
}

/// `name=value` in its parts.
pub fn pairs<'a>(
    flag: &str,
    separator: char,
    texts: &'a [String],
) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut pairs = BTreeMap::new();
    for text in texts {
        let Some((name, value)) = text.split_once(separator) else {
            bail!("{flag} {text:?}: write NAME{separator}VALUE");
        };
        pairs.insert(name.trim(), value.trim());
    }
    Ok(pairs)
}

fn read(file: &PathBuf) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SubmitArgs,
    }

    #[test]
    fn flags_become_a_task() {
        let line = [
            "x",
            "--app",
            "shop",
            "--at",
            "5000",
            "--url",
            "http://a/",
            "--header",
            "x-a: b:c",
            "--body-json",
            "{\"n\": 1.0}",
            "--attempts",
            "5",
            "--label",
            "order=17",
        ];
        let json = Line::parse_from(line).args.json().unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"app":"shop","due_at":5000,"target":{"http":{"url":"http://a/","headers":{"x-a":"b:c"},"#.to_owned()
                + r#""body":{"n": 1.0}}},"retry":{"attempts":5},"labels":{"order":"17"}}"#
        );
    }

    #[test]
    fn a_handler_may_be_the_target() {
        let line = ["x", "--app", "shop", "--invoke", "demo.run(1)"];
        let more = ["--params", "{\"n\": 1.0}", "--timeout", "3s"];
        let args = Line::parse_from(line.into_iter().chain(more)).args;
        assert_eq!(
            String::from_utf8(args.json().unwrap()).unwrap(),
            r#"{"app":"shop","target":{"invoke":"demo.run(1)","params":{"n": 1.0},"timeout":"3s"}}"#
        );
        let both = line.into_iter().chain(["--url", "http://a/"]);
        assert!(Line::try_parse_from(both).is_err());
    }

    #[test]
    fn a_file_says_everything_itself() {
        use clap::CommandFactory as _;
        let command = Line::command();
        let flags = command.get_arguments().map(|arg| arg.get_id().as_str());
        let others: Vec<_> = flags.filter(|id| *id != "file").collect();
        assert_eq!(others, MEMBERS);
        assert!(Line::try_parse_from(["x", "--file", "f", "--label", "a=b"]).is_err());
    }

    #[test]
    fn broken_pairs_are_named() {
        let args = Line::parse_from(["x", "--app", "a", "--url", "u", "--label", "k"]).args;
        assert!(args.json().unwrap_err().to_string().contains("--label"));
    }
}
