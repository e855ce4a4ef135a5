//! A program with a node inside, which does what tasks and schedules ask for by name.
//!
//! ```sh
//! HOROLOG_NODE_ID=1 HOROLOG_NODE_DIR=data/embedded cargo run --example embedded
//! horolog task submit --app shop --invoke "demoTask.demoMethod('a', 'b', true, 2L, 3D, 4)"
//! ```
//!
//! Its settings are those of `horolog serve`, from the environment, or from a file that is named as
//! its argument. `docs/embedding.md` says what there is to know.

use std::path::PathBuf;
use std::sync::Arc;

use horolog::node::settings::Settings;
use horolog::node::{Config, HandlerError, Handlers, Node, RegisterError};

/// What this program can do.
fn handlers() -> Result<Handlers, RegisterError> {
    Handlers::default()
        // demoTask.demoMethod("a", 'b', true, 2L, 3D, 4)
        .handler("demoTask.demoMethod", |call| async move {
            let (one, other): (&str, &str) = (call.argument(0)?, call.argument(1)?);
            let flag: bool = call.argument(2)?;
            let (long, double, int): (i64, f64, i32) =
                (call.argument(3)?, call.argument(4)?, call.argument(5)?);
            Ok(format!("{one} {other} {flag} {long} {double:?} {int}"))
        })?
        // stock.take("nails", 3): the first attempt finds nobody in the warehouse.
        .handler("stock.take", |call| async move {
            let (article, count): (&str, i64) = (call.argument(0)?, call.argument(1)?);
            match (count, call.attempt) {
                (..=0, _) => Err(HandlerError::Final(format!("{count} {article} are none"))),
                (_, 1) => Err(HandlerError::Retry("the warehouse does not answer".into())),
                (_, attempt) => Ok(format!("{count} {article}, at attempt {attempt}")),
            }
        })?
        // clock.tick, of a schedule: says which of its occurrences this is.
        .handler("clock.tick", |call| async move {
            let run_of = call.run_of.as_ref();
            Ok(run_of.map(|run| format!("{} at {}", run.schedule, run.planned)))
        })
}

/// Runs the node until Ctrl-C.
pub fn run(file: Option<PathBuf>) -> anyhow::Result<()> {
    let settings = Settings::read(file.as_deref(), Vec::new())?;
    let mut config = Config::new(&settings).map_err(anyhow::Error::msg)?;
    config.handlers = handlers()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        // Called when the node cannot go on, such as for a failing disk. What is on disk is whole;
        // whatever runs this program starts it again.
        let fault = Arc::new(|why| {
            eprintln!("the node cannot go on: {why}");
            std::process::exit(1);
        });
        let node = Node::start(config, fault).await?;
        println!("the node takes part; its API is http://{}", node.http());
        // …and whatever else this program is for.
        tokio::signal::ctrl_c().await?;
        node.stop().await;
        Ok(())
    })
}

#[allow(dead_code)] // The test of this program calls `run` itself.
fn main() -> anyhow::Result<()> {
    run(std::env::args_os().nth(1).map(PathBuf::from))
}
