//! How events look as JSON: for people and their tools, never read back.

use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{HEADERS_MASKED, MASK, Spec};

/// An encoded spec as what it says; as its bytes, if it cannot be read.
pub(super) fn spec<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    match Spec::decode(bytes) {
        Ok(spec) => spec.serialize(serializer),
        Err(_) => hex(bytes, serializer),
    }
}

pub(super) fn spec_or_none<S: Serializer>(
    bytes: &Option<Arc<[u8]>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => spec(bytes, serializer),
        None => serializer.serialize_none(),
    }
}

pub(super) fn hex<S: Serializer>(
    bytes: &impl AsRef<[u8]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let digits = bytes.as_ref().iter().map(|byte| format!("{byte:02x}"));
    serializer.serialize_str(&digits.collect::<String>())
}

/// Secrets stay where they are.
pub(super) fn headers<S: Serializer>(
    headers: &BTreeMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let masked = headers.iter().map(|(name, value)| {
        let secret = HEADERS_MASKED
            .iter()
            .any(|masked| name.eq_ignore_ascii_case(masked));
        (name, if secret { MASK } else { value })
    });
    serializer.collect_map(masked)
}
