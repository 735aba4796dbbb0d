//! The admin port: probes, metrics and the page, over plain HTTP on loopback.
//!
//! The Host header is checked, so that a web page in the operator's browser can not reach the port
//! under a name of its own (DNS rebinding). Nothing here changes anything.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::capped;
use super::metrics::Metrics;
use super::status::StatusSource;
use crate::tasks::Tasks;

/// The page: one file, no outside resources, drawn from `/v1/status`.
const PAGE: &str = include_str!("admin/page.html");

/// Connections at a time: browsers, probes and what collects the metrics.
const CONNECTIONS_MAX: usize = 64;

#[derive(Clone)]
struct Admin {
    status: StatusSource,
    metrics: Metrics,
}

/// Serves until the agent stops.
pub async fn run(listener: TcpListener, status: StatusSource, metrics: Metrics, tasks: Tasks) {
    let router = Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/v1/status", get(status_json))
        .layer(middleware::from_fn(check_host))
        .with_state(Admin { status, metrics });
    let stop = tasks.stop();
    let listener = capped::Tcp::new(listener, CONNECTIONS_MAX);
    let served =
        axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await;
    if let Err(error) = served {
        tracing::error!(%error, "the admin port failed");
    }
}

async fn page() -> impl IntoResponse {
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE))
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.status.readiness() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn prometheus(State(admin): State<Admin>) -> Response {
    let text = admin.metrics.render(&admin.status.status());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn status_json(State(admin): State<Admin>) -> Response {
    axum::Json(admin.status.status()).into_response()
}

/// Only addresses of loopback and `localhost` may be the host.
async fn check_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_local) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "this port answers to localhost only\n").into_response()
}

fn is_local(host: &str) -> bool {
    let name = host.parse::<std::net::SocketAddr>().map(|address| address.ip()).or_else(|_| host.parse());
    match name {
        Ok(ip) => ip.is_loopback(),
        Err(_) => {
            let bare = host.split_once(':').map_or(host, |(name, _)| name);
            bare.eq_ignore_ascii_case("localhost") || host == "[::1]"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_loopback_names_are_local() {
        for host in ["localhost", "LOCALHOST:7403", "127.0.0.1", "127.0.0.1:7403", "[::1]:7403", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example", "evil.example:7403", "192.0.2.1:7403", "localhost.evil.example", ""] {
            assert!(!is_local(host), "{host}");
        }
    }
}
