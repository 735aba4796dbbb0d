//! How much of the processors this run takes itself: this process, and all that come from it.
//!
//! A farm may take all there is, and is then as fast as the machine. Where others take a part of it, a farm
//! is slow for their sake, and a thread that naps does not feel that: the kernel favours who sleeps.

use std::collections::BTreeMap;
use std::fs;

use crate::farm::children;

/// How deep processes are looked for: an agent, its instances, what starts them, and what they have started.
const GENERATIONS: usize = 5;

/// Ticks of every process of ours, so far.
#[derive(Default)]
pub struct Own {
    ticks: BTreeMap<u32, u64>,
}

impl Own {
    /// The ticks that were taken since the last time. What a process took that has ended since then is not
    /// among them: a second's worth at most.
    pub fn taken(&mut self) -> u64 {
        let now = family();
        let since = |(pid, ticks): (&u32, &u64)| ticks.saturating_sub(*self.ticks.get(pid).unwrap_or(&0));
        let taken = now.iter().map(since).sum();
        self.ticks = now;
        taken
    }
}

/// This process and those that come from it, with their ticks.
fn family() -> BTreeMap<u32, u64> {
    let mut parents = vec![std::process::id()];
    let mut all = parents.clone();
    for _ in 0..GENERATIONS {
        parents = parents.into_iter().flat_map(children).collect();
        all.extend(&parents);
    }
    all.into_iter().filter_map(|pid| Some((pid, ticks(pid)?))).collect()
}

/// User and system time of a process.
fn ticks(pid: u32) -> Option<u64> {
    of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc(5): the name in parentheses may hold anything; utime and stime are the 14th and 15th.
fn of(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 30 12 5 6 20 0 1 0 99";
        assert_eq!(of(stat), Some(42));
        assert_eq!(of(""), None);
    }

    #[test]
    fn what_a_child_takes_is_our_own_and_what_others_take_is_not() {
        let mut own = Own::default();
        own.taken();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let began = std::time::Instant::now();
        let mut taken = 0;
        while taken < 5 && began.elapsed().as_secs() < 30 {
            taken += own.taken();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(taken >= 5, "{taken}");
        assert!(!own.ticks.contains_key(&1) || std::process::id() == 1);
    }
}
