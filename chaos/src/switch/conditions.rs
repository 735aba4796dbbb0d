//! What becomes of a frame on its way.

use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

/// Behind the addresses and the type: what is damaged there, checksums have to find.
const HEADER_BYTES: usize = 14;
const PERCENT_MAX: u8 = 100;
const MS_MAX: u64 = 10_000;
/// Some 10 GiB/s, which no frame of ours would notice.
const RATE_KIB_MAX: u64 = 10 << 20;
/// By how much a frame that is overtaken is late, at least.
const OVERTAKEN: Duration = Duration::from_millis(5);
/// At a limited rate frames wait in a queue that is so long; what comes on top is lost.
const QUEUE_MAX: Duration = Duration::from_millis(500);

/// How a host's network treats every frame, each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub delay_ms: u64,
    /// Up to so much more, evenly.
    pub jitter_ms: u64,
    /// Of a hundred frames.
    pub loss_percent: u8,
    pub duplicate_percent: u8,
    pub reorder_percent: u8,
    pub corrupt_percent: u8,
    /// 0: no limit.
    pub rate_kib: u64,
}

impl Conditions {
    pub fn make_sense(&self) -> Result<(), String> {
        let percents =
            [self.loss_percent, self.duplicate_percent, self.reorder_percent, self.corrupt_percent];
        if percents.iter().any(|percent| *percent > PERCENT_MAX) {
            return Err("a link has more than a hundred percent of something".to_owned());
        }
        if self.delay_ms > MS_MAX || self.jitter_ms > MS_MAX {
            return Err(format!("a link has a delay or jitter of more than {MS_MAX} ms"));
        }
        if self.rate_kib > RATE_KIB_MAX {
            return Err(format!("a link of more than {RATE_KIB_MAX} KiB/s is limited by nothing"));
        }
        if *self == Self::default() {
            return Err("a link fault without any condition breaks nothing".to_owned());
        }
        Ok(())
    }

    /// Both at once: each on its own may lose a frame or hold it up, and the narrower of them is the rate.
    pub fn and(&self, other: &Self) -> Self {
        // Rounded up: two rare ones are not as rare as one.
        let either = |one: u8, other: u8| {
            let (one, other) = (u32::from(one), u32::from(other));
            let both = (one + other).saturating_sub(one * other / 100);
            u8::try_from(both.min(PERCENT_MAX.into())).unwrap_or(PERCENT_MAX)
        };
        Self {
            delay_ms: self.delay_ms.saturating_add(other.delay_ms),
            jitter_ms: self.jitter_ms.saturating_add(other.jitter_ms),
            loss_percent: either(self.loss_percent, other.loss_percent),
            duplicate_percent: either(self.duplicate_percent, other.duplicate_percent),
            reorder_percent: either(self.reorder_percent, other.reorder_percent),
            corrupt_percent: either(self.corrupt_percent, other.corrupt_percent),
            rate_kib: match (self.rate_kib, other.rate_kib) {
                (0, rate) | (rate, 0) => rate,
                (one, other) => one.min(other),
            },
        }
    }
}

/// The way from one host to another.
pub struct Path {
    random: StdRng,
    /// When the last frame arrives that was not overtaken: the others keep their order.
    last: Option<Instant>,
    /// When a limited rate lets the next frame go.
    free: Option<Instant>,
}

impl Path {
    pub fn new(random: StdRng) -> Self {
        Self { random, last: None, free: None }
    }

    /// When the frame arrives, and how: not at all, once or twice.
    pub fn treat(
        &mut self,
        now: Instant,
        frame: &[u8],
        conditions: &[Conditions; 2],
    ) -> Vec<(Instant, Vec<u8>)> {
        let mut at = now;
        let (mut frame, mut doubled, mut overtaken) = (frame.to_vec(), false, false);
        for conditions in conditions {
            if self.happens(conditions.loss_percent) {
                return Vec::new();
            }
            doubled |= self.happens(conditions.duplicate_percent);
            overtaken |= self.happens(conditions.reorder_percent);
            if self.happens(conditions.corrupt_percent) && frame.len() > HEADER_BYTES {
                let byte = self.random.random_range(HEADER_BYTES..frame.len());
                frame[byte] ^= 1 << self.random.random_range(0..8_u32);
            }
            let jitter_us = self.random.random_range(0..=conditions.jitter_ms * 1_000);
            at += Duration::from_millis(conditions.delay_ms) + Duration::from_micros(jitter_us);
        }
        // A frame that passes two narrow places waits at the narrower one.
        let [from, to] = conditions;
        if let rate_kib @ 1.. = from.and(to).rate_kib {
            let Some(late) = self.queue(now, frame.len(), rate_kib) else { return Vec::new() };
            at += late;
        }
        if overtaken {
            at += OVERTAKEN + at.duration_since(now);
        } else {
            at = self.last.map_or(at, |last| at.max(last));
            self.last = Some(at);
        }
        let mut copies = vec![(at, frame.clone())];
        if doubled {
            copies.push((at, frame));
        }
        copies
    }

    fn happens(&mut self, percent: u8) -> bool {
        // Drawn even where it can not happen: the same frame has the same luck under other conditions.
        self.random.random_range(0..PERCENT_MAX) < percent
    }

