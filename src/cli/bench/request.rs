//! Requests that are built once and only get other numbers: a submit, or a batch of them.

/// Digits of a task's number in its id.
const NUMBER_DIGITS: usize = 10;
/// Digits of an instant in epoch milliseconds.
const DUE_DIGITS: usize = 13;
/// Bytes of the callback's body, as in the published comparisons.
const PAYLOAD_BYTES: usize = 200;

/// What the tasks have in common.
#[derive(Clone, Debug)]
pub struct Kind {
    pub app: String,
    /// The callback's target.
    pub url: String,
    pub token: Option<String>,
    /// Tasks in one request; `None` is a submit of one task, not a batch.
    pub lines: Option<usize>,
}

/// One request's bytes, and where its numbers stand.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    ids: Vec<usize>,
    dues: Vec<usize>,
}

impl Kind {
    /// Tasks in one request.
    pub fn tasks(&self) -> u64 {
        self.lines.unwrap_or(1) as u64
    }

    /// The request's bytes.
    pub fn template(&self) -> Template {
        let line = self.task();
        let lines = self.lines.unwrap_or(1);
        let (path, media) = match self.lines {
            None => ("/v1/tasks", "application/json"),
            Some(_) => ("/v1/tasks/batch", "application/x-ndjson"),
        };
        let token = self.token.as_ref().map_or(String::new(), |token| {
            format!("authorization: Bearer {token}\r\n")
        });
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {media}\r\n{token}\
             content-length: {}\r\n\r\n",
            (line.len() + 1) * lines
        );
        let mut template = Template {
            bytes: head.into_bytes(),
            ids: Vec::with_capacity(lines),
            dues: Vec::with_capacity(2 * lines),
        };
        for _ in 0..lines {
            template.push(&line);
        }
        template
    }

    /// A task as JSON, with zeros for its number and its instant.
    fn task(&self) -> String {
        let (number, due) = ("0".repeat(NUMBER_DIGITS), "0".repeat(DUE_DIGITS));
        let fill = "x".repeat(PAYLOAD_BYTES - r#"{"fill":""}"#.len());
        format!(
            r#"{{"id":"t-{number}-{due}","due_at":{due},"app":"{}","target":{{"http":{{"url":"{}","body":{{"fill":"{fill}"}}}}}}}}"#,
            self.app, self.url
        )
    }
}

impl Template {
    fn push(&mut self, line: &str) {
        let id = self.bytes.len() + r#"{"id":"t-"#.len();
        let in_id = id + NUMBER_DIGITS + 1;
        self.ids.push(id);
        self.dues.push(in_id);
        self.dues.push(in_id + DUE_DIGITS + r#"","due_at":"#.len());
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.push(b'\n');
    }

    /// The request for the tasks from number `first` on; `due_ms` says when each is due. An id
    /// carries the instant too, so that a receiver needs to believe nobody about it.
    pub fn fill(&mut self, first: u64, due_ms: impl Fn(u64) -> u64) -> &[u8] {
        for line in 0..self.ids.len() {
            let number = first + line as u64;
            let due = due_ms(number);
            write(&mut self.bytes, self.ids[line], NUMBER_DIGITS, number);
            write(&mut self.bytes, self.dues[2 * line], DUE_DIGITS, due);
            write(&mut self.bytes, self.dues[2 * line + 1], DUE_DIGITS, due);
        }
        &self.bytes
    }
}

fn write(bytes: &mut [u8], at: usize, digits: usize, mut number: u64) {
    for place in bytes[at..at + digits].iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A task's id, as [`read_id`] reads it.
pub fn task_id(number: u64, due_ms: u64) -> String {
    format!("t-{number:0NUMBER_DIGITS$}-{due_ms:0DUE_DIGITS$}")
}

/// The number and the instant in a task's id.
pub fn read_id(id: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(id).ok()?.strip_prefix("t-")?;
    let (number, due) = text.split_once('-')?;
    Some((number.parse().ok()?, due.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::wire::{decimal, head_end, header};

    fn kind(lines: Option<usize>) -> Kind {
        Kind {
            app: "bench".into(),
            url: "http://127.0.0.1:9/".into(),
            token: Some("secret".into()),
            lines,
        }
    }

    #[test]
    fn numbers_and_instants_are_written_in_place() {
        let mut template = kind(Some(3)).template();
        template.fill(7, |n| 1_000_000_000_000 + n);
        let bytes = template.fill(998, |n| 1_790_000_000_000 + n).to_vec();
        let end = head_end(&bytes).unwrap();
        let (head, body) = bytes.split_at(end);
        let length = header(head, b"content-length").and_then(decimal);
        assert_eq!(length, Some(body.len()));
        assert_eq!(header(head, b"authorization"), Some(&b"Bearer secret"[..]));
        let lines: Vec<serde_json::Value> = serde_json::Deserializer::from_slice(body)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        for (line, n) in lines.iter().zip(998..) {
            let id = line["id"].as_str().unwrap();
            assert_eq!(read_id(id.as_bytes()), Some((n, 1_790_000_000_000 + n)));
            assert_eq!(line["due_at"], 1_790_000_000_000 + n);
        }
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn the_payload_has_its_size() {
        let mut template = kind(None).template();
        let bytes = template.fill(1, |_| 1_790_000_000_000);
        let body = &bytes[head_end(bytes).unwrap()..];
        let task: serde_json::Value = serde_json::from_slice(body).unwrap();
        let payload = task["target"]["http"]["body"].to_string();
        assert_eq!(payload.len(), PAYLOAD_BYTES);
    }

    #[test]
    fn other_ids_are_not_ours() {
        assert_eq!(read_id(b"t-1-2"), Some((1, 2)));
        assert_eq!(read_id(b"order-17"), None);
        assert_eq!(read_id(b"t-1"), None);
    }
}
