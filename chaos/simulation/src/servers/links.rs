//! How the groups' messages travel: late, lost, doubled, or not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use node_consensus::{Groups, Transport, TransportError};
use proto::ids::{GroupId, NodeId};
use rand::Rng as _;
use tokio::sync::oneshot;

use super::scene::Scene;
use crate::network::Network;

/// Of a thousand calls: sent again by a client that did not see that the first has arrived.
const DOUBLED: u32 = 10;
/// How long a refused connection takes to be noticed.
const REFUSED: Duration = Duration::from_millis(1);

/// Between all nodes.
pub struct Links {
    scene: Arc<Scene>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    network: Network,
    /// Who lives, and which of its lives it is.
    lives: BTreeMap<NodeId, (u64, Groups)>,
    /// Where everybody lives, or has lived.
    hosts: BTreeMap<NodeId, usize>,
}

impl Links {
    pub fn new(scene: Arc<Scene>) -> Self {
        Self { scene, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change(&self, change: impl FnOnce(&mut Network)) {
        change(&mut self.state().network);
    }

    pub fn born(&self, node: NodeId, host: usize, life: u64, groups: Groups) {
        let mut state = self.state();
        state.lives.insert(node, (life, groups));
        state.hosts.insert(node, host);
    }

    pub fn died(&self, node: NodeId) {
        self.state().lives.remove(&node);
    }

    fn living(&self, node: NodeId) -> Option<(u64, Groups)> {
        self.state().lives.get(&node).cloned()
    }

    /// Whether a node is still in that life.
    pub fn is_living(&self, node: NodeId, life: u64) -> bool {
        self.state().lives.get(&node).is_some_and(|(now, _)| *now == life)
    }

    /// After how long something arrives, or never. Nobody is cut off from himself.
    fn way(&self, from: NodeId, to: NodeId) -> Option<Duration> {
        let state = self.state();
        let (from, to) = (*state.hosts.get(&from)?, *state.hosts.get(&to)?);
        if from == to {
            return Some(Duration::ZERO);
        }
        let after_us = self.scene.draw(|random| {
            // Where only the way back is cut, some have a connection yet.
            let is_connected = random.random_bool(0.5);
            let network = &state.network;
            if is_connected { network.segment(from, to, random) } else { network.message(from, to, random) }
        })?;
        Some(Duration::from_micros(after_us))
    }

    /// Lets something cross; does not return if it does not.
    pub async fn cross(&self, from: NodeId, to: NodeId) {
        match self.way(from, to) {
            Some(Duration::ZERO) => {}
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    }

    /// One message there and its answer back, whether or not anybody still waits for it.
    async fn exchange(
        self: Arc<Self>,
        (from, life): (NodeId, u64),
        to: NodeId,
        group: GroupId,
        payload: Bytes,
    ) -> Result<Bytes, TransportError> {
        if !self.is_living(from, life) {
            // Nobody sends after his death.
            return std::future::pending().await;
        }
        self.cross(from, to).await;
        let Some((life, groups)) = self.living(to) else {
            tokio::time::sleep(REFUSED).await;
            return Err(TransportError::Unreachable("refused".to_owned()));
        };
        let answer = groups.handle(from, group, payload).await;
        if !self.is_living(to, life) {
            return Err(TransportError::Failed("the connection is gone".to_owned()));
        }
        self.cross(to, from).await;
        answer.map_err(|error| TransportError::Failed(error.to_string()))
    }
}

/// One life's way into the network.
pub struct Port {
    pub me: NodeId,
    pub life: u64,
    /// They know the groups that know this: a simulation that is over would never be forgotten.
    pub links: Weak<Links>,
}

impl Transport for Port {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        payload: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let Some(links) = self.links.upgrade() else {
            // The simulation is over.
            return std::future::pending().boxed();
        };
        let doubled = links.scene.draw(|random| random.random_range(0..1_000) < DOUBLED);
        let exchange = || Arc::clone(&links).exchange((self.me, self.life), to, group, payload.clone());
        if doubled {
            tokio::spawn(exchange());
        }
        let (tell, told) = oneshot::channel();
        let exchange = exchange();
        // In a task of its own: what was sent arrives, though its sender has given up.
        tokio::spawn(async move {
            let _given_up = tell.send(exchange.await);
        });
        async move {
            match tokio::time::timeout(deadline, told).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(TransportError::Failed("the connection is gone".to_owned())),
                Err(_) => Err(TransportError::Timeout),
            }
        }
        .boxed()
    }
}
