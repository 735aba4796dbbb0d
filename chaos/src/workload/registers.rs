//! Registers with versions, through each agent's gRPC: reads, writes, and writes on condition.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::v1::session_service_client::SessionServiceClient;
use proto::v1::{GetRequest, PutRequest};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::socket::{connect, within};
use super::{refused, unknown};
use crate::history::{Op, Outcome, Value};
use crate::journal::Journal;

/// Longer than the agent's own patience.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(15);
const AWAY: Duration = Duration::from_millis(200);
/// A key takes so many operations of each client: linearizability is searched key by key.
const PER_KEY: u64 = 100;

/// A client of one agent.
pub struct Place {
    pub socket: PathBuf,
    pub number: usize,
    pub seed: u64,
    pub client: u32,
}

/// Works until it is told to stop.
///
/// # Errors
/// When this process may have no more descriptors.
pub fn work(place: &Place, journal: &Journal, stop: &AtomicBool) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut random = StdRng::seed_from_u64(place.seed ^ ((place.number as u64) << 33));
    let mut client = None;
    let (mut count, mut version) = (0_u64, None);
    while !stop.load(Ordering::Relaxed) {
        let key = format!("register-{}", count / PER_KEY);
        // No two writes of a key write the same.
        let value = i64::try_from(count).unwrap_or(0) * 100 + i64::try_from(place.number).unwrap_or(0);
        let op = match random.random_range(0..10_u8) {
            0..4 => Op::RegisterRead { key },
            4..6 => Op::RegisterWrite { key, value, if_version: None },
            _ => Op::RegisterWrite { key, value, if_version: Some(version.unwrap_or(0)) },
        };
        let outcome = journal.call(place.client, op.clone(), || {
            runtime.block_on(async {
                let connected = match &mut client {
                    Some(client) => client,
                    None => match connect(&place.socket).await {
                        Ok(channel) => client.insert(SessionServiceClient::new(channel)),
                        Err(error) => return refused(error),
                    },
                };
                ask(connected, &op).await
            })
        });
        let before = count / PER_KEY;
        count = match (&op, &outcome) {
            // As with counters: what is of unknown end makes the search longer.
            (Op::RegisterWrite { .. }, Outcome::Unknown { .. }) => (count / PER_KEY + 1) * PER_KEY,
            _ => count + 1,
        };
        version = match outcome {
            _ if count / PER_KEY != before => None,
            Outcome::Ok { value: Value::Register { version, .. } | Value::Version { version } } => {
                Some(version)
            }
            Outcome::Ok { value: Value::Mismatch { found } } => Some(found),
            Outcome::Ok { .. } | Outcome::Refused { .. } => version,
            Outcome::Unknown { .. } => {
                client = None;
                version
            }
        };
        std::thread::sleep(if client.is_none() { AWAY } else { PAUSE });
    }
    Ok(())
}

async fn ask(client: &mut SessionServiceClient<Channel>, op: &Op) -> Outcome {
    let answer = if let Op::RegisterRead { key } = op {
        let request = GetRequest { keyspace: String::new(), key: key.clone().into_bytes().into() };
        client.get(within(ANSWER_MAX, request)).await.map(|answer| {
            let answer = answer.into_inner();
            let value =
                <[u8; 8]>::try_from(answer.value.as_ref()).map(i64::from_be_bytes).unwrap_or(i64::MIN);
            if answer.found { Value::Register { value, version: answer.version } } else { Value::Absent {} }
        })
    } else if let Op::RegisterWrite { key, value, if_version } = op {
        let request = PutRequest {
            keyspace: String::new(),
            key: key.clone().into_bytes().into(),
            value: value.to_be_bytes().to_vec().into(),
            ttl_ms: None,
            if_version: *if_version,
        };
        client.put(within(ANSWER_MAX, request)).await.map(|answer| {
            let answer = answer.into_inner();
            let version = answer.version;
            if answer.applied { Value::Version { version } } else { Value::Mismatch { found: version } }
        })
    } else {
        return refused(format!("{op:?} is not this client's"));
    };
    match answer {
        Ok(value) => Outcome::Ok { value },
        Err(status) if was_not_executed(&status) => refused(status.message()),
        Err(status) => unknown(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// By the same words as on the Redis port (interfaces.md).
fn was_not_executed(status: &Status) -> bool {
    status.code() == Code::InvalidArgument
        || status.message().contains("not executed")
        || status.message().contains("CLUSTERDOWN")
}
