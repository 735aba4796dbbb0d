//! Asks the farm how it is while it is being broken, as somebody who watches it would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::farm::Asker;
use crate::history::{Event, Seen};
use crate::journal::Journal;

/// One node is asked so often, each in its turn.
const EVERY: Duration = Duration::from_secs(1);
/// What has not changed is said again after so long, so that a gap in the answers is seen.
const AGAIN: Duration = Duration::from_secs(5);

/// Watches until it is dropped.
pub struct Observer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    pub fn start(askers: Vec<Asker>, journal: Journal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || watch(&askers, &journal, &stopped));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has told of its panic itself.
            let _ended = thread.join();
        }
    }
}

fn watch(askers: &[Asker], journal: &Journal, stop: &AtomicBool) {
    let mut last: Option<(Seen, Instant)> = None;
    for asker in askers.iter().cycle() {
        let began = Instant::now();
        // A node that is down or stands still does not answer, and that is not its business.
        if let Some(seen) = asker.status().ok().map(|status| seen(&asker.name, &status)) {
            let is_news = last.as_ref().is_none_or(|(before, at)| {
                let same = Seen { node: seen.node.clone(), ..before.clone() } == seen;
                !same || at.elapsed() > AGAIN
            });
            if is_news {
                journal.note(Event::Seen(seen.clone()));
                last = Some((seen, Instant::now()));
            }
        }
        while began.elapsed() < EVERY {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn seen(node: &str, status: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut members = BTreeMap::new();
    for member in status["members"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let state = if member["draining"] == true {
            "draining".to_owned()
        } else if member["state"] == "alive" && member["ready"] == true {
            "ready".to_owned()
        } else {
            text(&member["state"])
        };
        // A node that was replaced is there twice; the living one counts.
        let name = text(&member["name"]);
        let is_gone = |state: &String| state == "down" || state == "left";
        if members.get(&name).is_none_or(is_gone) {
            members.insert(name, state);
        }
    }
    Seen {
        node: node.to_owned(),
        controller: text(&status["controller"]["node"]),
        epoch: status["controller"]["epoch"].as_u64().unwrap_or(0),
        quorum: status["quorum"] == true,
        members,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_and_a_replaced_node_is_the_one_that_lives() {
        let status = serde_json::json!({
            "controller": {"node": "node-1", "epoch": 7}, "quorum": true,
            "members": [
                {"name": "node-1", "state": "alive", "ready": true, "draining": false},
                {"name": "node-2", "state": "down", "ready": false, "draining": false},
                {"name": "node-2", "state": "alive", "ready": false, "draining": false},
                {"name": "node-3", "state": "alive", "ready": true, "draining": true},
            ],
        });
        let seen = seen("node-1", &status);
        let states: Vec<&str> = seen.members.values().map(String::as_str).collect();
        assert_eq!((states, seen.epoch, seen.quorum), (vec!["ready", "alive", "draining"], 7, true));
    }
}
