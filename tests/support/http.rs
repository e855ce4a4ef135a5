//! A blocking HTTP/1.1 client, written from the standard: a test of the server must not share a
//! mistake with it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

/// An answer may take so long; the server promises to say "unknown" earlier.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// What all clients of this process prove themselves with, once it is set.
pub static TOKEN: OnceLock<String> = OnceLock::new();

/// One connection to one node, kept open between requests.
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    within: Duration,
}

/// What came back. Header names are in lower case.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body; null when it is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A value for each line.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_str(line).unwrap_or(Value::Null))
            .collect()
    }

    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client::within(address, ANSWER_WITHIN)
    }

    /// One that gives up when nothing moves for so long.
    pub fn within(address: SocketAddr, within: Duration) -> Client {
        Client {
            address,
            connection: None,
            within,
        }
    }

    /// Reads; asks once more on a fresh connection, because a kept one may have been closed.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let kept = self.connection.is_some();
        match self.send("GET", path, "", b"") {
            Err(_) if kept => self.send("GET", path, "", b""),
            answer => answer,
        }
    }

    pub fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        let body = body.to_string();
        self.send("POST", path, "application/json", body.as_bytes())
    }

    pub fn delete(&mut self, path: &str) -> io::Result<Answer> {
        self.send("DELETE", path, "", b"")
    }

    /// One exchange. After an error the outcome is unknown, and the connection is given up.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(self.address, self.within)?,
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n",
            self.address,
            body.len()
        );
        if let Some(token) = TOKEN.get() {
            request.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        if !media_type.is_empty() {
            request.push_str(&format!("content-type: {media_type}\r\n"));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        connection.get_mut().write_all(&bytes)?;
        let answer = read(&mut connection)?;
        let closes = answer
            .headers
            .get("connection")
            .is_some_and(|c| c == "close");
        self.connection = (!closes).then_some(connection);
        Ok(answer)
    }
}

fn connect(address: SocketAddr, within: Duration) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn read(connection: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let first = line(connection)?;
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| broken("no status line"))?;
    let mut headers = BTreeMap::new();
    loop {
        let text = line(connection)?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| broken("no header"))?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if headers
        .get("transfer-encoding")
        .is_some_and(|e| e == "chunked")
    {
        loop {
            let size = line(connection)?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| broken("no chunk size"))?;
            let at = body.len();
            body.resize(at + size, 0);
            connection.read_exact(&mut body[at..])?;
            line(connection)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = headers.get("content-length") {
        let length = length.parse().map_err(|_| broken("no length"))?;
        body.resize(length, 0);
        connection.read_exact(&mut body)?;
    }
    Ok(Answer {
        status,
        headers,
        body,
    })
}

fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut text = String::new();
    if connection.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end().to_owned())
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
