//! What one group is on this node, whatever its state machine: raft, the log, and what the tasks of
//! the group tell one another.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::ids::{GroupId, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{GroupClock, Phase};
use crate::group::{GroupView, WriteError};
use crate::log::Log;
use crate::settings::Settings;
use crate::types::{LogId, Metrics, Raft, node};

/// A follower that lacks no more than these counts as caught up: what is written while one asks.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// One group on this node.
pub(crate) struct Replica {
    pub id: GroupId,
    pub me: NodeId,
    pub raft: Raft,
    pub log: Log,
    pub settings: Settings,
    pub clock: Arc<GroupClock>,
    pub view: watch::Sender<GroupView>,
    /// The leadership that this life began with.
    pub resumed: Option<Resumed>,
    /// Held while the voters or learners are changed.
    pub changing: tokio::sync::Mutex<()>,
    started: Instant,
    /// When the leader was heard last, in ms since `started`.
    heard_ms: AtomicU64,
    searching: AtomicBool,
    /// When the leadership that the view tells of began, in ms since `started`.
    led_since_ms: AtomicU64,
    /// The log's end when the last heartbeat was due.
    idle_at: AtomicU64,
    /// The snapshot that is being received, and how much of it there is.
    receiving: Mutex<(String, u64)>,
    members: Mutex<Arc<Members>>,
}

/// A leadership that has outlived its agent: openraft starts a leader as the leader that it was, in the
/// same term.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resumed {
    pub term: u64,
    /// The index of the log's last entry when this life began.
    pub log_end: u64,
}

/// Who belongs to the group. Made anew when that changes, which is seldom.
#[derive(Default)]
pub(crate) struct Members {
    set_by: Option<LogId>,
    /// The voters of the configuration, both of them while it is joint.
    pub configs: Vec<BTreeSet<NodeId>>,
    voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
}

impl Replica {
    pub fn new(
        id: GroupId,
        me: NodeId,
        raft: Raft,
        log: Log,
        settings: Settings,
        clock: Arc<GroupClock>,
        resumed: Option<Resumed>,
    ) -> Self {
        Self {
            id,
            me,
            raft,
            log,
            settings,
            clock,
            view: watch::Sender::new(GroupView::default()),
            resumed,
            changing: tokio::sync::Mutex::default(),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            searching: AtomicBool::new(false),
            led_since_ms: AtomicU64::new(0),
            idle_at: AtomicU64::new(0),
            receiving: Mutex::default(),
            members: Mutex::default(),
        }
    }

