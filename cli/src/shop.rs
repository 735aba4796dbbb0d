//! The sample app: a small shop that survives its servers.
//!
//! It is an app like any other. It gets a port and a few variables, keeps sessions and baskets in
//! the store through a stock Redis client, and drops the prices that it has cached when the farm
//! says so. It knows nothing of the cluster, which is the point: the next request may go to another
//! server, and nobody notices.
//!
//! ```text
//!   browser ──> balancer ──> handlers ──> session, basket ──> Redis port
//!                               │
//!                               └──> prices (cached) ──miss──> Redis port
//!                                       ▲
//!                                       └── CacheService.Subscribe: drop these keys
//! ```

mod catalogue;
mod handlers;
mod pages;
mod prices;
mod session;
mod store;
mod subscription;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;
use prices::Prices;
use store::Store;
use subscription::{Login, Source};

/// A shop is not what the machine is for.
const THREADS: usize = 2;

/// What every page tells of itself, so that one sees who has answered.
#[derive(Debug, Clone)]
pub struct Place {
    pub title: String,
    pub node: String,
    pub zone: String,
    pub app: String,
    pub release: String,
    pub version: String,
    pub pid: u32,
    pub port: u16,
}

/// What the handlers share.
pub struct Shop {
    pub place: Place,
    pub store: Store,
    pub prices: Arc<Prices>,
}

struct Environment {
    place: Place,
    redis_url: String,
    socket: std::path::PathBuf,
}

/// Runs the shop until SIGTERM.
pub fn run() -> Result<(), Failure> {
    let environment = Environment::read(|name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| ended("can not start threads", &error))?;
    runtime.block_on(serve(environment))
}

async fn serve(environment: Environment) -> Result<(), Failure> {
    let Environment { place, redis_url, socket } = environment;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| ended("can not listen for SIGTERM", &error))?;
    let store = Store::new(&redis_url).map_err(|error| ended("can not use REDIS_URL", &error))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
    let listener =
        TcpListener::bind(address).await.map_err(|error| ended("can not listen on PORT", &error))?;
    let prices = Arc::new(Prices::new());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let login = Login::from_url(&redis_url).map_err(|error| ended("can not use REDIS_URL", &error))?;
    let source = Source { socket, keyspace: place.app.clone(), login };
    let following = subscription::follow(source, Arc::clone(&prices));
    tasks.spawn(stop.clone().run_until_cancelled_owned(following));
    eprintln!("{} {} answers on {address}", place.app, place.version);
    let shop = Arc::new(Shop { place, store, prices });
    let served = axum::serve(listener, handlers::router(shop))
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    served.map_err(|error| ended("can not go on serving", &error))
}

impl Environment {
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let needed = |name: &str| {
            variable(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                Failure::usage(
                    format!("the sample shop can not run: {name} is not in its environment"),
                    "an agent starts it and sets what it needs: try `holdfast demo`",
                )
            })
        };
        let optional = |name: &str| variable(name).unwrap_or_default();
        let port = needed("PORT")?;
        let port = port.parse().map_err(|error| ended(&format!("PORT={port} is no port"), &error))?;
        let place = Place {
            title: variable("SHOP_TITLE").unwrap_or_else(|| "Kelp & Rope".to_owned()),
            node: optional("HOLDFAST_NODE"),
            zone: optional("HOLDFAST_ZONE"),
            app: needed("HOLDFAST_APP")?,
            release: optional("HOLDFAST_RELEASE"),
            version: optional("HOLDFAST_VERSION"),
            pid: std::process::id(),
            port,
        };
        Ok(Self { place, redis_url: needed("REDIS_URL")?, socket: needed("HOLDFAST_SOCKET")?.into() })
    }
}

fn ended(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(
        format!("the sample shop {what}: {error}"),
        "its agent starts it again; look at the agent's log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(missing: &str) -> Result<Environment, Failure> {
        Environment::read(|name| match name {
            _ if name == missing => None,
            "PORT" => Some("20000".to_owned()),
            _ => Some(format!("a {name}")),
        })
    }

    #[test]
    fn without_what_an_agent_sets_it_ends_and_names_the_variable() {
        for name in ["PORT", "REDIS_URL", "HOLDFAST_SOCKET", "HOLDFAST_APP"] {
            let failure = read(name).err().unwrap();
            assert!(failure.to_string().contains(name), "{failure}");
        }
        assert_eq!(read("none").unwrap().place.port, 20_000);
    }
}
