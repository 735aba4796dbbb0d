//! One connection: bytes in, answers out, in order.
//!
//! What has arrived is decoded as far as it goes. Commands that concern the connection alone are
//! carried out at once; the others leave their operations behind, and all operations of the run go to
//! the store together. Then the answers are written, each in the protocol version that was spoken when
//! its command came. A client that does not read its answers is not read from, and a run ends when the
//! answers that it has gathered are many: what one connection holds is bounded whatever it sends.

mod input;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use node_core::sessions::may_answer_value;
use proto::log::{Op, Reply, reply};
use proto::v1::InvalidateResponse;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::command::{self, Action, Context, Shape};
use crate::decode::{Bounds, Decoded, Decoder};
use crate::frame::{Frame, Protocol};
use crate::server::Shared;
use crate::store::Store;

use input::{Input, READ_BYTES};

/// Operations of one batch. Larger ones gain nothing: a log's entry holds about so many.
const BATCH_OPS_MAX: usize = 1_024;
/// Of these, how many may answer a value, each up to 1 MiB, that is held until it is written.
const BATCH_VALUES_MAX: usize = 64;
/// Commands of one batch: as many as operations, so that a pipeline of GETs is not cut smaller.
const BATCH_STEPS_MAX: usize = BATCH_OPS_MAX;
/// Answers that a batch gathers before any of them is written. A command of ten bytes may have one of
/// ten kilobytes: without this, a client would make the agent hold a thousand times what it sends.
const BATCH_ANSWER_BYTES_MAX: usize = 256 << 10;
/// Values that one answer may hold: those of MGET.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Answers are written when so much has gathered.
const FLUSH_BYTES: usize = 64 << 10;
/// An output that grew beyond this for one large value is not kept.
const KEPT_OUTPUT_BYTES: usize = 256 << 10;
/// How much of what a client still sends is thrown away while it reads why it was cut off: a socket
/// closed with unread bytes is reset, and the reset overtakes the error.
const LINGER_BYTES_MAX: usize = 1 << 20;
const LINGER_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Connection<S> {
    stream: TcpStream,
    store: S,
    shared: Arc<Shared>,
    stop: CancellationToken,
    client: Client,
    decoder: Decoder,
    input: Input,
    output: BytesMut,
    login_deadline: Instant,
}

/// A run of commands.
#[derive(Default)]
struct Batch {
    steps: Vec<(Step, Protocol)>,
    ops: VecDeque<Op>,
    /// About what the answers that are there already hold.
    answer_bytes: usize,
    last: Option<Last>,
}

enum Step {
    Answer(Frame),
    Store { count: usize, shape: Shape },
}

/// What ends a run: nothing after it may overtake it.
enum Last {
    Invalidate {
        keyspace: String,
        keys: Vec<Bytes>,
        wait: Option<Duration>,
        protocol: Protocol,
    },
    Close,
    /// The bytes after it are no request.
    Broken,
}

impl<S: Store> Connection<S> {
    pub(crate) fn new(
        stream: TcpStream,
        client: Client,
        store: S,
        shared: Arc<Shared>,
        stop: CancellationToken,
    ) -> Self {
        let login_deadline = Instant::now() + shared.limits.login_timeout;
        let decoder = Decoder::new(bounds(&client));
        let (input, output) = (Input::default(), BytesMut::new());
        Self { stream, store, shared, stop, client, decoder, input, output, login_deadline }
    }

    /// Serves until the client leaves, breaks the protocol, or the agent stops.
    pub(crate) async fn run(mut self) {
        if let Err(error) = self.serve().await {
            tracing::debug!(client = self.client.id, %error, "a Redis connection broke");
        }
    }

    async fn serve(&mut self) -> io::Result<()> {
        loop {
            let batch = self.next_batch();
            let end = matches!(batch.last, Some(Last::Close | Last::Broken));
            let idle = batch.steps.is_empty() && batch.last.is_none();
            if !idle {
                self.carry_out(batch).await?;
            }
            if end || self.stop.is_cancelled() {
                return self.close().await;
            }
            if idle && !self.read().await? {
                return Ok(());
            }
        }
    }

