//! Whether this host had time for us.
//!
//! What a farm does on a host that is short of processor says little of the farm: leases run out, probes
//! are late, clients give up. So a thread that wants to wake up every few milliseconds measures how late
//! it is, and the kernel tells what its own host has taken.

mod own;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::history::{Event, History, Pressure as Sample};
use crate::journal::Journal;
use own::Own;

const NAP: Duration = Duration::from_millis(20);
const PERIOD: Duration = Duration::from_secs(1);
/// A nap that is so late misses half of a lease: elections follow from it.
pub const LATE_MS: u64 = 200;
/// Of a hundred parts of its time, those by which a thread that naps and naps woke up too late. A group's
/// quota takes the processor away for some hundredths of a second at a time, again and again.
pub const LOST_PERCENT: u64 = 25;
/// Of a hundred ticks of the processors, those that the host of this machine took.
pub const STEAL_PERCENT: u64 = 25;
/// The same, that others on this machine took, while hardly any were left.
pub const OTHERS_PERCENT: u64 = 30;
const BUSY_PERCENT: u64 = 90;
/// A starved second happens on any machine; one in ten, and three in all, is a starved host. The same holds
/// of a part of a run.
const STARVED_PERCENT: u64 = 10;
const STARVED_MIN: u64 = 3;
/// What a starved second brings about is seen for a while after it: a lease runs out, a leader is elected,
/// and clients connect anew.
const AFTERMATH_US: i64 = 5_000_000;

/// Measures until it is dropped.
pub struct Pressure {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Inner {
    stop: AtomicBool,
    seconds: Mutex<Seconds>,
    /// Who writes it down, once there is somebody.
    journal: Mutex<Option<Journal>>,
}

/// How many seconds there were, and how many of them were starved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seconds {
    pub all: u64,
    pub starved: u64,
}

impl Seconds {
    pub fn add(&mut self, sample: Sample) {
        let lasted = seconds(sample);
        self.all = self.all.saturating_add(lasted);
        if is_starved(sample) {
            self.starved = self.starved.saturating_add(lasted);
        }
    }

    /// Whether what happened says little.
    pub fn are_starved(self) -> bool {
        self.starved >= STARVED_MIN
            && self.starved.saturating_mul(100) >= self.all.saturating_mul(STARVED_PERCENT)
    }
}

fn is_starved(sample: Sample) -> bool {
    let is_crowded = sample.others_percent > OTHERS_PERCENT && sample.busy_percent > BUSY_PERCENT;
    sample.late_ms > LATE_MS
        || sample.lost_percent > LOST_PERCENT
        || sample.steal_percent > STEAL_PERCENT
        || is_crowded
}

/// A machine that stood still for five seconds has one sample of them all.
fn seconds(sample: Sample) -> u64 {
    1 + sample.late_ms / 1_000
}

/// When a host was starved, by a history.
pub struct Starvation {
    /// At the end of each sample: all seconds until then.
    until: Vec<(i64, Seconds)>,
}

impl Starvation {
    pub fn of(history: &History) -> Self {
        let mut so_far = Seconds::default();
        let mut until = Vec::new();
        for (at_us, event) in &history.events {
            if let Event::Pressure(sample) = event {
                so_far.add(*sample);
                until.push((*at_us, so_far));
            }
        }
        Self { until }
    }

    /// Whether what came too late between two moments, or not at all, may be the host's fault: because the
    /// host was starved as a whole, or then. Five starved seconds are few in a long run, and are the whole
    /// of a phase in which everybody has to be answered.
    pub fn excuses(&self, from_us: i64, to_us: i64) -> bool {
        let before = self.until.partition_point(|(at_us, _)| *at_us < from_us.saturating_sub(AFTERMATH_US));
        // The sample that has the end in it comes after it.
        let behind = self.until.partition_point(|(at_us, _)| *at_us <= to_us) + 1;
        let until = |count: usize| {
            let last = count.min(self.until.len()).checked_sub(1);
            last.map_or(Seconds::default(), |last| self.until[last].1)
        };
        let (first, last) = (until(before), until(behind));
        let window = Seconds { all: last.all - first.all, starved: last.starved - first.starved };
        until(self.until.len()).are_starved() || window.are_starved()
    }
}

impl Pressure {
    pub fn start() -> Self {
        let inner = Arc::new(Inner::default());
        let measured = Arc::clone(&inner);
        let thread = std::thread::spawn(move || measured.run());
        Self { inner, thread: Some(thread) }
    }

    /// From now on it is written down.
    pub fn tell(&self, journal: &Journal) {
        *self.inner.journal.lock().unwrap_or_else(PoisonError::into_inner) = Some(journal.clone());
    }

    pub fn seconds(&self) -> Seconds {
        *self.inner.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has told of its panic itself.
            let _ended = thread.join();
        }
    }
}

