//! Small HTTP servers that behave as a test needs, and a client that writes raw bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use balancer::{Availability, Backend, BackendKey, Balancer, Route, Settings, Snapshot, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What a server does with a request's text.
type Script = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

pub enum Answer {
    Text(String),
    /// The connection ends without a word.
    Hangup,
    /// The answer, then the end of the connection.
    Last(String),
    /// It takes its time; other connections do not notice.
    Slow(Duration, String),
    Never,
}

/// A server that was started for one test.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// A connection, counted as long as it is open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    pub async fn start(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let script: Script = Arc::new(script);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let open = Arc::new(AtomicUsize::new(0));
        let (counter, gauge, stopped) = (Arc::clone(&requests), Arc::clone(&open), stop.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let listener = listener.into_std().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let tasks = tokio_util::task::TaskTracker::new();
                loop {
                    let accepted = tokio::select! {
                        () = stopped.cancelled() => return,
                        accepted = listener.accept() => accepted,
                    };
                    let (stream, _) = accepted.unwrap();
                    gauge.fetch_add(1, Ordering::SeqCst);
                    let (script, counter) = (Arc::clone(&script), Arc::clone(&counter));
                    let open = Open(Arc::clone(&gauge));
                    tasks.spawn(async move {
                        serve(stream, script, counter).await;
                        drop(open);
                    });
                }
            });
        });
        Self { address, requests, open, stop }
    }

    /// Ends the server and every connection at once, as a kill does.
    pub fn kill(&self) {
        self.stop.cancel();
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, script: Script, requests: Arc<AtomicUsize>) {
    let mut text = Vec::new();
    loop {
        let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") else {
            match stream.read_buf(&mut text).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        let head = String::from_utf8_lossy(&text[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok())
            .unwrap_or(0);
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let done = |text: &[u8]| {
            if chunked { text.ends_with(b"0\r\n\r\n") } else { text.len() >= end + 4 + length }
        };
        while !done(&text) {
            if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                return;
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let whole = String::from_utf8_lossy(&text).into_owned();
        text.clear();
        match script(&whole) {
            Answer::Text(answer) => stream.write_all(answer.as_bytes()).await.unwrap_or(()),
            Answer::Hangup => return,
            Answer::Last(answer) => return stream.write_all(answer.as_bytes()).await.unwrap_or(()),
            Answer::Slow(pause, answer) => {
                tokio::time::sleep(pause).await;
                stream.write_all(answer.as_bytes()).await.unwrap_or(());
            }
            Answer::Never => std::future::pending().await,
        }
    }
}

pub fn ok(body: &str) -> Answer {
    Answer::Text(ok_text(body))
}

pub fn ok_text(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Waits for what comes without an event that could be awaited.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits).await.expect(what);
}

pub fn backend(name: &str, target: Target) -> Backend {
    let key = BackendKey { node: 1, generation: 1, app: "shop".to_owned(), instance: name.to_owned() };
    Backend { key, release: "r".to_owned(), target, availability: Availability::Serving }
}

pub fn snapshot(backends: Vec<Backend>) -> Snapshot {
    let route = Route {
        app: "shop".to_owned(),
        hosts: Vec::new(),
        path: "/".to_owned(),
        timeout: Duration::from_secs(20),
        retries: 1,
        backends,
    };
    Snapshot { routes: vec![route] }
}

/// A balancer over these servers, and where it listens.
pub async fn before(servers: &[&Server]) -> (Balancer, SocketAddr) {
    let backends = servers
        .iter()
        .enumerate()
        .map(|(n, server)| backend(&n.to_string(), Target::Local(server.address)))
        .collect();
    let (balancer, address) = listening(None);
    for (n, server) in servers.iter().enumerate() {
        balancer.serve_instance("shop", &n.to_string(), server.address);
    }
    balancer.publish(snapshot(backends));
    (balancer, address)
}

pub fn listening(tls: Option<Arc<rustls::ClientConfig>>) -> (Balancer, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let settings = Settings { http: vec![address], workers: 1, tls, ..Settings::default() };
    let balancer = Balancer::start(settings).unwrap();
    balancer.open();
    // The workers listen a moment later.
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::yield_now();
    }
    (balancer, address)
}

/// Sends raw bytes and reads until the other side ends, or answers with the wanted end.
pub async fn raw(address: SocketAddr, bytes: &[u8], until: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_until(&mut stream, until).await
}

pub async fn read_until(stream: &mut TcpStream, until: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while until.is_empty() || !String::from_utf8_lossy(&text).contains(until) {
            if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer in time");
    String::from_utf8_lossy(&text).into_owned()
}
