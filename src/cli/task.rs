//! `task …`: one verb per thing that can be done to a task.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::{NESTED, Remote, Server, encode, lenient};
use super::output::{self, line, say, show, text};
use super::submit::{SubmitArgs, pairs};
use crate::model::Span;

#[derive(Debug, Args)]
pub struct TaskArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    verb: Verb,
}

/// (app, id)
#[derive(Debug, Args)]
struct Name {
    /// The application.
    app: String,
    /// The task.
    id: String,
}

/// A page of a list; tasks stay as the server wrote them.
#[derive(Deserialize, Serialize)]
struct Page {
    tasks: Vec<Box<RawValue>>,
    next: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Submits a task.
    Submit(Box<SubmitArgs>),
    /// Shows a task.
    Get(Name),
    /// Cancels a task that has not begun.
    Cancel(Name),
    /// Lists tasks.
    List(ListArgs),
    /// Shows what happened to a task, and to those that had its id before.
    #[command(visible_alias = "history")]
    Events(Name),
    /// Says in sentences why a task is where it is, how the last one with its id ended, or why
    /// those with a label are.
    Explain(ExplainArgs),
    /// Runs a task now.
    Run(RunArgs),
    /// Says how a task ended.
    Done(DoneArgs),
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The application; with --label it may be left out.
    #[arg(required_unless_present = "label")]
    app: Option<String>,
    /// The task.
    #[arg(required_unless_present = "label", conflicts_with = "label")]
    id: Option<String>,
    /// KEY=VALUE, as often as needed: each task that has all of them.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
}

#[derive(Debug, Default, Args)]
struct ListArgs {
    #[arg(long)]
    app: Option<String>,
    #[arg(long)]
    stage: Option<String>,
    /// KEY=VALUE, as often as needed.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Due at this instant or later.
    #[arg(long, value_name = "INSTANT")]
    due_from: Option<String>,
    /// Due before this instant.
    #[arg(long, value_name = "INSTANT")]
    due_to: Option<String>,
    /// Tasks a page.
    #[arg(long)]
    limit: Option<usize>,
    /// Where the page before ended.
    #[arg(long)]
    cursor: Option<String>,
    /// Every page.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    name: Name,
    /// Also when it is done.
    #[arg(long)]
    again: bool,
    /// Wait for the outcome, at most this long.
    #[arg(long, value_name = "DURATION", value_parser = Span::parse)]
    wait: Option<Span>,
}

#[derive(Debug, Args)]
struct DoneArgs {
    #[command(flatten)]
    name: Name,
    /// It failed.
    #[arg(long)]
    failed: bool,
    /// Why it failed.
    #[arg(long, requires = "failed")]
    error: Option<String>,
    /// What came of it.
    #[arg(long)]
    result: Option<String>,
    /// The attempt that is meant, as `Horolog-Fence` said.
    #[arg(long)]
    fence: Option<u64>,
}

impl Name {
    fn path(&self, rest: &str) -> String {
        format!("/v1/tasks/{}/{}{rest}", encode(&self.app), encode(&self.id))
    }
}

/// Does what a `task` line says.
pub async fn run(args: TaskArgs) -> Result<()> {
    let server = Server::new(&args.remote)?;
    let as_json = args.remote.json;
    match args.verb {
        Verb::Submit(args) => {
            let body = args.json()?;
            let answer = server
                .call(Method::POST, "/v1/tasks", Some(body), Span::ZERO)
                .await?;
            show(&answer, as_json, output::task);
        }
        Verb::Get(name) => show(&server.get(&name.path("")).await?, as_json, output::task),
        Verb::Cancel(name) => {
            let answer = server
                .call(Method::DELETE, &name.path(""), None, Span::ZERO)
                .await?;
            show(&answer, as_json, output::task);
        }
        Verb::List(args) => list(&server, args, as_json).await?,
        Verb::Events(name) => show(&server.get(&name.path("/events")).await?, as_json, events),
        Verb::Explain(args) => return explain(&server, args, as_json).await,
        Verb::Run(args) => return run_now(&server, args, as_json).await,
        Verb::Done(args) => {
            let (path, body) = (args.name.path("/done"), Some(args.body()));
            let answer = server.call(Method::POST, &path, body, Span::ZERO).await?;
            show(&answer, as_json, output::task);
        }
    }
    Ok(())
}

