//! Who may do what: a token for clients, the cluster's secret for the internal paths.
//!
//! Credentials are kept as hashes and compared in constant time. What is not named here as open
//! or internal is the clients': a forgotten path is closed, not open.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

use super::problem::{Kind, Problem};
use super::{Api, ApiSettings};
use crate::model::By;

/// A token or secret, as a hash; it cannot be shown by accident.
#[derive(Clone)]
pub struct Credential(blake3::Hash);

impl Credential {
    pub fn new(text: &str) -> Credential {
        Credential(blake3::hash(text.as_bytes()))
    }

    /// Takes the same time whatever is offered.
    pub fn matches(&self, offered: &str) -> bool {
        let offered = blake3::hash(offered.as_bytes());
        self.0.as_bytes().ct_eq(offered.as_bytes()).into()
    }
}

/// Who asks: `token`, `cluster` or `loopback`. Stands in the log as `by`.
#[derive(Clone, Debug)]
pub struct Principal(pub By);

/// Which credential a path needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Open,
    Client,
    Internal,
}

fn access(path: &str) -> Access {
    match path {
        "/livez" | "/readyz" => Access::Open,
        "/execute" | "/done" => Access::Internal,
        _ if path.starts_with("/inner/") || path.starts_with("/shard/") => Access::Internal,
        _ => Access::Client,
    }
}

/// The middleware: names the principal or refuses.
pub async fn authenticate(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = access(request.uri().path());
    let verdict = principal(&api.settings, access, request.headers())
        .and_then(|name| same_site(&request).map(|()| name));
    match verdict {
        Err(problem) => problem.into_response(),
        Ok(name) => {
            let principal = Principal(name.into());
            request.extensions_mut().insert(principal.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(principal);
            response
        }
    }
}

fn principal(
    settings: &ApiSettings,
    access: Access,
    headers: &HeaderMap,
) -> Result<&'static str, Problem> {
    let (wanted, name) = match (access, &settings.secret, &settings.token) {
        (Access::Open, _, _) => return Ok("anyone"),
        (Access::Internal, Some(secret), _) => (secret, "cluster"),
        // A token that is set must not be got round by the internal paths.
        (Access::Internal | Access::Client, _, Some(token)) => (token, "token"),
        (_, _, None) => return Ok("loopback"),
    };
    match bearer(headers) {
        Some(offered) if wanted.matches(offered) => Ok(name),
        offered => {
            let what = if name == "token" {
                "the client token"
            } else {
                "the cluster secret"
            };
            let given = if offered.is_some() {
                "another one was given"
            } else {
                "none was given"
            };
            let detail = format!("`Authorization: Bearer` with {what} is needed; {given}");
            Err(Problem::new(Kind::Unauthorized, detail))
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credential) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| credential.trim())
}

/// A page in the user's browser must not be able to write to a scheduler on the same machine
/// that asks for no token: browsers say when a request comes from another site.
fn same_site(request: &Request) -> Result<(), Problem> {
    let site = request.headers().get("sec-fetch-site");
    let foreign = site.is_some_and(|site| site == "cross-site");
    if foreign && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::new(
            Kind::Forbidden,
            "a page of another site sent this request",
        ));
    }
    Ok(())
}

/// Whether an address can be reached only from this machine.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(token: Option<&str>, secret: Option<&str>) -> ApiSettings {
        ApiSettings {
            token: token.map(Credential::new),
            secret: secret.map(Credential::new),
            ..ApiSettings::default()
        }
    }

    fn ask(settings: &ApiSettings, path: &str, bearer: Option<&str>) -> Result<&'static str, u16> {
        let mut headers = HeaderMap::new();
        if let Some(bearer) = bearer {
            let value = format!("Bearer {bearer}");
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        principal(settings, access(path), &headers).map_err(|p| p.status().as_u16())
    }

    #[test]
    fn each_path_needs_its_credential() {
        let both = settings(Some("t"), Some("s"));
        for (path, bearer, verdict) in [
            ("/livez", None, Ok("anyone")),
            ("/readyz", None, Ok("anyone")),
            ("/v1/tasks", None, Err(401)),
            ("/v1/tasks", Some("t"), Ok("token")),
            ("/v1/tasks", Some("s"), Err(401)),
            ("/metrics", None, Err(401)),
            ("/openapi.json", Some("t"), Ok("token")),
            ("/submit", Some("t"), Ok("token")),
            ("/api/task/done", None, Err(401)),
            ("/inner/submit", Some("t"), Err(401)),
            ("/inner/submit", Some("s"), Ok("cluster")),
            ("/execute", Some("s"), Ok("cluster")),
            ("/done", None, Err(401)),
            ("/nowhere", None, Err(401)),
        ] {
            assert_eq!(ask(&both, path, bearer), verdict, "{path} {bearer:?}");
        }
    }

    #[test]
    fn without_credentials_there_is_only_loopback() {
        let none = settings(None, None);
        assert_eq!(ask(&none, "/v1/tasks", None), Ok("loopback"));
        assert_eq!(ask(&none, "/execute", None), Ok("loopback"));
        // A token alone also guards the internal paths.
        assert_eq!(ask(&settings(Some("t"), None), "/execute", None), Err(401));
        assert_eq!(ask(&settings(None, Some("s")), "/execute", None), Err(401));
        assert_eq!(
            ask(&settings(None, Some("s")), "/v1/tasks", None),
            Ok("loopback")
        );
    }

    #[test]
    fn loopback_is_seen_in_every_spelling() {
        for (text, loopback) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(text.parse().unwrap()), loopback, "{text}");
        }
    }
}
