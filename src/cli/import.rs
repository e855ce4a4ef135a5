//! `import`: tasks from a file of JSON lines, in batches, resumable.
//!
//! Every line needs an id: then sending it once more is harmless, and an import that broke off is
//! simply started again.

use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Remote, Server};
use super::output::{line, say};
use crate::model::Span;
use crate::model::limits::TASK_BYTES_MAX;

/// Lines sent together.
const BATCH_LINES: usize = 1_000;
/// Bytes sent together, but for the last line.
const BATCH_BYTES: usize = 8 << 20;
/// A busy server is asked so often, a second apart, before the import gives up.
const TRIES: u32 = 30;
/// So many refusals are told on standard error.
const TOLD: u64 = 20;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A task a line, as for /v1/tasks/batch, each with its id; - is standard input.
    file: PathBuf,
    /// Notes how many lines are done; the next run with the same file skips them.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Refused lines are appended here, as they are.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

/// What became of the lines of this run.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Counts {
    skipped: u64,
    created: u64,
    existed: u64,
    rejected: u64,
}

/// A line with its number, from 1.
type Numbered = (u64, Vec<u8>);

struct Import {
    server: Server,
    rejects: Option<File>,
    counts: Counts,
}

pub async fn run(args: ImportArgs) -> Result<()> {
    let mut reader: Box<dyn BufRead> = match args.file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => {
            let file = File::open(&args.file).with_context(|| args.file.display().to_string())?;
            Box::new(BufReader::with_capacity(1 << 20, file))
        }
    };
    let done = args.state.as_deref().map_or(Ok(0), read_state)?;
    let rejects = args.rejects.as_ref().map(|path| {
        let file = File::options().create(true).append(true).open(path);
        file.with_context(|| path.display().to_string())
    });
    let mut import = Import {
        server: Server::new(&args.remote)?,
        rejects: rejects.transpose()?,
        counts: Counts::default(),
    };
    let mut number = 0;
    while number < done && next_line(&mut reader)?.is_some() {
        number += 1;
        import.counts.skipped += 1;
    }
    let shown = std::io::stderr().is_terminal();
    loop {
        let (batch, last) = next_batch(&mut reader, number)?;
        if last == number {
            break;
        }
        import.send(batch).await?;
        number = last;
        if let Some(path) = &args.state {
            write_state(path, number)?;
        }
        if shown {
            eprint!("\r{number} lines");
        }
    }
    if shown {
        say("");
    }
    import.summary(args.remote.json)
}

/// The next line without its end; `None` at the end.
fn next_line(reader: &mut dyn BufRead) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    if reader
        .read_until(b'\n', &mut text)
        .context("reading the tasks")?
        == 0
    {
        return Ok(None);
    }
    while text.last().is_some_and(u8::is_ascii_whitespace) {
        text.pop();
    }
    Ok(Some(text))
}

/// The next lines that are not blank, and the number of the last line read.
fn next_batch(reader: &mut dyn BufRead, mut number: u64) -> Result<(Vec<Numbered>, u64)> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH_LINES && bytes < BATCH_BYTES {
        let Some(text) = next_line(reader)? else {
            break;
        };
        number += 1;
        if !text.is_empty() {
            bytes += text.len();
            batch.push((number, text));
        }
    }
    Ok((batch, number))
}

/// What is wrong with a line that need not be sent.
fn flaw(text: &[u8]) -> Option<String> {
    if text.len() > TASK_BYTES_MAX {
        return Some(format!("it is longer than {TASK_BYTES_MAX} bytes"));
    }
    match serde_json::from_slice::<Value>(text) {
        Ok(task) if task["id"].is_string() => None,
        Ok(_) => Some("it has no id, without which a repeat would be another task".into()),
        Err(error) => Some(error.to_string()),
    }
}

impl Import {
    /// Sends lines until each is answered for good.
    async fn send(&mut self, batch: Vec<Numbered>) -> Result<()> {
        let mut waiting = Vec::with_capacity(batch.len());
        for one in batch {
            match flaw(&one.1) {
                Some(why) => self.reject(&one, &why)?,
                None => waiting.push(one),
            }
        }
        for attempt in 0.. {
            if waiting.is_empty() {
                return Ok(());
            }
            if attempt == TRIES {
                bail!("the server stays busy; start the import again later");
            }
            if attempt > 0 {
                #[allow(clippy::disallowed_methods)] // reason: gives a busy server time
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            waiting = self.once(waiting).await?;
        }
        Ok(())
    }

    /// Sends lines once; those that may be sent again come back.
    async fn once(&mut self, lines: Vec<Numbered>) -> Result<Vec<Numbered>> {
        let texts: Vec<&[u8]> = lines.iter().map(|(_, text)| &**text).collect();
        let body = texts.join(&b'\n');
        let patience = Span::minutes(2);
        let path = "/v1/tasks/batch";
        let answer = self
            .server
            .ndjson(Method::POST, path, body, patience)
            .await?;
        let mut answers = answer.text.lines();
        let mut again = Vec::new();
        for one in lines {
            let Some(text) = answers.next() else {
                again.push(one);
                continue;
            };
            let answer: Value = serde_json::from_str(text).context("a line of the answer")?;
            match answer["status"].as_u64() {
                Some(201) => self.counts.created += 1,
                Some(200) => self.counts.existed += 1,
                Some(429 | 503 | 504) => again.push(one),
                _ => {
                    let part = |name: &str| answer[name].as_str().unwrap_or_default();
                    let why = format!("{}: {}", part("title"), part("detail"));
                    self.reject(&one, &why)?;
                }
            }
        }
        Ok(again)
    }

    fn reject(&mut self, (number, text): &Numbered, why: &str) -> Result<()> {
        self.counts.rejected += 1;
        if self.counts.rejected <= TOLD {
            say(&format!("line {number}: {why}"));
        }
        if let Some(file) = &mut self.rejects {
            file.write_all(&[text, &b"\n"[..]].concat())
                .context("--rejects")?;
        }
        Ok(())
    }

    fn summary(&self, as_json: bool) -> Result<()> {
        let counts = &self.counts;
        match as_json {
            true => line(&serde_json::to_string(counts)?),
            false => line(&format!(
                "{} created, {} existed, {} rejected, {} skipped",
                counts.created, counts.existed, counts.rejected, counts.skipped
            )),
        }
        match counts.rejected {
            0 => Ok(()),
            n => bail!("{n} lines were refused"),
        }
    }
}

fn read_state(path: &Path) -> Result<u64> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let wrong = || format!("{} notes no number of lines", path.display());
            text.trim().parse().with_context(wrong)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Replaces the note as a whole: a crash leaves the old or the new one.
fn write_state(path: &Path, lines: u64) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    fs::write(&part, format!("{lines}\n"))
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| path.display().to_string())
}
