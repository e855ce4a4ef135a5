//! The values that JSON writes in more than one way, as the OpenAPI document shows them.

use std::borrow::Cow;
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::{Placement, Span, Time};

/// Any JSON value.
pub struct AnyJson;

fn text_or_millis(text: ObjectBuilder, description: &str) -> RefOr<Schema> {
    AnyOfBuilder::new()
        .item(text.schema_type(Type::String))
        .item(
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(0.0)),
        )
        .description(Some(description))
        .into()
}

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        let text = ObjectBuilder::new().format(Some(format));
        text_or_millis(
            text,
            "RFC 3339 (answered in UTC with milliseconds) or epoch milliseconds",
        )
    }
}

impl ToSchema for Time {
    fn name() -> Cow<'static, str> {
        "Instant".into()
    }
}

impl PartialSchema for Span {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().pattern(Some("^([0-9]+(d|h|m|s|ms))+$|^[0-9]+$"));
        text_or_millis(text, "250ms, 10s, 1h30m, 1d (24 h), or milliseconds")
    }
}

impl ToSchema for Span {
    fn name() -> Cow<'static, str> {
        "Duration".into()
    }
}

impl PartialSchema for Placement {
    fn schema() -> RefOr<Schema> {
        let names = [
            "owner",
            "round_robin",
            "random",
            "hash",
            "leader",
            "broadcast",
        ];
        let name = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(names));
        let label = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("label", ObjectBuilder::new().schema_type(Type::String))
            .required("label");
        AnyOfBuilder::new()
            .item(name)
            .item(label)
            .description(Some(
                "the owner of its shard unless that has too much to do; each live node in turn; one \
                 by chance; the same one for the same task; the leader; every live node; or one with \
                 a label, `NAME=VALUE`",
            ))
            .into()
    }
}

impl ToSchema for Placement {
    fn name() -> Cow<'static, str> {
        "Placement".into()
    }
}

impl PartialSchema for AnyJson {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some(
                "a string is sent as text, any other JSON as it was written",
            ))
            .into()
    }
}

impl ToSchema for AnyJson {
    fn name() -> Cow<'static, str> {
        "AnyJson".into()
    }
}