impl Inner {
    fn run(&self) {
        let (mut ticks, mut own) = (ticks(), Own::default());
        own.taken();
        while !self.stop.load(Ordering::Relaxed) {
            let (began, mut late, mut lost) = (Instant::now(), Duration::ZERO, Duration::ZERO);
            while began.elapsed() < PERIOD && !self.stop.load(Ordering::Relaxed) {
                let nap = Instant::now();
                std::thread::sleep(NAP);
                let by = nap.elapsed().saturating_sub(NAP);
                late = late.max(by);
                lost += by;
            }
            let lost = lost.as_micros() * 100 / began.elapsed().as_micros().max(1);
            let now = self::ticks();
            let percent = |part: u64| part * 100 / (now.all - ticks.all).max(1);
            let busy = now.busy - ticks.busy;
            let sample = Sample {
                late_ms: u64::try_from(late.as_millis()).unwrap_or(u64::MAX),
                lost_percent: u64::try_from(lost).unwrap_or(u64::MAX),
                steal_percent: percent(now.stolen - ticks.stolen),
                busy_percent: percent(busy),
                others_percent: percent(busy.saturating_sub(own.taken())),
            };
            ticks = now;
            let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
            seconds.add(sample);
            drop(seconds);
            if let Some(journal) = &*self.journal.lock().unwrap_or_else(PoisonError::into_inner) {
                journal.note(Event::Pressure(sample));
            }
        }
    }
}

/// Of all processors, since the machine began.
#[derive(Clone, Copy, Default)]
struct Ticks {
    all: u64,
    busy: u64,
    stolen: u64,
}

fn ticks() -> Ticks {
    of(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two already.
fn of(stat: &str) -> Ticks {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let all = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    let stolen = fields.get(7).copied().unwrap_or(0);
    Ticks { all, busy: all - idle - stolen, stolen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;

    #[test]
    fn the_kernels_words_are_understood() {
        let ticks = of("cpu  10 0 5 80 5 0 0 7 3 0\ncpu0 1 2 3\n");
        assert_eq!((ticks.all, ticks.busy, ticks.stolen), (107, 15, 7));
        assert_eq!(of("").all, 0);
    }

    /// A minute whose seconds from 50 on, so many of them, were starved.
    fn minute(starved: usize, late_ms: u64) -> Starvation {
        let second = |at: usize| {
            let late_ms = if (50..50 + starved).contains(&at) { late_ms } else { 3 };
            format!(
                r#"{{"t_us":{}000000,"event":"pressure","late_ms":{late_ms},"lost_percent":1,"steal_percent":0,"busy_percent":9}}"#,
                at + 1
            )
        };
        let lines: Vec<String> = (0..60).map(second).collect();
        Starvation::of(&history(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    #[test]
    fn a_starved_stretch_excuses_what_was_late_in_it_and_shortly_after_it_and_nothing_else() {
        let second = |at: i64| at * 1_000_000;
        let burst = minute(5, 900);
        assert!(burst.excuses(second(51), second(56)));
        assert!(burst.excuses(second(58), second(60)), "shortly after");
        assert!(!burst.excuses(second(20), second(30)));
        assert!(!burst.excuses(second(0), second(60)), "five of sixty are few");
        assert!(!minute(2, 900).excuses(second(51), second(56)), "two are none");
        assert!(minute(1, 5_000).excuses(second(51), second(56)), "one that stood still for five");
        assert!(minute(9, 900).excuses(second(0), second(5)), "starved as a whole");
        assert!(!minute(0, 0).excuses(i64::MIN, i64::MAX));
        assert!(!Starvation::of(&history(&[])).excuses(0, 9));
    }

    #[test]
    fn a_late_second_is_none_and_one_in_ten_is_a_starved_host() {
        let sample =
            Sample { late_ms: 5, lost_percent: 3, steal_percent: 0, busy_percent: 99, others_percent: 20 };
        let starved = [
            Sample { late_ms: LATE_MS + 1, ..sample },
            Sample { lost_percent: LOST_PERCENT + 1, ..sample },
            Sample { steal_percent: STEAL_PERCENT + 1, ..sample },
            Sample { others_percent: OTHERS_PERCENT + 1, ..sample },
        ];
        for one in starved {
            let mut seconds = Seconds::default();
            for number in 0..40 {
                seconds.add(if number < 3 { one } else { sample });
            }
            assert!(!seconds.are_starved(), "{seconds:?}");
            seconds.add(one);
            seconds.add(one);
            assert!(seconds.are_starved(), "{seconds:?}");
        }
        // Where enough is left, others take nothing away.
        assert!(!is_starved(Sample { others_percent: 80, busy_percent: 85, ..sample }));
    }
}