/// A wait that ends with a task that failed is a failure of the verb.
async fn run_now(server: &Server, args: RunArgs, as_json: bool) -> Result<()> {
    let wait = args.wait.unwrap_or_default();
    let query = args
        .wait
        .map_or(String::new(), |wait| format!("?wait={wait}"));
    let body = args.again.then(|| br#"{"again":true}"#.to_vec());
    let path = args.name.path(&format!("/run{query}"));
    let answer = server.call(Method::POST, &path, body, wait).await?;
    show(&answer, as_json, output::task);
    match answer.json["stage"].as_str() {
        Some(stage @ ("dead" | "cancelled")) if args.wait.is_some() => bail!("the task is {stage}"),
        _ => Ok(()),
    }
}

impl DoneArgs {
    fn body(&self) -> Vec<u8> {
        let mut body = json!({ "ok": !self.failed });
        let members = [
            ("error", self.error.clone().map(Value::from)),
            ("result", self.result.clone().map(Value::from)),
            ("fence", self.fence.map(Value::from)),
        ];
        for (name, value) in members {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body.to_string().into_bytes()
    }
}

impl ListArgs {
    fn query(&self, cursor: Option<&str>) -> Result<String> {
        let limit = self.limit.map(|limit| limit.to_string());
        let mut pairs_given: Vec<(String, &str)> = [
            ("app", self.app.as_deref()),
            ("stage", self.stage.as_deref()),
            ("due_from", self.due_from.as_deref()),
            ("due_to", self.due_to.as_deref()),
            ("limit", limit.as_deref()),
            ("cursor", cursor),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
        for (key, value) in pairs("--label", '=', &self.label)? {
            pairs_given.push((format!("label.{}", encode(key)), value));
        }
        let parts = pairs_given
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)));
        Ok(parts.collect::<Vec<_>>().join("&"))
    }
}

/// Explains one task, or each that has the labels: a page of them, and says when there are more.
async fn explain(server: &Server, args: ExplainArgs, as_json: bool) -> Result<()> {
    if let (Some(app), Some(id)) = (&args.app, &args.id) {
        let (app, id) = (app.clone(), id.clone());
        let answer = server.get(&Name { app, id }.path("/explain")).await?;
        show(&answer, as_json, sentences);
        return Ok(());
    }
    let asked = ListArgs {
        app: args.app,
        label: args.label,
        ..ListArgs::default()
    };
    let mut found = page(server, &asked, None).await?;
    while found.tasks.is_empty()
        && let Some(cursor) = found.next.take()
    {
        found = page(server, &asked, Some(&cursor)).await?;
    }
    if found.tasks.is_empty() {
        bail!("no task has {}", asked.label.join(" and "));
    }
    for task in &found.tasks {
        let task = lenient(task.get(), NESTED);
        let (app, id) = (text(&task, "app"), text(&task, "id"));
        let answer = server.get(&Name { app, id }.path("/explain")).await?;
        show(&answer, as_json, |answer| {
            let [app, id, stage] = ["app", "id", "stage"].map(|name| text(answer, name));
            line(&format!("{app}/{id} ({stage})"));
            sentences(answer);
        });
    }
    if found.next.is_some() {
        let more = "there are more: add a --label, or name the application";
        say(&format!("{more}; `task list --all` names them"));
    }
    Ok(())
}

async fn list(server: &Server, args: ListArgs, as_json: bool) -> Result<()> {
    let mut list = page(server, &args, args.cursor.as_deref()).await?;
    while args.all
        && let Some(cursor) = list.next.take()
    {
        let more = page(server, &args, Some(&cursor)).await?;
        list.tasks.extend(more.tasks);
        list.next = more.next;
    }
    if as_json {
        line(&serde_json::to_string(&list)?);
        return Ok(());
    }
    let columns = ["app", "id", "stage", "due_at", "attempt", "error"];
    let row = |task: &str| {
        let task = lenient(task, NESTED);
        columns.iter().map(|name| text(&task, name)).collect()
    };
    output::table(&columns, list.tasks.iter().map(|task| row(task.get())));
    match list.next {
        Some(cursor) => say(&format!("there is more: --cursor {cursor}, or --all")),
        None => say(&format!("{} tasks", list.tasks.len())),
    }
    Ok(())
}

async fn page(server: &Server, args: &ListArgs, cursor: Option<&str>) -> Result<Page> {
    let query = args.query(cursor)?;
    let answer = server.get(&format!("/v1/tasks?{query}")).await?;
    serde_json::from_str(&answer.text).context("the answer is no page of tasks")
}

fn events(answer: &Value) {
    let columns = [
        "index", "at", "kind", "attempt", "node", "status", "error", "by",
    ];
    let events = answer["events"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let row = |event: &Value| columns.iter().map(|name| text(event, name)).collect();
    retired(answer);
    output::table(&columns, events.iter().map(row));
    past(answer).for_each(super::task::events);
}

fn sentences(answer: &Value) {
    retired(answer);
    for sentence in answer["sentences"].as_array().into_iter().flatten() {
        line(sentence.as_str().unwrap_or_default());
    }
    past(answer).for_each(sentences);
}

/// The answers about tasks that had the id before.
fn past(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["past"].as_array().into_iter().flatten()
}

/// A line above what is told of a task that is gone.
fn retired(answer: &Value) {
    let task = &answer["task"];
    if answer["retired"] == true {
        line(&format!(
            "A task that was: {}, submitted {}, ended {}.",
            text(task, "stage"),
            text(task, "created_at"),
            text(task, "finished_at")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_a_query() {
        let args = ListArgs {
            app: Some("shop".into()),
            stage: None,
            label: vec!["order=1 7".into()],
            due_from: Some("2026-01-01T00:00:00+01:00".into()),
            due_to: None,
            limit: Some(5),
            cursor: None,
            all: false,
        };
        let query = args.query(Some("abc")).unwrap();
        let due = "due_from=2026-01-01T00%3A00%3A00%2B01%3A00";
        assert_eq!(
            query,
            format!("app=shop&{due}&limit=5&cursor=abc&label.order=1%207")
        );
    }
}
