//! Whom the agents obey and refuse, and that they panic, by what they log, written down while it happens.
//!
//! The logs have times of their own, by wall clocks that an experiment may make jump. So each line gets the
//! time at which it was seen, which is a moment later; an agent's lines keep their order, and that is what
//! is judged.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::history::{Act, Event};
use crate::journal::Journal;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Follows the logs until it is dropped, to their ends.
pub struct Acts {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Acts {
    /// `logs` are the agents' names and where each logs to.
    pub fn start(logs: Vec<(String, PathBuf)>, journal: Journal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut logs: Vec<Log> = logs.into_iter().map(Log::new).collect();
            loop {
                // Asked before the logs are read, so that they are read once more afterwards.
                let is_last = stopped.load(Ordering::Relaxed);
                logs.iter_mut().flat_map(Log::news).for_each(|event| journal.note(event));
                if is_last {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Acts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has told of its panic itself.
            let _ended = thread.join();
        }
    }
}

struct Log {
    agent: String,
    path: PathBuf,
    read: u64,
}

impl Log {
    fn new((agent, path): (String, PathBuf)) -> Self {
        Self { agent, path, read: 0 }
    }

    fn news(&mut self) -> Vec<Event> {
        // A log that can not be read now is read from the same place the next time.
        let text = self.lines().unwrap_or_default();
        text.lines().filter_map(|line| event(line, &self.agent)).collect()
    }

    /// The lines that are whole and were not read yet.
    fn lines(&mut self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        Ok(String::from_utf8_lossy(&bytes[..whole]).into_owned())
    }
}

/// What a line is worth telling.
fn event(line: &str, agent: &str) -> Option<Event> {
    // As Rust tells of it on stderr, where the log is.
    if line.starts_with("thread '") && line.contains(" panicked at ") {
        return Some(Event::Panicked { node: agent.to_owned(), words: line.to_owned() });
    }
    act(line, agent).map(Event::Acted)
}

/// What a line says of whom the agent has obeyed.
fn act(line: &str, agent: &str) -> Option<Act> {
    let accepted = match line.split_once("node::deploy::acts: ")?.1 {
        words if words.starts_with("an act is obeyed") => true,
        words if words.starts_with("an act is refused") => false,
        _ => return None,
    };
    let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
    let (controller, epoch) = (field("controller=")?.to_owned(), field("epoch=")?.parse().ok()?);
    Some(Act { controller, epoch, agent: agent.to_owned(), accepted })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::history::{self, Run};

    fn said_by_an_agent(words: &str) -> String {
        format!("2026-11-23T19:57:39Z  INFO task{{name=\"x\"}}: {words}")
    }

    #[test]
    fn the_agents_words_say_whom_they_obey() {
        let said = said_by_an_agent;
        let obeyed = said("node::deploy::acts: an act is obeyed controller=7 epoch=12");
        let wanted =
            Act { controller: "7".to_owned(), epoch: 12, agent: "node-1".to_owned(), accepted: true };
        assert_eq!(act(&obeyed, "node-1"), Some(wanted.clone()));
        let refused = said(
            "node::deploy::acts: an act is refused controller=7 epoch=12 refusal=epoch 12 has been succeeded",
        );
        assert_eq!(act(&refused, "node-1"), Some(Act { accepted: false, ..wanted }));
        assert_eq!(act(&said("node::deploy: an act is obeyed controller=7 epoch=12"), "node-1"), None);
        assert_eq!(act(&said("node::deploy::acts: can not fetch a release"), "node-1"), None);
    }

    #[test]
    fn a_panic_is_told_and_what_only_speaks_of_one_is_not() {
        let words = "thread 'commit' (3072) panicked at node/storage/src/database.rs:1:2:";
        let told = Event::Panicked { node: "node-1".to_owned(), words: words.to_owned() };
        assert_eq!(event(words, "node-1"), Some(told));
        assert_eq!(event(&said_by_an_agent("a task panicked at once"), "node-1"), None);
    }

    #[test]
    fn every_line_is_noted_once_and_half_a_line_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (log, path) = (folder.path().join("agent.log"), folder.path().join("history.jsonl"));
        let run = Run {
            version: 1,
            seed: 1,
            experiment: String::new(),
            nodes: Vec::new(),
            failed_requests_max: None,
            workloads: Vec::new(),
        };
        let journal = Journal::create(&path, run).unwrap();
        let line =
            |epoch: u64| format!("t DEBUG node::deploy::acts: an act is obeyed controller=7 epoch={epoch}\n");
        let mut writer = File::create(&log).unwrap();
        let acts = Acts::start(vec![("node-1".to_owned(), log)], journal.clone());
        let (whole, half) = (line(3), line(45));
        io::Write::write_all(&mut writer, [&whole, &half[..half.len() - 2]].concat().as_bytes()).unwrap();
        std::thread::sleep(3 * LOOK_EVERY);
        io::Write::write_all(&mut writer, &half.as_bytes()[half.len() - 2..]).unwrap();
        drop(acts);
        journal.finish().unwrap();
        let history = history::read(&path).unwrap();
        let epoch =
            |(_, event): &(i64, Event)| if let Event::Acted(act) = event { Some(act.epoch) } else { None };
        assert_eq!(history.events.iter().filter_map(epoch).collect::<Vec<_>>(), [3, 45]);
    }
}
