//! One app on this node: the task that owns its instances and brings them to what they should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Launch;
use super::instance::{Event, Means, Place};
use super::replace::{Seat, Step, next_step};
use super::status::{AppState, AppStatus, InstanceState, InstanceStatus, Statuses};

/// What the places of one app may tell before it listens.
const EVENTS: usize = 64;

/// What an app should be.
#[derive(Debug, Clone, Default)]
pub(super) struct Goal {
    /// `None`: nothing of it should run.
    pub(super) launch: Option<Arc<Launch>>,
    pub(super) attempt: u64,
}

/// The app's task.
pub(super) struct App {
    name: String,
    goal: watch::Receiver<Goal>,
    statuses: watch::Sender<Statuses>,
    means: Arc<Means>,
    tracker: TaskTracker,
    slots: BTreeMap<u64, Slot>,
    next_slot: u64,
    /// It was ready with what it should run.
    was_ready: bool,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

struct Slot {
    launch: Arc<Launch>,
    /// The newest attempt that it was wanted in.
    attempt: u64,
    status: Option<InstanceStatus>,
    retire: CancellationToken,
}

impl Slot {
    fn state(&self) -> InstanceState {
        if self.retire.is_cancelled() {
            return InstanceState::Stopping;
        }
        self.status.as_ref().map_or(InstanceState::Starting, |status| status.state)
    }
}

impl App {
    pub(super) fn new(
        name: String,
        goal: watch::Receiver<Goal>,
        statuses: watch::Sender<Statuses>,
        means: Arc<Means>,
        tracker: TaskTracker,
    ) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let slots = BTreeMap::new();
        Self { name, goal, statuses, means, tracker, slots, next_slot: 0, was_ready: false, sender, events }
    }

    /// Runs until everything ends.
    pub(super) async fn run(mut self) {
        let stop = self.means.stop.clone();
        let mut goal = self.goal.borrow_and_update().clone();
        loop {
            self.keep(&goal);
            while let Some(step) = self.next_step(&goal) {
                self.take(step, &goal);
            }
            self.publish(&goal);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.goal.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let new = self.goal.borrow_and_update().clone();
                    let release = |goal: &Goal| goal.launch.as_ref().map(|launch| launch.release);
                    self.was_ready &= release(&new) == release(&goal);
                    goal = new;
                }
                event = self.events.recv() => match event {
                    Some(Event::Status(slot, status)) => {
                        if let Some(slot) = self.slots.get_mut(&slot) {
                            slot.status = Some(status);
                        }
                    }
                    Some(Event::Gone(slot)) => {
                        self.slots.remove(&slot);
                    }
                    None => return,
                },
            }
        }
    }

    /// What runs the right release goes on under a new attempt. What has failed does not: a new attempt
    /// means to try again now.
    fn keep(&mut self, goal: &Goal) {
        let Some(launch) = &goal.launch else { return };
        for slot in self.slots.values_mut() {
            if slot.launch.release == launch.release && slot.state() != InstanceState::Failed {
                slot.attempt = goal.attempt;
            }
        }
    }

    fn is_wanted(slot: &Slot, goal: &Goal) -> bool {
        goal.launch.as_ref().is_some_and(|launch| launch.release == slot.launch.release)
            && slot.attempt == goal.attempt
    }

    fn next_step(&self, goal: &Goal) -> Option<Step> {
        let seats: Vec<Seat> = self
            .slots
            .iter()
            .map(|(number, slot)| Seat {
                slot: *number,
                wanted: Self::is_wanted(slot, goal),
                state: slot.state(),
            })
            .collect();
        next_step(count(goal), &seats)
    }

    fn take(&mut self, step: Step, goal: &Goal) {
        match (step, &goal.launch) {
            (Step::Retire(number), _) => {
                if let Some(slot) = self.slots.get(&number) {
                    slot.retire.cancel();
                }
            }
            (Step::Start, Some(launch)) => {
                let number = self.next_slot;
                self.next_slot += 1;
                let retire = CancellationToken::new();
                let place = Place::new(
                    number,
                    Arc::clone(launch),
                    Arc::clone(&self.means),
                    retire.clone(),
                    self.sender.clone(),
                );
                self.tracker.spawn(place.run());
                let slot = Slot { launch: Arc::clone(launch), attempt: goal.attempt, status: None, retire };
                self.slots.insert(number, slot);
            }
            (Step::Start, None) => unreachable!("with nothing to run the count is 0"),
        }
    }

    fn publish(&mut self, goal: &Goal) {
        let (state, message) = self.judge(goal);
        self.was_ready |= state == AppState::Ready;
        let status = AppStatus {
            release: goal.launch.as_ref().map(|launch| launch.release),
            attempt: goal.attempt,
            state,
            message,
            instances: self.slots.values().filter_map(instance_status).collect(),
        };
        self.statuses.send_if_modified(|statuses| {
            if statuses.get(&self.name) == Some(&status) {
                return false;
            }
            Arc::make_mut(statuses).insert(self.name.clone(), status);
            true
        });
    }

    fn judge(&self, goal: &Goal) -> (AppState, String) {
        if goal.launch.is_none() {
            let state = if self.slots.is_empty() { AppState::Stopped } else { AppState::Stopping };
            return (state, String::new());
        }
        let staying = || self.slots.values().filter(|slot| slot.state() != InstanceState::Stopping);
        let wanted = || staying().filter(|slot| Self::is_wanted(slot, goal));
        let message = |state| {
            let said = wanted().filter(|slot| slot.state() == state).filter_map(|slot| slot.status.as_ref());
            said.map(|status| status.message.clone()).find(|message| !message.is_empty()).unwrap_or_default()
        };
        if wanted().any(|slot| slot.state() == InstanceState::Failed) {
            return (AppState::Failed, message(InstanceState::Failed));
        }
        let ready = wanted().filter(|slot| slot.state() == InstanceState::Ready).count();
        if ready >= count(goal) && staying().count() == ready {
            return (AppState::Ready, String::new());
        }
        let words = [message(InstanceState::Unready), message(InstanceState::Starting)];
        let words = words.into_iter().find(|words| !words.is_empty()).unwrap_or_default();
        (if self.was_ready { AppState::Unready } else { AppState::Starting }, words)
    }
}

fn count(goal: &Goal) -> usize {
    goal.launch.as_ref().map_or(0, |launch| launch.spec.run.instances as usize)
}

/// What others are told. From the moment in which an instance is to go it is stopping, though its own
/// task may not have got to it.
fn instance_status(slot: &Slot) -> Option<InstanceStatus> {
    let status = slot.status.clone()?;
    Some(InstanceStatus { state: slot.state(), ..status })
}