    /// Decodes what is there, up to what may be executed together.
    fn next_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while !batch.is_full() {
            match self.decoder.next(&mut self.input.bytes) {
                Ok(None) => break,
                Ok(Some(Decoded::Request(args))) => self.note(&args, &mut batch),
                Ok(Some(Decoded::TooLarge)) => {
                    let bounds = bounds(&self.client);
                    batch.answer(self.client.protocol, too_large(&bounds));
                }
                Err(error) => {
                    tracing::debug!(client = self.client.id, %error, "cutting a Redis connection off");
                    batch.answer(self.client.protocol, Frame::Error(error.to_string()));
                    batch.last = Some(Last::Broken);
                }
            }
        }
        batch
    }

    /// Carries one command out as far as the connection can, and notes what is left.
    fn note(&mut self, args: &[Bytes], batch: &mut Batch) {
        let clients_max = self.shared.limits.connections_max;
        let mut context = Context {
            client: &mut self.client,
            clients: &self.shared.clients,
            accounts: &self.store,
            clients_max,
            client_changed: false,
        };
        let action = command::run(&mut context, args);
        if context.client_changed {
            self.decoder.set_bounds(bounds(&self.client));
            self.shared.clients.note(&self.client);
        }
        let protocol = self.client.protocol;
        match action {
            Err(error) => batch.answer(protocol, Frame::Error(error.to_string())),
            Ok(Action::Answer(frame)) => batch.answer(protocol, frame),
            Ok(Action::Close(frame)) => {
                batch.answer(protocol, frame);
                batch.last = Some(Last::Close);
            }
            Ok(Action::Store { ops, shape }) => {
                batch.steps.push((Step::Store { count: ops.len(), shape }, protocol));
                batch.ops.extend(ops);
            }
            Ok(Action::Invalidate { keyspace, keys, wait }) => {
                batch.last = Some(Last::Invalidate { keyspace, keys, wait, protocol });
            }
        }
    }

    async fn carry_out(&mut self, batch: Batch) -> io::Result<()> {
        let Batch { steps, mut ops, answer_bytes: _, last } = batch;
        let mut replies = VecDeque::new();
        for (step, protocol) in steps {
            let frame = match step {
                Step::Answer(frame) => frame,
                Step::Store { count, shape } => self.collect(count, shape, &mut ops, &mut replies).await,
            };
            frame.encode(protocol, &mut self.output);
            if self.output.len() >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
        if let Some(Last::Invalidate { keyspace, keys, wait, protocol }) = last {
            // What was answered before it must not wait for the farm's confirmation.
            self.flush().await?;
            let frame = match self.store.invalidate(&keyspace, keys, wait).await {
                Ok(response) => confirmation(response),
                Err(refusal) => Frame::Error(refusal.0),
            };
            frame.encode(protocol, &mut self.output);
        }
        self.flush().await
    }

    /// The answer of one command, asking the store for the next operations when their replies are due.
    async fn collect(
        &self,
        count: usize,
        shape: Shape,
        ops: &mut VecDeque<Op>,
        replies: &mut VecDeque<Reply>,
    ) -> Frame {
        let mut kept = Vec::new();
        let mut bytes = 0;
        for _ in 0..count {
            if replies.is_empty() {
                *replies = self.store.execute(next_ops(ops)).await.into();
            }
            let reply = replies.pop_front().unwrap_or(Reply { kind: None });
            if let Some(reply::Kind::Value(value)) = &reply.kind {
                bytes += value.value.len();
            }
            if bytes <= ANSWER_BYTES_MAX {
                kept.push(reply);
            }
        }
        if bytes > ANSWER_BYTES_MAX {
            return Frame::Error(format!(
                "ERR the answer exceeds {ANSWER_BYTES_MAX} bytes: ask for fewer keys"
            ));
        }
        shape.fold(kept)
    }

    async fn flush(&mut self) -> io::Result<()> {
        let limit = self.shared.limits.write_timeout;
        timeout(limit, self.stream.write_all(&self.output)).await??;
        self.output.clear();
        if self.output.capacity() > KEPT_OUTPUT_BYTES {
            self.output = BytesMut::new();
        }
        Ok(())
    }

    /// Waits for more bytes; false when there will be none that matter.
    async fn read(&mut self) -> io::Result<bool> {
        self.input.make_room();
        // A client that has logged in and asks for nothing may stay: pools of connections idle for
        // hours, and a library takes a closed one for an error of the next request.
        let deadline = if self.client.login.is_none() {
            Some(self.login_deadline)
        } else if self.decoder.is_within(&self.input.bytes) {
            Some(Instant::now() + self.shared.limits.request_timeout)
        } else {
            None
        };
        let read = self.stream.read_buf(&mut self.input.bytes);
        let read = async {
            match deadline {
                Some(deadline) => timeout_at(deadline, read).await?,
                None => read.await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => Ok(false),
            count = read => Ok(count? > 0),
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut left = LINGER_BYTES_MAX;
        let drain = async {
            while left > 0 {
                self.input.bytes.clear();
                self.input.bytes.reserve(READ_BYTES);
                match self.stream.read_buf(&mut self.input.bytes).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        // Whoever goes on sending after that is no client that reads.
        let _whichever_comes_first = timeout(LINGER_MAX, drain).await;
        Ok(())
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.last.is_some()
            || self.ops.len() >= BATCH_OPS_MAX
            || self.steps.len() >= BATCH_STEPS_MAX
            || self.answer_bytes >= BATCH_ANSWER_BYTES_MAX
    }

    fn answer(&mut self, protocol: Protocol, frame: Frame) {
        self.answer_bytes += frame.weight();
        self.steps.push((Step::Answer(frame), protocol));
    }
}

fn bounds(client: &Client) -> Bounds {
    if client.login.is_some() { Bounds::AUTHENTICATED } else { Bounds::STRANGER }
}

/// The next operations that may be executed together; at least one where there is one.
fn next_ops(ops: &mut VecDeque<Op>) -> Vec<Op> {
    let mut values = 0;
    let fits = ops.iter().take(BATCH_OPS_MAX).take_while(|op| {
        values += usize::from(may_answer_value(op));
        values <= BATCH_VALUES_MAX
    });
    let count = fits.count();
    ops.drain(..count).collect()
}

fn too_large(bounds: &Bounds) -> Frame {
    Frame::Error(format!(
        "ERR string exceeds maximum allowed size ({} bytes, {} for a whole command)",
        bounds.bulk_bytes_max, bounds.request_bytes_max
    ))
}

fn confirmation(response: InvalidateResponse) -> Frame {
    let InvalidateResponse { id, applied, fenced, missing } = response;
    let names = |names: Vec<String>| Frame::array(names.into_iter().map(Frame::text));
    let missing = missing.into_iter().map(|node| {
        Frame::Map(vec![
            (Frame::text("node"), Frame::text(node.node)),
            (Frame::text("reason"), Frame::text(node.reason)),
            (Frame::text("last_seen"), Frame::text(node.last_seen)),
        ])
    });
    Frame::Map(vec![
        (Frame::text("id"), Frame::text(id)),
        (Frame::text("applied"), names(applied)),
        (Frame::text("fenced"), names(fenced)),
        (Frame::text("missing"), Frame::array(missing)),
    ])
}

#[cfg(test)]
mod tests;
