//! The balancer alone, before fixed backends: to be measured beside other proxies (`.ci/bench proxies`).
//!
//! ```text
//! proxy --listen 127.0.0.1:8080 --backend 127.0.0.1:9001 [--backend ...]
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use balancer::{Availability, Backend, BackendKey, Balancer, Route, Settings, Snapshot, Target};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (mut listen, mut backends): (Vec<SocketAddr>, Vec<SocketAddr>) = (Vec::new(), Vec::new());
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        match (word.as_str(), value.parse()) {
            ("--listen", Ok(address)) => listen.push(address),
            ("--backend", Ok(address)) => backends.push(address),
            (_, _) => return ExitCode::from(2),
        }
    }
    let started = Balancer::start(Settings { http: listen, workers: 1, ..Settings::default() });
    let Ok(balancer) = started else { return ExitCode::FAILURE };
    for (place, address) in backends.iter().enumerate() {
        balancer.serve_instance("app", &place.to_string(), *address);
    }
    balancer.publish(snapshot(&backends));
    balancer.open();
    // Until it is killed.
    loop {
        std::thread::park_timeout(Duration::from_secs(3600));
    }
}

fn snapshot(backends: &[SocketAddr]) -> Snapshot {
    let backend = |(place, address): (usize, &SocketAddr)| Backend {
        key: BackendKey { node: 1, generation: 1, app: "app".to_owned(), instance: place.to_string() },
        release: String::new(),
        target: Target::Local(*address),
        availability: Availability::Serving,
    };
    let route = Route {
        app: "app".to_owned(),
        hosts: Vec::new(),
        path: "/".to_owned(),
        timeout: Duration::from_secs(60),
        retries: 1,
        backends: backends.iter().enumerate().map(backend).collect(),
    };
    Snapshot { routes: vec![route] }
}
