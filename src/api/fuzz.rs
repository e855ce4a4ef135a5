//! Request bodies, read without a server: for the fuzzer.

use super::body::parse;
use super::dto::Submission;
use super::old_fields::{Compat, OldName, OldTask};
use super::patch::Patch;
use crate::model::Spec;

/// Reads some bytes as each of the bodies in turn. Whatever is taken reads back as the same.
pub(crate) fn read_anything(bytes: &[u8]) {
    let spec = parse::<Submission>(bytes)
        .ok()
        .and_then(|task| task.split().ok());
    let compat = Compat::default();
    let old = compat
        .parse::<OldTask>(bytes)
        .ok()
        .and_then(|task| task.split().ok());
    for (when, spec) in spec.into_iter().chain(old) {
        let encoded = spec.encode();
        assert_eq!(Spec::decode(&encoded).as_ref(), Ok(&spec));
        assert_eq!(
            Spec::digest(&encoded, when),
            Spec::digest(&spec.encode(), when)
        );
        if let Ok(patch) = parse::<Patch>(bytes) {
            let _ = patch.apply(&mut spec.clone());
        }
    }
    if let Ok(patch) = parse::<Patch>(bytes) {
        let _ = (patch.when(), patch.touches_spec());
    }
    let _ = compat.parse::<OldName>(bytes);
}