    /// How long the frame waits and is sent, or `None` where the queue is full.
    fn queue(&mut self, now: Instant, bytes: usize, rate_kib: u64) -> Option<Duration> {
        let begins = self.free.map_or(now, |free| free.max(now));
        if begins - now > QUEUE_MAX {
            return None;
        }
        let takes = Duration::from_micros(bytes as u64 * 1_000_000 / (rate_kib * 1_024));
        self.free = Some(begins + takes);
        Some(begins + takes - now)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const FRAME: [u8; 100] = [7; 100];

    fn path() -> Path {
        Path::new(StdRng::seed_from_u64(5))
    }

    /// What becomes of a thousand frames, a millisecond apart.
    fn thousand(conditions: Conditions) -> Vec<Vec<(Duration, Vec<u8>)>> {
        let (mut path, start) = (path(), Instant::now());
        (0..1_000)
            .map(|number| {
                let now = start + Duration::from_millis(number);
                let treated = path.treat(now, &FRAME, &[conditions, Conditions::default()]);
                treated.into_iter().map(|(at, frame)| (at - start, frame)).collect()
            })
            .collect()
    }

    #[test]
    fn without_conditions_every_frame_arrives_at_once_as_it_was() {
        for (number, copies) in thousand(Conditions::default()).into_iter().enumerate() {
            assert_eq!(copies, [(Duration::from_millis(number as u64), FRAME.to_vec())]);
        }
    }

    #[test]
    fn each_condition_happens_about_as_often_as_it_should() {
        let lossy = thousand(Conditions { loss_percent: 20, ..Conditions::default() });
        let lost = lossy.iter().filter(|copies| copies.is_empty()).count();
        // Six standard deviations about 200 are 76.
        assert!((124..276).contains(&lost), "{lost}");
        let doubling = thousand(Conditions { duplicate_percent: 20, ..Conditions::default() });
        let doubled = doubling.iter().filter(|copies| copies.len() == 2).count();
        assert!((124..276).contains(&doubled), "{doubled}");
        let damaging = thousand(Conditions { corrupt_percent: 20, ..Conditions::default() });
        let damaged: Vec<_> = damaging.iter().filter(|copies| copies[0].1 != FRAME).collect();
        assert!((124..276).contains(&damaged.len()), "{}", damaged.len());
        for copies in damaged {
            let turned: u32 = copies[0].1.iter().zip(FRAME).map(|(is, was)| (is ^ was).count_ones()).sum();
            assert_eq!((turned, &copies[0].1[..HEADER_BYTES]), (1, &FRAME[..HEADER_BYTES]));
        }
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let times = |conditions| -> Vec<Duration> {
            thousand(conditions).into_iter().map(|copies| copies[0].0).collect()
        };
        let jitter = times(Conditions { delay_ms: 10, jitter_ms: 20, ..Conditions::default() });
        assert!(jitter.is_sorted());
        assert!(jitter[0] >= Duration::from_millis(10) && jitter[0] <= Duration::from_millis(30));
        let reordered = times(Conditions { reorder_percent: 10, ..Conditions::default() });
        assert!(!reordered.is_sorted());
    }

    #[test]
    fn a_rate_is_kept_and_what_waits_too_long_is_lost() {
        // 100 bytes a millisecond are some 98 KiB a second.
        let arrived = thousand(Conditions { rate_kib: 49, ..Conditions::default() });
        let whole = arrived.iter().filter(|copies| !copies.is_empty()).count();
        assert!((650..800).contains(&whole), "half a second's worth, and the queue: {whole}");
        let last = arrived.iter().flatten().map(|(at, _)| *at).max().unwrap();
        assert!(last <= Duration::from_millis(1_000) + QUEUE_MAX + Duration::from_millis(5), "{last:?}");
    }

    #[test]
    fn a_frame_is_charged_once_where_both_ends_are_limited() {
        let limited = Conditions { rate_kib: 49, ..Conditions::default() };
        let (mut path, start) = (path(), Instant::now());
        let mut arrived = 0;
        for number in 0..1_000 {
            let now = start + Duration::from_millis(number);
            arrived += path.treat(now, &FRAME, &[limited, Conditions { rate_kib: 80, ..limited }]).len();
        }
        assert!((650..800).contains(&arrived), "as with one limited end: {arrived}");
    }

    #[test]
    fn conditions_at_once_are_as_bad_as_each_and_worse() {
        let some = Conditions { loss_percent: 50, delay_ms: 5, jitter_ms: 7, ..Conditions::default() };
        let none = Conditions::default();
        assert_eq!((some.and(&none), none.and(&some)), (some, some));
        let twice = some.and(&some);
        assert_eq!((twice.loss_percent, twice.delay_ms, twice.jitter_ms), (75, 10, 14));
        let one = Conditions { loss_percent: 1, corrupt_percent: 100, ..Conditions::default() };
        assert_eq!((one.and(&one).loss_percent, one.and(&one).corrupt_percent), (2, 100));
    }

    #[test]
    fn the_same_seed_has_the_same_luck() {
        let conditions =
            Conditions { loss_percent: 30, jitter_ms: 9, corrupt_percent: 9, ..Conditions::default() };
        assert_eq!(thousand(conditions), thousand(conditions));
    }
}
