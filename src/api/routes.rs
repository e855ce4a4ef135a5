//! Every route, and the layers around them. Each comes with its description, so that the served
//! document cannot forget one.

use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{Kind, Problem};
use super::{
    Api, access, actions, apps, auth, batch, bulk, check, cluster, fires, health, history,
    lifecycle, list, members, old, old_shards, openapi, schedules, shards, targets, tasks,
};

/// The whole API as one service.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let (routes, document) = documented();
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(openapi::bytes(&document)))
        .layer(from_fn_with_state(Arc::clone(&api), auth::authenticate))
        .layer(from_fn_with_state(Arc::clone(&api), old::envelope))
        .layer(from_fn_with_state(Arc::clone(&api), access::log))
        .with_state(api)
}

/// The routes with their description.
pub(super) fn documented() -> (Router<Arc<Api>>, utoipa::openapi::OpenApi) {
    let (routes, mut document) = OpenApiRouter::new()
        .routes(routes!(tasks::submit, list::list))
        .routes(routes!(tasks::read, tasks::cancel, tasks::change))
        .routes(routes!(batch::batch))
        .routes(routes!(bulk::bulk))
        .routes(routes!(actions::run))
        .routes(routes!(actions::done))
        .routes(routes!(history::events))
        .routes(routes!(history::attempts))
        .routes(routes!(history::explanation))
        .routes(routes!(list::stats))
        .routes(routes!(cluster::status))
        .routes(routes!(members::add))
        .routes(routes!(members::remove))
        .routes(routes!(members::replace))
        .routes(routes!(members::lead))
        .routes(routes!(members::drain))
        .routes(routes!(lifecycle::run))
        .routes(routes!(check::check))
        .routes(routes!(shards::sets))
        .routes(routes!(shards::set, shards::make, shards::remove))
        .routes(routes!(shards::fill))
        .routes(routes!(shards::pop))
        .routes(routes!(apps::list))
        .routes(routes!(apps::pause))
        .routes(routes!(apps::resume))
        .routes(routes!(targets::list))
        .routes(routes!(schedules::create, schedules::list))
        .routes(routes!(
            schedules::read,
            schedules::change,
            schedules::delete
        ))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::backfill))
        .routes(routes!(schedules::revert))
        .routes(routes!(schedules::history))
        .routes(routes!(fires::fires))
        .routes(routes!(fires::runs))
        .routes(routes!(fires::audit_ledger))
        .routes(routes!(fires::next))
        .routes(routes!(fires::crowds))
        .routes(routes!(old::submit))
        .routes(routes!(old::inner_submit))
        .routes(routes!(old::uuid))
        .routes(routes!(old::task_done))
        .routes(routes!(old::inner_done))
        .routes(routes!(old::execute))
        .routes(routes!(old_shards::create))
        .routes(routes!(old_shards::fill))
        .routes(routes!(old_shards::pop))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi::document))
        .split_for_parts();
    openapi::complete(&mut document);
    (routes, document)
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new(
        Kind::NoRoute,
        format!("{} is no path of this API", uri.path()),
    )
}

/// The `Allow` header is added by the router.
async fn wrong_method() -> Problem {
    Problem::new(Kind::Method, "see the Allow header and /openapi.json")
}
