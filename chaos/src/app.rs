//! The app that is deployed to be broken: it writes down which requests it has executed.
//!
//! It is this same program, so that a release of it is one file and runs wherever the tool does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as InPath, State};
use axum::http::StatusCode;
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A request's name is a UUID, or as short.
const UUID_BYTES_MAX: usize = 64;
/// What a slow order takes: long enough that whatever is broken breaks some of them in the middle.
const SLOW: Duration = Duration::from_millis(400);

/// What an instance is asked to be.
pub struct Wish {
    /// The folder in which requests are written down, if they are.
    pub served: Option<PathBuf>,
    /// What `/` answers.
    pub text: String,
}

/// Serves on $PORT of loopback until it is told to stop.
///
/// # Errors
/// When there is no such port, or the requests can not be written down.
pub fn run(wish: Wish) -> io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok());
    let port = port.ok_or_else(|| io::Error::other("PORT names no port: it is started by an agent"))?;
    let ledger = wish.served.as_deref().map(open).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let state = Arc::new(Served { text: wish.text, ledger: ledger.map(Mutex::new) });
        let routes = Router::new()
            .route("/up", get(|| async { "up" }))
            .route("/orders/{uuid}", any(order))
            .route("/orders/slow/{uuid}", any(slow_order))
            .fallback(|State(state): State<Arc<Served>>| async move { state.text.clone() })
            .with_state(state);
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let mut stop = signal(SignalKind::terminate())?;
        let stopped = async move {
            stop.recv().await;
        };
        axum::serve(listener, routes).with_graceful_shutdown(stopped).await
    })
}

struct Served {
    text: String,
    ledger: Option<Mutex<File>>,
}

/// One file an instance: nobody else writes it.
fn open(folder: &Path) -> io::Result<File> {
    let node = std::env::var("HOLDFAST_NODE").unwrap_or_default();
    let path = folder.join(format!("{node}-{}", std::process::id()));
    OpenOptions::new().create(true).append(true).open(path)
}

/// Executes an order: it is written down before it is answered.
async fn order(State(state): State<Arc<Served>>, InPath(uuid): InPath<String>) -> (StatusCode, &'static str) {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    if uuid.len() > UUID_BYTES_MAX || !uuid.chars().all(is_name) {
        return (StatusCode::BAD_REQUEST, "not a name of a request");
    }
    let Some(ledger) = &state.ledger else { return (StatusCode::NOT_FOUND, "no orders are taken here") };
    let mut file = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    // In one write, which a kill can not cut in two.
    match file.write_all(format!("{uuid}\n").as_bytes()) {
        Ok(()) => (StatusCode::OK, "done"),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "can not be written down"),
    }
}

/// The same, with an answer that takes its time.
async fn slow_order(state: State<Arc<Served>>, uuid: InPath<String>) -> (StatusCode, &'static str) {
    let done = order(state, uuid).await;
    tokio::time::sleep(SLOW).await;
    done
}

/// Every order that was executed, by whom, as often as it was.
///
/// # Errors
/// When the folder can not be read.
pub fn orders(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)?.flatten() {
        let backend = entry.file_name().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(entry.path())?;
        all.extend(text.lines().map(|uuid| (uuid.to_owned(), backend.clone())));
    }
    Ok(all)
}
