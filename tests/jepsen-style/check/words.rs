//! Instants and durations as the outer contract writes them.

use serde_json::Value;

/// An instant in milliseconds: a number, or RFC 3339.
pub fn instant(value: &Value) -> Option<u64> {
    match value {
        Value::Number(millis) => millis.as_u64(),
        Value::String(text) => {
            let instant: jiff::Timestamp = text.parse().ok()?;
            u64::try_from(instant.as_millisecond()).ok()
        }
        _ => None,
    }
}

/// A duration in milliseconds: a number, or `1h30m`.
pub fn span(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Number(millis) => return millis.as_u64(),
        Value::String(text) => text.as_str(),
        _ => return None,
    };
    if let Ok(millis) = text.parse() {
        return Some(millis);
    }
    let mut total = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        total += number
            * match &rest[..letters] {
                "d" => 86_400_000,
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(instant(&json!("1970-01-01T00:00:01.250Z")), Some(1_250));
        assert_eq!(instant(&json!(7)), Some(7));
        assert_eq!(span(&json!("1h30m")), Some(5_400_000));
        assert_eq!(span(&json!("1s250ms")), Some(1_250));
        assert_eq!(span(&json!(5)), Some(5));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in [json!("soon"), json!(""), json!(null), json!("5x")] {
            assert_eq!((instant(&bad), span(&bad)), (None, None), "{bad}");
        }
    }
}
