//! The access log: a line per request, in files that turn over daily and leave after a while.
//!
//! Lines go through a bounded queue to a thread of their own; when the disk is slow they are
//! dropped and counted rather than slow the requests down.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};

use super::Api;
use super::auth::Principal;

/// Lines that wait for the disk at most.
const LINES_WAITING_MAX: usize = 8_192;
/// Longest path that is written.
const PATH_MAX: usize = 1_024;

/// Where a connection comes from; the accept loop leaves it with each request.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);

/// When a new file is begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessRotation {
    Hourly,
    #[default]
    Daily,
}

/// An open access log. What waits is written when the last copy goes.
#[derive(Clone)]
pub struct AccessLog {
    writer: NonBlocking,
    dropped: ErrorCounter,
    _guard: Arc<WorkerGuard>,
}

impl AccessLog {
    /// Opens the present file in `dir` and keeps those of `keep_days` days before.
    pub fn open(
        dir: &Path,
        keep_days: usize,
        rotation: AccessRotation,
    ) -> std::io::Result<AccessLog> {
        let (every, a_day) = match rotation {
            AccessRotation::Hourly => (Rotation::HOURLY, 24),
            AccessRotation::Daily => (Rotation::DAILY, 1),
        };
        std::fs::create_dir_all(dir)?;
        let files = RollingFileAppender::builder()
            .rotation(every)
            .filename_prefix("access")
            .filename_suffix("log")
            .max_log_files(keep_days.saturating_mul(a_day).saturating_add(1))
            .build(dir)
            .map_err(std::io::Error::other)?;
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("access-log")
            .finish(files);
        Ok(AccessLog {
            dropped: writer.error_counter(),
            writer,
            _guard: Arc::new(guard),
        })
    }

    /// Lines that were dropped because the disk was too slow.
    pub fn dropped(&self) -> usize {
        self.dropped.dropped_lines()
    }

    fn line(&self, line: &str) {
        // A full queue is counted, not waited for.
        let _ = self.writer.clone().write_all(line.as_bytes());
    }
}

/// The middleware: outermost, so that refused requests are seen as well.
pub async fn log(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Some(log) = api.access.as_ref() else {
        return next.run(request).await;
    };
    let method = request.method().clone();
    let path = printable(request.uri().path());
    let remote = request.extensions().get::<Remote>().copied();
    let begun = api.clock.steady();
    let response = next.run(request).await;
    let took = api.clock.steady().saturating_sub(begun).as_millis();
    let principal = response.extensions().get::<Principal>();
    log.line(&format!(
        "{} {} {} {method} {path} {} {took}ms\n",
        api.clock.wall(),
        remote.map_or_else(|| "-".to_owned(), |remote| remote.0.to_string()),
        principal.map_or("-", |principal| &principal.0),
        response.status().as_u16(),
    ));
    response
}

/// A path that cannot forge a second line. Queries are left out: they may carry secrets.
fn printable(path: &str) -> String {
    path.chars()
        .take(PATH_MAX)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let log = AccessLog::open(dir.path(), 1, AccessRotation::Daily).unwrap();
        log.line("one\n");
        drop(log);
        let file = std::fs::read_dir(dir.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert!(file.file_name().to_string_lossy().starts_with("access."));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "one\n");
    }

    #[tokio::test]
    async fn each_request_has_its_line() {
        use axum::body::Body;
        use tower::ServiceExt as _;
        let dir = tempfile::tempdir().unwrap();
        let log = AccessLog::open(dir.path(), 1, AccessRotation::Daily).unwrap();
        let router = crate::api::tests::logged(log);
        for path in ["/uuid", "/nowhere?token=s3cret"] {
            let mut request = Request::get(path).body(Body::empty()).unwrap();
            let remote = Remote(SocketAddr::from(([127, 0, 0, 1], 9)));
            request.extensions_mut().insert(remote);
            router.clone().oneshot(request).await.unwrap();
        }
        drop(router);
        let file = std::fs::read_dir(dir.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "1970-01-01T00:00:01.000Z 127.0.0.1:9 loopback GET /uuid 200 0ms\n\
             1970-01-01T00:00:01.000Z 127.0.0.1:9 loopback GET /nowhere 404 0ms\n"
        );
    }

    #[test]
    fn a_path_stays_on_its_line() {
        assert_eq!(printable("/a\nb ü"), "/a?b??");
        assert_eq!(printable(&"/".repeat(5_000)).len(), PATH_MAX);
    }
}
