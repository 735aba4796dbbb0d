use node_core::sessions::SessionState;
use tokio::net::TcpListener;

use super::*;
use crate::client::Clients;
use crate::command::default_login;
use crate::server::Limits;
use crate::store::{Refusal, StoreInfo};

/// Answers as if there were nothing in it.
#[derive(Clone)]
struct Empty;

impl Store for Empty {
    fn authenticate(&self, _: &str, _: &str) -> Option<String> {
        None
    }

    fn default_keyspace(&self) -> Option<String> {
        Some(String::new())
    }

    async fn execute(&self, ops: Vec<Op>) -> Vec<Reply> {
        let mut state = SessionState::default();
        ops.iter().map(|op| state.read(0, op).unwrap_or_else(|| state.apply(0, op))).collect()
    }

    async fn invalidate(
        &self,
        _: &str,
        _: Vec<Bytes>,
        _: Option<Duration>,
    ) -> Result<InvalidateResponse, Refusal> {
        Err(Refusal("ERR no".to_owned()))
    }

    fn info(&self) -> StoreInfo {
        StoreInfo::default()
    }
}

/// A connection beside `others` of the same user, and its client's end.
async fn connection(others: u64) -> (Connection<Empty>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, address) = listener.accept().await.unwrap();
    let client = Client {
        id: 0,
        address,
        local: stream.local_addr().unwrap(),
        connected: std::time::Instant::now(),
        protocol: Protocol::default(),
        login: default_login(Some(String::new())),
        database: 0,
        name: Bytes::new(),
        library_name: Bytes::new(),
        library_version: Bytes::new(),
    };
    let clients = Clients::default();
    for id in 0..=others {
        clients.note(&Client { id, ..client.clone() });
    }
    let shared = Arc::new(Shared { limits: Limits::default(), clients });
    (Connection::new(stream, client, Empty, shared, CancellationToken::new()), socket)
}

/// What the answers of a batch are as frames, and on the wire. Those of the store are left out.
fn bytes_of(batch: &Batch) -> usize {
    let mut out = BytesMut::new();
    let mut held = 0;
    for (step, protocol) in &batch.steps {
        if let Step::Answer(frame) = step {
            held += frame.weight();
            frame.encode(*protocol, &mut out);
        }
    }
    held.max(out.len())
}

/// How often `line` fits into the input, and how often it is answered.
async fn flood(line: &str) -> (usize, usize) {
    let (mut connection, _socket) = connection(3_000).await;
    let count = 500.min(READ_BYTES / line.len());
    connection.input.bytes.extend_from_slice(line.repeat(count).as_bytes());
    let mut answered = 0;
    loop {
        let batch = connection.next_batch();
        if batch.steps.is_empty() {
            return (count, answered);
        }
        let bytes = bytes_of(&batch);
        // The answer that fills a batch is in it.
        assert!(bytes <= 2 * BATCH_ANSWER_BYTES_MAX + (64 << 10), "{bytes} bytes of answers to {line:?}");
        answered += batch.steps.len();
    }
}

#[tokio::test]
async fn the_answers_of_one_batch_are_few_and_none_is_lost() {
    let names = "COMMAND INFO ".to_owned() + &"get ".repeat(500) + "\r\n";
    for line in [
        "COMMAND\r\n",
        "COMMAND DOCS\r\n",
        "COMMAND INFO\r\n",
        "CLIENT LIST\r\n",
        "INFO\r\n",
        "PING\r\n",
        "x\r\n",
    ]
    .into_iter()
    .chain([names.as_str()])
    {
        let (asked, answered) = flood(line).await;
        assert_eq!(answered, asked, "{line:?}");
    }
}

#[tokio::test]
async fn an_answer_can_not_be_made_large_by_asking_for_the_same_again() {
    for subcommand in ["INFO", "DOCS"] {
        let (mut connection, _socket) = connection(0).await;
        let count = Bounds::AUTHENTICATED.args_max - 2;
        let mut request = format!("*{}\r\n$7\r\nCOMMAND\r\n$4\r\n{subcommand}\r\n", count + 2);
        request.push_str(&"$3\r\nget\r\n".repeat(count));
        connection.input.bytes.extend_from_slice(request.as_bytes());
        let batch = connection.next_batch();
        let [(Step::Answer(Frame::Error(text)), _)] = &batch.steps[..] else { panic!("an answer") };
        assert!(text.starts_with("ERR COMMAND takes at most"), "{text}");
    }
}

#[tokio::test]
async fn a_list_of_too_many_clients_says_how_many_it_leaves_out() {
    for (others, cut) in [(10, false), (5_000, true)] {
        let (mut connection, _socket) = connection(others).await;
        connection.input.bytes.extend_from_slice(b"CLIENT LIST\r\n");
        let batch = connection.next_batch();
        let [(Step::Answer(Frame::Verbatim(text)), _)] = &batch.steps[..] else { panic!("an answer") };
        let shown = text.lines().filter(|line| line.starts_with("id=")).count();
        let left_out = others as usize + 1 - shown;
        assert_eq!(left_out > 0, cut);
        assert_eq!(text.ends_with(&format!("\nnot-shown={left_out}\n")), cut);
    }
}

#[tokio::test]
async fn operations_of_a_long_pipeline_still_go_together() {
    let (mut connection, _socket) = connection(0).await;
    connection.input.bytes.extend_from_slice("GET k\r\n".repeat(1_000).as_bytes());
    assert_eq!(connection.next_batch().ops.len(), 1_000);
}
