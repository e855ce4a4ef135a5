//! `app …`: pause and resume the calls of an application.

use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{Remote, Server, encode};
use super::output::{self, line, show, text};
use crate::model::Span;

#[derive(Debug, Args)]
pub struct AppArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Stops calling its tasks; they are taken, fall due and can be cancelled as ever.
    Pause {
        app: String,
        /// For those who wonder.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Calls its tasks again.
    Resume { app: String },
    /// Shows the applications that are paused.
    List,
}

/// How long a decision may take.
const WITHIN: Span = Span::seconds(30);

/// Does what an `app` line says.
pub async fn run(args: AppArgs) -> Result<()> {
    let server = Server::new(&args.remote)?;
    let answer = match args.verb {
        Verb::Pause { app, reason } => {
            let body = reason.map_or(json!({}), |reason| json!({ "reason": reason }));
            let body = Some(body.to_string().into_bytes());
            let path = format!("/v1/apps/{}/pause", encode(&app));
            server.call(Method::POST, &path, body, WITHIN).await?
        }
        Verb::Resume { app } => {
            let path = format!("/v1/apps/{}/resume", encode(&app));
            server.call(Method::POST, &path, None, WITHIN).await?
        }
        Verb::List => {
            let answer = server.get("/v1/apps").await?;
            show(&answer, args.remote.json, list);
            return Ok(());
        }
    };
    show(&answer, args.remote.json, |app| {
        let state = match app["paused"].as_bool() {
            Some(true) => format!(
                "is paused since {} by {}",
                text(app, "since"),
                text(app, "by")
            ),
            _ => "is called".to_owned(),
        };
        line(&format!("{} {state}", text(app, "app")));
    });
    Ok(())
}

fn list(answer: &Value) {
    let columns = ["app", "since", "by", "reason"];
    let apps = answer["apps"].as_array().map(Vec::as_slice);
    let row = |app: &Value| columns.iter().map(|name| text(app, name)).collect();
    output::table(&columns, apps.unwrap_or_default().iter().map(row));
}
