//! `shards …`: named shard sets, for consumers that share tasks out among themselves.

use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{Remote, Server, encode};
use super::output::{line, show, table, text};
use crate::model::Span;

#[derive(Debug, Args)]
pub struct ShardsArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows all sets.
    List,
    /// Makes a set, or gives it another number of shards from its next fill on.
    Make { name: String, total: u16 },
    /// Removes a set; its tasks are what they were.
    Remove { name: String },
    /// Makes the tasks of the coming time available: each shard is handed out anew.
    Fill {
        name: String,
        /// What is due within this time; 2 min without it.
        #[arg(long)]
        window: Option<String>,
    },
    /// Takes the next shard of the last fill, with its tasks.
    Pop {
        name: String,
        /// This one, whether it was handed out or not.
        #[arg(long)]
        shard: Option<u16>,
        #[arg(long)]
        limit: Option<u32>,
        /// `next` of the answer before.
        #[arg(long, requires = "shard")]
        cursor: Option<String>,
    },
    /// Says which shard of a set a task falls into.
    Hit {
        name: String,
        app: String,
        id: String,
    },
}

/// An answer is waited for so long.
const WITHIN: Span = Span::seconds(30);

/// Does what a `shards` line says.
pub async fn run(args: ShardsArgs) -> Result<()> {
    let server = Server::new(&args.remote)?;
    let ask = async |method: Method, path: String, body: Option<Value>| {
        let body = body.map(|body| body.to_string().into_bytes());
        server.call(method, &path, body, WITHIN).await
    };
    let of = |name: &str| format!("/v1/shards/{}", encode(name));
    let json_wanted = args.remote.json;
    match args.verb {
        Verb::List => {
            let answer = server.get("/v1/shards").await?;
            show(&answer, json_wanted, |all| {
                sets(all["sets"].as_array().map_or(&[], Vec::as_slice));
            });
        }
        Verb::Make { name, total } => {
            let answer = ask(Method::PUT, of(&name), Some(json!({ "total": total }))).await?;
            show(&answer, json_wanted, |set| sets(std::slice::from_ref(set)));
        }
        Verb::Remove { name } => {
            let answer = ask(Method::DELETE, of(&name), None).await?;
            show(&answer, json_wanted, |set| {
                line(&format!("{} is removed", text(set, "name")))
            });
        }
        Verb::Fill { name, window } => {
            let body = window.map_or(json!({}), |window| json!({ "window": window }));
            let answer = ask(Method::POST, of(&name) + "/fill", Some(body)).await?;
            show(&answer, json_wanted, |set| sets(std::slice::from_ref(set)));
        }
        Verb::Pop {
            name,
            shard,
            limit,
            cursor,
        } => {
            let given = [
                ("shard", shard.map(|n| n.to_string())),
                ("limit", limit.map(|n| n.to_string())),
                ("cursor", cursor.map(|text| encode(&text))),
            ];
            let given = given
                .into_iter()
                .filter_map(|(name, value)| Some(format!("{name}={}", value?)));
            let query = given.collect::<Vec<_>>().join("&");
            let answer = ask(Method::POST, format!("{}/pop?{query}", of(&name)), None).await?;
            show(&answer, json_wanted, popped);
        }
        Verb::Hit { name, app, id } => {
            let path = format!("{}?app={}&id={}", of(&name), encode(&app), encode(&id));
            let answer = server.get(&path).await?;
            show(&answer, json_wanted, |set| {
                line(&format!(
                    "shard {} of {}",
                    text(set, "shard"),
                    text(set, "total")
                ));
            });
        }
    }
    Ok(())
}

fn sets(sets: &[Value]) {
    let row = |set: &Value| {
        let fill = &set["fill"];
        vec![
            text(set, "name"),
            text(set, "total"),
            text(fill, "next"),
            text(fill, "total"),
            text(fill, "until"),
        ]
    };
    let header = ["name", "total", "handed out", "of", "due until"];
    table(&header, sets.iter().map(row));
}

fn popped(popped: &Value) {
    match popped["shard"].is_null() {
        true => line("all shards of the last fill have been handed out"),
        false => line(&format!(
            "shard {} of {}",
            text(popped, "shard"),
            text(popped, "total")
        )),
    }
    let tasks = popped["tasks"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |task: &Value| {
        ["app", "id", "stage", "due_at"]
            .map(|name| text(task, name))
            .to_vec()
    };
    table(&["app", "id", "stage", "due_at"], tasks.iter().map(row));
    if let Some(next) = popped["next"].as_str() {
        line(&format!(
            "more with --shard {} --cursor {next}",
            text(popped, "shard")
        ));
    }
}