    /// Milliseconds since this group was opened.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn leader_heard(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        if self.searching.load(Ordering::Relaxed) {
            self.set_searching(false);
        }
    }

    pub fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// Whether the election driver looks for a leader; the one that raft remembers is then gone.
    pub fn set_searching(&self, searching: bool) {
        if self.searching.swap(searching, Ordering::Relaxed) != searching {
            self.refresh();
        }
    }

    /// Whether nothing was appended since it was asked last. What is appended is sent, and serves as
    /// a heartbeat.
    pub fn was_idle(&self) -> bool {
        let last = self.raft.metrics().borrow().last_log_index.unwrap_or(0);
        self.idle_at.swap(last, Ordering::Relaxed) == last
    }

    /// Whether a part of a snapshot leaves no gap after what has been received of it. Of another
    /// snapshot raft takes nothing but the beginning.
    pub fn continues_snapshot(&self, id: &str, offset: u64, end: u64) -> bool {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            *receiving = (id.to_owned(), end);
            return true;
        }
        let (current, received) = &mut *receiving;
        if current != id {
            return true;
        }
        let follows = offset <= *received;
        if follows {
            *received = end.max(*received);
        }
        follows
    }

    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.lock_members())
    }

    fn lock_members(&self) -> MutexGuard<'_, Arc<Members>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the view up to date with raft's metrics, which change with every message.
    pub fn refresh(&self) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let mut members = self.lock_members();
        let new_members = members.set_by != *metrics.membership_config.log_id();
        if new_members {
            *members = Arc::new(Members::of(&metrics));
        }
        self.view.send_if_modified(|view| {
            let changed = new_members | self.update(view, &metrics);
            if new_members {
                view.voters.clone_from(&members.voters);
                view.learners.clone_from(&members.learners);
                view.becoming = members.becoming();
                #[cfg(holdfast_mutants)]
                if mutation::is("change-unfinished") {
                    view.becoming = None;
                }
            }
            changed
        });
    }

    /// Whether anything but the members is different from what the view says.
    fn update(&self, view: &mut GroupView, metrics: &Metrics) -> bool {
        let is_leader = metrics.state.is_leader();
        let lost = self.searching.load(Ordering::Relaxed) && !is_leader;
        let last_log = metrics.last_log_index.unwrap_or(0);
        let caught_up = || {
            let followers = metrics.replication.iter().flatten();
            let close = followers.filter(|(_, matched)| {
                matched.is_some_and(|matched| matched.index + CAUGHT_UP_ENTRIES >= last_log)
            });
            close.map(|(id, _)| node(*id))
        };
        if is_leader && !(view.is_leader && view.term == metrics.current_term) {
            self.led_since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        let mut changed = set(&mut view.leader, metrics.current_leader.filter(|_| !lost).map(node));
        changed |= set(&mut view.is_leader, is_leader);
        changed |= set(&mut view.term, metrics.current_term);
        changed |= set(&mut view.applied, metrics.last_applied.map_or(0, |applied| applied.index));
        changed |= set(&mut view.last_log, last_log);
        if !view.caught_up.iter().copied().eq(caught_up()) {
            view.caught_up = caught_up().collect();
            changed = true;
        }
        changed
    }

    /// Whether this leader has heard nothing from a majority for so long that a write would only
    /// wait for its time-out.
    pub fn lacks_quorum(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        // Of no majority it has heard yet. It may have been restarted, and be alone.
        let silent_ms = metrics.millis_since_quorum_ack.unwrap_or_else(|| self.led_for_ms(&metrics));
        metrics.state.is_leader() && u128::from(silent_ms) > 2 * self.settings.lease.as_millis()
    }

    fn led_for_ms(&self, metrics: &Metrics) -> u64 {
        let view = self.view.borrow();
        // A leadership that the view does not tell of yet has just begun.
        let told = view.is_leader && view.term == metrics.current_term;
        if told { self.now_ms().saturating_sub(self.led_since_ms.load(Ordering::Relaxed)) } else { 0 }
    }

    pub fn leads(&self) -> bool {
        self.raft.metrics().borrow().state.is_leader()
    }

    /// Waits until a leader may draw the time of an entry: it knows the group's time, and the newest entry's
    /// is in it. In a group that has no entry it may begin one.
    pub async fn may_stamp(&self) -> Result<(), WriteError> {
        let (mut metrics, mut phase) = (self.raft.metrics(), self.clock.phase());
        loop {
            let (leads, is_level) = {
                let metrics = metrics.borrow_and_update();
                (metrics.state.is_leader(), self.is_level(&metrics))
            };
            if !leads {
                return Err(WriteError::NotLeader { leader: self.known_leader() });
            }
            // Looked at after the entries: who has applied none by then has none.
            let knows = match *phase.borrow_and_update() {
                Phase::Unbegun | Phase::Known => true,
                Phase::ByEntries => false,
            };
            if is_level && knows {
                return Ok(());
            }
            tokio::select! {
                changed = metrics.changed() => changed.map_err(|_| WriteError::Stopped)?,
                changed = phase.changed() => changed.map_err(|_| WriteError::Stopped)?,
            }
        }
    }

    /// Whether this leader has applied all that was in its log when it began to lead: its term begins with
    /// an entry of its own. One that was restarted goes on in its term, and has more than that behind it.
    fn is_level(&self, metrics: &Metrics) -> bool {
        let term = metrics.current_term;
        let log_end =
            self.resumed.filter(|resumed| resumed.term == term).map_or(0, |resumed| resumed.log_end);
        metrics.last_applied.is_some_and(|last| last.leader_id.term == term && last.index >= log_end)
    }

    pub fn known_leader(&self) -> Option<NodeId> {
        self.view.borrow().leader.filter(|leader| *leader != self.me)
    }
}

impl Resumed {
    /// `None` when this node did not lead.
    pub fn of(me: NodeId, log: &Log) -> Option<Self> {
        let vote = log.vote().filter(|vote| vote.is_committed() && vote.leader_id.node_id == me.0)?;
        Some(Self { term: vote.leader_id.term, log_end: log.last_log_id()?.index })
    }
}

impl Members {
    fn of(metrics: &Metrics) -> Self {
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        Self {
            set_by: *metrics.membership_config.log_id(),
            configs: configs.iter().map(|config| config.iter().copied().map(node).collect()).collect(),
            voters: membership.voter_ids().map(node).collect(),
            learners: membership.learner_ids().map(node).collect(),
        }
    }

    #[cfg(test)]
    pub fn for_test(configs: Vec<BTreeSet<NodeId>>, learners: BTreeSet<NodeId>) -> Self {
        Self { configs, learners, ..Self::default() }
    }

    /// The newer configuration of a joint one.
    fn becoming(&self) -> Option<BTreeSet<NodeId>> {
        self.configs.last().filter(|_| self.configs.len() > 1).cloned()
    }
}

fn set<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
}
