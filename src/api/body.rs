//! Request bodies: read up to a bound, then parsed, with an error that says where.
//!
//! What is not JSON is 400; JSON that is not what is asked for is 422. An oversized body is read
//! and dropped up to a bound, because a client that is still sending would otherwise see a
//! broken connection in place of the 413.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

use super::problem::{Kind, Problem};
use crate::model::limits::{DRAIN_BYTES_MAX, TASK_BYTES_MAX};

/// The whole body, if it has at most `max` bytes.
pub async fn read(mut body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("at most {max} bytes are read here"));
    if body.size_hint().lower() > max as u64 {
        drain(&mut body).await;
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > max {
            drop(whole);
            drain(&mut body).await;
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads on and drops, so that the client gets to the point where it reads the answer.
pub async fn drain(body: &mut Body) {
    let mut left = DRAIN_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length > left {
            return;
        }
        left -= length;
    }
}

/// The client stopped sending, or sent something that is not HTTP.
pub fn broken(error: axum::Error) -> Problem {
    let text = error.to_string();
    if text.contains(super::serve::IDLE) {
        return Problem::new(Kind::Slow, super::serve::IDLE);
    }
    Problem::malformed(format!("the body could not be read: {text}"))
}

/// A JSON body of one task's size.
pub async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = checked(headers, body).await?;
    parse(&bytes)
}

/// The same, where an empty body means the default.
pub async fn json_or_default<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    if body.is_end_stream() {
        return Ok(T::default());
    }
    let bytes = read(body, TASK_BYTES_MAX).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    media_type(headers, is_json)?;
    parse(&bytes)
}

/// A body that is said to be JSON, unparsed.
pub async fn checked(headers: &HeaderMap, mut body: Body) -> Result<Bytes, Problem> {
    if let Err(problem) = media_type(headers, is_json) {
        drain(&mut body).await;
        return Err(problem);
    }
    read(body, TASK_BYTES_MAX).await
}

/// Refuses a content type that is not read here; none at all is taken as the right one.
pub fn media_type(headers: &HeaderMap, fits: fn(&str) -> bool) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let text = value.to_str().unwrap_or("not readable");
    let essence = text.split(';').next().unwrap_or_default().trim();
    if fits(&essence.to_ascii_lowercase()) {
        return Ok(());
    }
    let detail = format!("{text:?} is not read here; send application/json");
    Err(Problem::new(Kind::MediaType, detail))
}

fn is_json(essence: &str) -> bool {
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// NDJSON goes by several names.
pub fn is_ndjson(essence: &str) -> bool {
    matches!(
        essence,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/json"
    )
}

/// JSON text as a value. The first pass is the fast one; only an error is worth the second,
/// which keeps track of the path.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list could pass for an object whose members come in their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(not_an_object(bytes));
    }
    let error = match serde_json::from_slice::<T>(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if error.classify() != serde_json::error::Category::Data {
        return Err(Problem::malformed(format!("this is not JSON: {error}")));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(traced) => {
            let path = traced.path().to_string();
            Err(data_error(Some(&path), traced.inner()))
        }
        Ok(_) => Err(data_error(None, &error)),
    }
}

/// A member that must be an object, for the same reason.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Object::deserialize(from).map(|Object(value)| value)
}

/// The same where it may be missing or null.
pub fn maybe_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let found = Option::<Object<T>>::deserialize(from)?;
    Ok(found.map(|Object(value)| value))
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Object<T>, D::Error> {
        struct OfMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }
        from.deserialize_map(OfMap(PhantomData)).map(Object)
    }
}

/// What is no JSON at all says so first.
fn not_an_object(bytes: &[u8]) -> Problem {
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Ok(_) => Problem::invalid("a list is given where an object is expected"),
        Err(error) => Problem::malformed(format!("this is not JSON: {error}")),
    }
}

fn data_error(path: Option<&str>, error: &serde_json::Error) -> Problem {
    match path {
        Some(path) if path != "." => Problem::invalid(format!("`{path}`: {error}")),
        _ => Problem::invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::dto::Submission;

    fn status(text: &str) -> (u16, String) {
        let problem = parse::<Submission>(text.as_bytes()).unwrap_err();
        (problem.status().as_u16(), problem.detail)
    }

    #[test]
    fn syntax_is_400_and_data_is_422() {
        assert_eq!(status("{").0, 400);
        assert_eq!(status("").0, 400);
        assert_eq!(status("[1]").0, 422);
        assert_eq!(status("[1").0, 400);
        let list = r#" ["a","b",null,null,{"http":{"url":"http://a"}},null,null,null,null]"#;
        assert_eq!(status(list).0, 422);
        for inner in [
            r#"[{"url":"http://a"}]"#,
            r#"{"http":[null,"http://a"]}"#,
            r#"{"http":{"url":"http://a"}},"retry":[5]"#,
        ] {
            let (code, detail) = status(&format!(r#"{{"app":"a","target":{inner}}}"#));
            assert_eq!(code, 422);
            assert!(detail.contains("expected an object"), "{detail}");
        }
        assert_eq!(status("{}").0, 422);
        let (code, detail) = status(r#"{"app":"a","target":{"http":{"url":7}}}"#);
        assert_eq!(code, 422);
        assert!(detail.contains("target.http.url"), "{detail}");
        let (code, detail) =
            status(r#"{"app":"a","dleay":"1s","target":{"http":{"url":"http://a"}}}"#);
        assert_eq!(code, 422);
        assert!(detail.contains("dleay"), "{detail}");
    }

    #[test]
    fn content_types_are_checked() {
        let fits = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, text.parse().unwrap());
            media_type(&headers, is_json).is_ok()
        };
        assert!(fits("application/json; charset=utf-8") && fits("Application/Merge-Patch+JSON"));
        assert!(!fits("text/plain") && !fits("application/x-www-form-urlencoded"));
        assert!(media_type(&HeaderMap::new(), is_json).is_ok());
    }
}
