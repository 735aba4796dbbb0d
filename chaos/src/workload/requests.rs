//! Requests through the balancers, each with a name of its own, by clients that use any server that takes
//! their connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{refused, unknown};
use crate::farm::HTTP_PORT;
use crate::history::{Op, Outcome, Value};
use crate::journal::Journal;
use crate::network::Host;

/// As browsers do not, but as a test must: what takes longer counts as failed.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(12);
/// Of a hundred requests, those that must not be executed twice.
const ORDERS_PERCENT: u8 = 50;

/// Asks until it is told to stop. On a host of its own: the thread stays there.
pub fn work(hosts: &[Host], number: usize, seed: u64, client: u32, journal: &Journal, stop: &AtomicBool) {
    if let Err(error) = hosts[number].enter() {
        eprintln!("warning: no client on {}: {error}", hosts[number].name);
        return;
    }
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_MAX))
        .timeout_connect(Some(CONNECT_MAX))
        .http_status_as_error(false)
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let mut random = StdRng::seed_from_u64(seed ^ ((number as u64) << 32));
    for count in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let idempotent = random.random_range(0..100) >= ORDERS_PERCENT;
        // Its own server is asked as often as the others together.
        let first = if random.random() { number } else { random.random_range(0..hosts.len()) };
        let uuid = format!("{seed:x}-{number}-{count}");
        let op = Op::Request { uuid: uuid.clone(), idempotent };
        journal.call(client, op, || ask(&agent, hosts, first, &uuid, idempotent));
        std::thread::sleep(PAUSE);
    }
}

/// One request, to the first server that takes the connection: what was never sent can not be executed.
fn ask(agent: &ureq::Agent, hosts: &[Host], first: usize, uuid: &str, idempotent: bool) -> Outcome {
    let mut last = refused("there is no server");
    for turn in 0..hosts.len() {
        let address = hosts[(first + turn) % hosts.len()].address;
        let url = format!("http://{address}:{HTTP_PORT}/orders/{uuid}");
        let answer = if idempotent { agent.get(&url).call() } else { agent.post(&url).send_empty() };
        last = match answer {
            Ok(mut answer) => {
                let status = answer.status().as_u16();
                match answer.body_mut().read_to_string() {
                    Ok(_) => return Outcome::Ok { value: Value::Status { status } },
                    Err(error) => return unknown(error),
                }
            }
            Err(error) if was_not_sent(&error) => refused(error),
            Err(error) => return unknown(error),
        };
    }
    last
}

/// Whether no connection came about.
fn was_not_sent(error: &ureq::Error) -> bool {
    let refused = |source: &std::io::Error| {
        matches!(
            source.kind(),
            std::io::ErrorKind::ConnectionRefused
                | std::io::ErrorKind::HostUnreachable
                | std::io::ErrorKind::NetworkUnreachable
        )
    };
    matches!(error, ureq::Error::ConnectionFailed | ureq::Error::Timeout(ureq::Timeout::Connect))
        || matches!(error, ureq::Error::Io(source) if refused(source))
}
