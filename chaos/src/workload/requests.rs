//! Requests through the balancers, each with a name of its own, by clients that use any server that takes
//! their connection.

use std::io;
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
const PAUSE: Duration = Duration::from_millis(20);
/// Of a hundred requests, those that must not be executed twice.
const ORDERS_PERCENT: u8 = 50;
/// And those that take their time.
const SLOW_PERCENT: u8 = 5;

/// Where a client is, and whom it asks first.
pub struct Place<'a> {
    pub hosts: &'a [Host],
    pub names: &'a [String],
    pub number: usize,
    /// Its server. One that stands still holds up those that ask it, and nobody else.
    pub first: usize,
    pub seed: u64,
    pub client: u32,
}

/// Asks until it is told to stop. On a host of its own: the thread stays there.
///
/// # Errors
/// When the host is no more.
pub fn work(place: &Place<'_>, journal: &Journal, stop: &AtomicBool) -> io::Result<()> {
    let Place { hosts, number, seed, client, .. } = place;
    hosts[*number].enter()?;
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_MAX))
        .timeout_connect(Some(CONNECT_MAX))
        .http_status_as_error(false)
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let mut random = StdRng::seed_from_u64(seed ^ (u64::from(*client) << 32));
    for count in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let request = Request {
            uuid: format!("{seed:x}-{client}-{count}"),
            idempotent: random.random_range(0..100) >= ORDERS_PERCENT,
            slow: random.random_range(0..100) < SLOW_PERCENT,
        };
        ask(place, &agent, &request, journal);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

struct Request {
    uuid: String,
    idempotent: bool,
    slow: bool,
}

/// Tries one server after the other, as with the addresses of a name, until one takes the connection: what
/// was never sent can not be executed. What was sent is never sent again.
fn ask(place: &Place<'_>, agent: &ureq::Agent, request: &Request, journal: &Journal) {
    let count = place.hosts.len();
    for server in (0..count).map(|turn| (place.first + turn) % count) {
        let node = Some(place.names[server].clone());
        let op = Op::Request { uuid: request.uuid.clone(), idempotent: request.idempotent, node };
        let told = journal.call(place.client, op, || ask_once(agent, &place.hosts[server], request));
        if !matches!(told, Outcome::Refused { .. }) {
            return;
        }
    }
}

fn ask_once(agent: &ureq::Agent, host: &Host, request: &Request) -> Outcome {
    let slow = if request.slow { "slow/" } else { "" };
    let url = format!("http://{}:{HTTP_PORT}/orders/{slow}{}", host.address, request.uuid);
    let answer = if request.idempotent { agent.get(&url).call() } else { agent.post(&url).send_empty() };
    match answer {
        Ok(mut answer) => {
            let status = answer.status().as_u16();
            match answer.body_mut().read_to_string() {
                Ok(_) => Outcome::Ok { value: Value::Status { status } },
                Err(error) => unknown(error),
            }
        }
        Err(error) if was_not_sent(&error) => refused(error),
        Err(error) => unknown(error),
    }
}

/// Whether no connection came about.
fn was_not_sent(error: &ureq::Error) -> bool {
    let refused = |source: &io::Error| {
        matches!(
            source.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
        )
    };
    matches!(error, ureq::Error::ConnectionFailed | ureq::Error::Timeout(ureq::Timeout::Connect))
        || matches!(error, ureq::Error::Io(source) if refused(source))
}
