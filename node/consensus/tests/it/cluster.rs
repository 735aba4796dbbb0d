//! Nodes, their disks, and the network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use node_consensus::memory::{MemoryEngine, MemorySnapshots};
use node_consensus::{
    Ambient, Batch, Engine as _, EntryMeta, Group, Groups, RestoreError, Settings, StateMachine, System,
    Transport, TransportError, WriteError,
};
use proto::ids::{GroupId, NodeId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub const GROUP: GroupId = GroupId(1);

/// Appends words, and answers how many there are. One word it can not bear. Beside them is the time of each
/// that it has applied itself.
#[derive(Default)]
pub struct Words(pub Vec<String>, pub Vec<u64>);

impl StateMachine for Words {
    fn apply(&mut self, meta: &EntryMeta, op: &Bytes) -> Bytes {
        assert_ne!(&op[..], b"unbearable");
        self.0.push(String::from_utf8_lossy(op).into_owned());
        self.1.push(meta.clock_ms);
        Bytes::from(self.0.len().to_string())
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.join("\n").into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let text = std::str::from_utf8(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        self.0 = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

/// A network in which every pair of nodes can be cut.
#[derive(Clone, Default)]
pub struct Net {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<NodeId, Groups>,
    cut: BTreeSet<(NodeId, NodeId)>,
    messages: u64,
    last: BTreeMap<(NodeId, NodeId), Message>,
    /// Who has been answered, and by whom.
    answered: BTreeSet<(NodeId, NodeId)>,
    slow: Option<Slow>,
}

/// How long messages take that have so many bytes at least.
#[derive(Clone, Copy)]
struct Slow {
    bytes_min: usize,
    takes: Duration,
}

/// What one node sent to another.
#[derive(Clone)]
pub struct Message {
    pub from: NodeId,
    pub to: NodeId,
    pub group: GroupId,
    pub payload: Bytes,
}

impl Net {
    fn way(&self, from: NodeId, to: NodeId) -> Option<Groups> {
        let inner = self.inner.lock().unwrap();
        if inner.cut.contains(&(from, to)) { None } else { inner.nodes.get(&to).cloned() }
    }

    /// How many messages have been sent so far.
    pub fn messages(&self) -> u64 {
        self.inner.lock().unwrap().messages
    }

    pub fn last_message(&self, from: NodeId, to: NodeId) -> Option<Message> {
        self.inner.lock().unwrap().last.get(&(from, to)).cloned()
    }

    pub fn has_heard(&self, node: NodeId, from: NodeId) -> bool {
        self.inner.lock().unwrap().answered.contains(&(node, from))
    }

    fn record(&self, message: Message) {
        let mut inner = self.inner.lock().unwrap();
        inner.messages += 1;
        inner.last.insert((message.from, message.to), message);
    }

    /// Cuts both directions between a node and all others.
    pub fn isolate(&self, node: NodeId) {
        let mut inner = self.inner.lock().unwrap();
        for other in inner.nodes.keys().copied().collect::<Vec<_>>() {
            inner.cut.insert((node, other));
            inner.cut.insert((other, node));
        }
    }

    /// Has large messages take so long; small ones overtake them.
    pub fn slow_down(&self, bytes_min: usize, takes: Duration) {
        self.inner.lock().unwrap().slow = Some(Slow { bytes_min, takes });
    }

    fn slowness(&self, payload: &Bytes) -> Option<Duration> {
        let slow = self.inner.lock().unwrap().slow;
        slow.filter(|slow| payload.len() >= slow.bytes_min).map(|slow| slow.takes)
    }

    pub fn heal(&self) {
        self.inner.lock().unwrap().cut.clear();
    }
}

struct Port {
    me: NodeId,
    net: Net,
}

impl Transport for Port {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        payload: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (me, net) = (self.me, self.net.clone());
        net.record(Message { from: me, to, group, payload: payload.clone() });
        let exchange = async move {
            let gone = || TransportError::Unreachable("cut".to_owned());
            if let Some(takes) = net.slowness(&payload) {
                tokio::time::sleep(takes).await;
            }
            let groups = net.way(me, to).ok_or_else(gone)?;
            let answer = groups.handle(me, group, payload).await;
            // The way back may have been cut meanwhile.
            net.way(to, me).ok_or_else(gone)?;
            net.inner.lock().unwrap().answered.insert((me, to));
            answer.map_err(|error| TransportError::Failed(error.to_string()))
        };
        async move { tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(TransportError::Timeout)) }
            .boxed()
    }
}

/// A clock on the wall, and how far it is ahead.
#[derive(Default)]
struct Wall {
    ahead: Duration,
}

impl Ambient for Wall {
    fn wall_us(&self) -> u64 {
        System.wall_us() + u64::try_from(self.ahead.as_micros()).unwrap()
    }

    fn random(&self) -> u64 {
        System.random()
    }
}

/// A node's life; its disk outlives it.
pub struct Node {
    pub id: NodeId,
    pub group: Group<Words>,
    pub groups: Groups,
    pub disk: Arc<MemoryEngine>,
    pub snapshots: Arc<MemorySnapshots>,
    settings: Settings,
    stop: CancellationToken,
    tracker: TaskTracker,
    net: Net,
}

impl Node {
    pub async fn start(net: &Net, id: u64) -> Self {
        Self::start_with(net, id, Settings::default()).await
    }

    pub async fn start_with(net: &Net, id: u64, settings: Settings) -> Self {
        let dead = Dead {
            id: NodeId(id),
            disk: Arc::default(),
            snapshots: Arc::default(),
            settings,
            net: net.clone(),
        };
        dead.restart().await
    }

    async fn start_on(wall: Wall, dead: Dead) -> Self {
        let Dead { id, disk, snapshots, settings, net } = dead;
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let port = Arc::new(Port { me: id, net: net.clone() });
        let groups = Groups::within(Arc::new(wall), id, port, tracker.clone(), stop.clone());
        let group =
            groups.open(GROUP, disk.clone(), snapshots.clone(), settings, Words::default()).await.unwrap();
        net.inner.lock().unwrap().nodes.insert(id, groups.clone());
        Self { id, group, groups, disk, snapshots, settings, stop, tracker, net }
    }

    /// Ends the node without a word to the others.
    pub async fn kill(self) -> Dead {
        self.net.inner.lock().unwrap().nodes.remove(&self.id);
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        Dead {
            id: self.id,
            disk: self.disk,
            snapshots: self.snapshots,
            settings: self.settings,
            net: self.net,
        }
    }

    /// Ends the node as a power cut does: what it writes in its ending is not on its disk.
    pub async fn crash(self) -> Dead {
        let disk = MemoryEngine::new();
        let mut all = Batch::default();
        let copied = self.disk.range(&[], &[u8::MAX; 64], &mut |key, value| {
            all.put(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        });
        copied.unwrap();
        disk.commit(all, Box::new(|written| written.unwrap()));
        Dead { disk: Arc::new(disk), ..self.kill().await }
    }

    pub fn words(&self) -> Vec<String> {
        self.group.local(|words| words.0.clone())
    }

    pub async fn write(&self, word: &str) -> Result<Bytes, WriteError> {
        self.group.write(Bytes::copy_from_slice(word.as_bytes())).await
    }
}

/// What is left of a killed node.
pub struct Dead {
    id: NodeId,
    disk: Arc<MemoryEngine>,
    snapshots: Arc<MemorySnapshots>,
    settings: Settings,
    net: Net,
}

impl Dead {
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// As if these were on its disk.
    pub fn with_snapshots(self, snapshots: MemorySnapshots) -> Self {
        Self { snapshots: Arc::new(snapshots), ..self }
    }

    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    pub async fn restart(self) -> Node {
        Node::start_on(Wall::default(), self).await
    }

    /// On a server whose clock is so far ahead.
    pub async fn restart_ahead(self, by: Duration) -> Node {
        Node::start_on(Wall { ahead: by }, self).await
    }
}

pub fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// A formed group of `count` voters, all in one net.
pub async fn formed(net: &Net, count: u64) -> Vec<Node> {
    formed_with(net, count, Settings::default()).await
}

pub async fn formed_with(net: &Net, count: u64, settings: Settings) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=count {
        nodes.push(Node::start_with(net, id, settings).await);
    }
    nodes[0].group.initialize(ids(&(1..=count).collect::<Vec<_>>())).await.unwrap();
    leader(&nodes).await;
    nodes
}

/// Waits until all of these nodes hear the same leader among them; its place.
pub async fn leader(nodes: &[Node]) -> usize {
    let found = async {
        loop {
            let views: Vec<_> = nodes.iter().map(|node| node.group.watch().borrow().clone()).collect();
            let leads = nodes.iter().position(|node| {
                views.iter().all(|view| view.leader == Some(node.id)) && node.group.watch().borrow().is_leader
            });
            if let Some(place) = leads {
                return place;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("a majority elects a leader")
}

/// Waits until something holds that nobody tells of.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), held)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Waits until a node has applied these words.
pub async fn applied(node: &Node, words: &[&str]) {
    let mut view = node.group.watch();
    let done = view.wait_for(|_| node.words() == words);
    tokio::time::timeout(Duration::from_secs(20), done)
        .await
        .unwrap_or_else(|_| panic!("{:?} has {:?}", node.id, node.words()))
        .unwrap();
}
