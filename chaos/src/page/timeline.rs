//! Everything by time: faults as bands across the clients' rows, the controller, and the nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::bins::Bins;
use super::drawing::{Axis, GUTTER, WIDTH, area, block, line, text};
use crate::history::{Event, FaultEvent, History, Phase, Seen};

const ROW: f64 = 40.0;
const LATENCY: f64 = 110.0;
const STRIP: f64 = 20.0;
const LABEL: f64 = 15.0;
/// A letter of a label is about so wide.
const LETTER: f64 = 7.2;
/// Labels of faults that are near each other are put below each other.
const LABEL_ROWS: usize = 4;
/// A history may name any number of nodes.
const NODES_MAX: usize = 20;
const FAULTS_MAX: usize = 200;

pub fn section(history: &History, bins: &Bins) -> String {
    let axis = Axis { seconds: bins.seconds() };
    let faults = faults(history, bins);
    let top = LABEL * LABEL_ROWS as f64 + 24.0;
    let (rows, bottom) = rows(history, bins, axis, top);
    let mut bands = String::new();
    let mut labels = Labels::default();
    for fault in &faults {
        let (from, to) = (axis.x(fault.from_us), axis.x(fault.to_us));
        bands += &block(from, to, top - 4.0, bottom - top + 4.0, "band", &fault.words());
        let words = fault.short_words(history.run.nodes.len());
        let is_late = from > WIDTH * 0.8;
        let Some(row) = labels.place(from, &words, is_late) else { continue };
        let y = 20.0 + LABEL * row as f64;
        bands += &format!("<path class=\"pin\" d=\"M{from:.1} {:.1}V{:.1}\"/>", y - 10.0, top - 4.0);
        let (x, class) = if is_late { (from - 3.0, "fault end") } else { (from + 3.0, "fault") };
        bands += &text(x, y, class, &words);
    }
    let height = bottom + 26.0;
    format!(
        "<section><h2>What happened</h2><div class=\"wide\"><svg id=\"time\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         role=\"img\" aria-label=\"Faults over throughput, errors, latency, controller and nodes\">{HATCH}\
         {bands}{}{rows}{}<path id=\"hair\" d=\"\"/></svg></div><p id=\"tip\" aria-live=\"polite\">\
         Shaded: a fault lasts. Point at a time to read its figures.</p></section>\n",
        phases(history, axis, top, bottom),
        ticks(axis, bottom),
    )
}

/// What is of unknown end is told from what was refused by more than its colour.
const HATCH: &str = "<defs><pattern id=\"hatch\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\" \
                     patternTransform=\"rotate(45)\"><rect class=\"stripe\" width=\"2\" height=\"4\"/></pattern></defs>";

struct Fault {
    name: String,
    targets: Vec<String>,
    from_us: f64,
    to_us: f64,
}

impl Fault {
    fn words(&self) -> String {
        format!("{} {}", self.name.replace('_', " "), self.targets.join(" "))
    }

    fn short_words(&self, nodes: usize) -> String {
        match self.targets.len() {
            0..=2 => self.words(),
            count if count == nodes => format!("{} all", self.name.replace('_', " ")),
            count => format!("{} {count} nodes", self.name.replace('_', " ")),
        }
    }
}

/// Where labels are already. One for which there is no room is left to its band, which says it too.
#[derive(Default)]
struct Labels {
    /// From where on each row is free.
    ends: [f64; LABEL_ROWS],
}

impl Labels {
    /// The row of a label.
    fn place(&mut self, at: f64, words: &str, ends_there: bool) -> Option<usize> {
        let width = words.chars().count() as f64 * LETTER + 6.0;
        let (from, to) = if ends_there { (at - width, at) } else { (at, at + width) };
        let row = self.ends.iter().position(|end| *end <= from)?;
        self.ends[row] = to;
        Some(row)
    }
}

fn faults(history: &History, bins: &Bins) -> Vec<Fault> {
    let end = bins.seconds() * 1e6;
    let mut faults: Vec<Fault> = Vec::new();
    for (at, event) in &history.events {
        let Event::Fault(FaultEvent { fault, targets, begins, .. }) = event else { continue };
        if *begins && faults.len() < FAULTS_MAX {
            faults.push(Fault {
                name: fault.clone(),
                targets: targets.clone(),
                from_us: *at as f64,
                to_us: end,
            });
        } else if let Some(open) = faults
            .iter_mut()
            .rev()
            .find(|open| open.name == *fault && open.targets == *targets && open.to_us >= end)
        {
            open.to_us = *at as f64;
        }
    }
    faults
}

/// All rows from a top on, and where they end.
fn rows(history: &History, bins: &Bins, axis: Axis, top: f64) -> (String, f64) {
    let bin_us = bins.bin_us as f64;
    let per_second = 1e6 / bin_us;
    let (mut drawn, mut y) = (String::new(), top);
    let mut row = |name: &str, unit: &str, y: f64| {
        drawn += &text(4.0, y + 14.0, "name", name);
        drawn += &text(4.0, y + 28.0, "unit", unit);
    };
    let mut charts = String::new();
    for kind in &bins.kinds {
        let values: Vec<f64> = kind.bins.iter().map(|count| f64::from(*count) * per_second).collect();
        let max = values.iter().copied().fold(0.0, f64::max);
        row(kind.name, &format!("up to {max:.0}/s"), y);
        charts += &area(axis, bin_us, &values, y + ROW - 4.0, ROW - 8.0, "ok");
        y += ROW;
    }
    for (name, counts, class) in
        [("refused", &bins.refused, "refused"), ("unknown end", &bins.unknown, "unknown")]
    {
        let values: Vec<f64> = counts.iter().map(|count| f64::from(*count) * per_second).collect();
        let max = values.iter().copied().fold(0.0, f64::max);
        row(name, &format!("up to {max:.0}/s"), y);
        charts += &area(axis, bin_us, &values, y + ROW - 4.0, ROW - 8.0, class);
        y += ROW;
    }
    row("latency", "ms, log scale", y);
    charts += &latency(bins, axis, y);
    y += LATENCY;
    row("controller", "and its epoch", y);
    charts += &controllers(history, bins.bin_us, axis, y);
    y += STRIP + 16.0;
    let (strips, bottom) = nodes(history, bins.bin_us, axis, y);
    (drawn + &charts + &strips, bottom)
}

fn latency(bins: &Bins, axis: Axis, y: f64) -> String {
    let most = bins.latency.iter().flatten().map(|[_, _, max]| *max).fold(10.0, f64::max);
    // From a tenth of a millisecond on.
    let decades = (most.log10().ceil() + 1.0).max(1.0);
    let scale = move |ms: f64| {
        y + LATENCY - 10.0 - (LATENCY - 20.0) * ((ms.max(0.1).log10() + 1.0) / decades).clamp(0.0, 1.0)
    };
    let mut drawn = String::new();
    let mut mark = 0.1;
    while mark <= most * 1.01 {
        let at = scale(mark);
        drawn += &format!("<path class=\"grid\" d=\"M{GUTTER} {at:.1}H{WIDTH}\"/>");
        drawn += &text(GUTTER - 4.0, at + 3.0, "unit end", &format!("{mark}"));
        mark *= 10.0;
    }
    for (which, class) in [(0, "p50"), (1, "p99"), (2, "max")] {
        let values: Vec<Option<f64>> = bins.latency.iter().map(|bin| bin.map(|all| all[which])).collect();
        drawn += &line(axis, bins.bin_us as f64, &values, scale, class);
    }
    drawn += &text(4.0, y + 46.0, "unit", "thick: median");
    drawn += &text(4.0, y + 58.0, "unit", "dashed: p99");
    drawn + &text(4.0, y + 70.0, "unit", "dots: longest")
}

/// Stretches of time in which something was the same, as far as somebody said so. What changes several times in
/// a bin is one of them, so that there are no more than can be told apart.
fn stretches(bin_us: i64, said: impl Iterator<Item = (i64, String)>) -> Vec<(i64, Option<i64>, String)> {
    let mut all: Vec<(i64, Option<i64>, String)> = Vec::new();
    // What it has come to, where the last of them is one in which it changed.
    let mut now: Option<String> = None;
    for (at, what) in said {
        if now.as_ref().or(all.last().map(|(_, _, last)| last)) == Some(&what) {
            continue;
        }
        let Some((from, end, _)) = all.last_mut() else {
            all.push((at, None, what));
            continue;
        };
        let bin_ends = (*from / bin_us + 1) * bin_us;
        if at < bin_ends {
            let (from, _, _) = all.pop().unwrap_or_default();
            all.push((from, Some(bin_ends), CHANGES.to_owned()));
            now = Some(what);
        } else {
            if let (Some(before), Some(changed_until)) = (now.take(), *end)
                && changed_until < at
            {
                all.push((changed_until, Some(at), before));
            } else {
                *end = Some(at);
            }
            all.push((at, None, what));
        }
    }
    if let (Some(last), Some((_, Some(changed_until), _))) = (now, all.last()) {
        all.push((*changed_until, None, last));
    }
    all
}

/// What is said of a stretch in which nothing stayed as it was.
const CHANGES: &str = "changes";

/// What nodes have said of the farm, in order.
fn seen(history: &History) -> impl Iterator<Item = (i64, &Seen)> {
    history
        .events
        .iter()
        .filter_map(|(at, event)| if let Event::Seen(seen) = event { Some((*at, seen)) } else { None })
}

fn controllers(history: &History, bin_us: i64, axis: Axis, y: f64) -> String {
    let said = seen(history).map(|(at, seen)| {
        let none = seen.controller.is_empty();
        (at, if none { "none".to_owned() } else { format!("{} e{}", seen.controller, seen.epoch) })
    });
    let blocks = stretches(bin_us, said).into_iter().map(|(from, to, what)| {
        let class = match what.as_str() {
            "none" => "down",
            CHANGES => "other",
            _somebody => "ready",
        };
        strip(axis, from, to, y, class, &what)
    });
    blocks.collect()
}

fn nodes(history: &History, bin_us: i64, axis: Axis, mut y: f64) -> (String, f64) {
    let mut names: BTreeSet<&str> =
        seen(history).flat_map(|(_, seen)| seen.members.keys().map(String::as_str)).collect();
    names.extend(history.run.nodes.iter().map(String::as_str));
    let mut drawn = String::new();
    for name in names.into_iter().take(NODES_MAX) {
        drawn += &text(4.0, y + 14.0, "name", name);
        let said = seen(history).map(|(at, seen)| (at, seen.members.get(name).cloned().unwrap_or_default()));
        for (from, to, state) in stretches(bin_us, said) {
            let class = CLASSES.get(state.as_str()).copied().unwrap_or("other");
            drawn += &strip(axis, from, to, y, class, &state);
        }
        y += STRIP + 4.0;
    }
    (drawn, y)
}

/// The states that have a look of their own.
static CLASSES: std::sync::LazyLock<BTreeMap<&'static str, &'static str>> = std::sync::LazyLock::new(|| {
    BTreeMap::from([
        ("ready", "ready"),
        ("alive", "alive"),
        ("suspect", "suspect"),
        ("down", "down"),
        ("left", "down"),
        ("draining", "draining"),
    ])
});

fn strip(axis: Axis, from: i64, to: Option<i64>, y: f64, class: &str, words: &str) -> String {
    let end = to.map_or(WIDTH, |to| axis.x(to as f64));
    block(axis.x(from as f64), end, y, STRIP, class, words)
}

fn phases(history: &History, axis: Axis, top: f64, bottom: f64) -> String {
    let mut drawn = String::new();
    for (at, event) in &history.events {
        let Event::Phase { phase } = event else { continue };
        let name = match phase {
            Phase::Steady => "steady",
            Phase::Method => "method",
            Phase::Recovery => "recovery",
            Phase::After => "steady again",
            Phase::Final => "reading back",
        };
        let x = axis.x(*at as f64);
        drawn += &format!("<path class=\"phase\" d=\"M{x:.1} {:.1}V{bottom:.1}\"/>", top - 14.0);
        let class = if x > WIDTH * 0.92 { "unit end" } else { "unit" };
        drawn += &text(if x > WIDTH * 0.92 { x - 3.0 } else { x + 3.0 }, top - 8.0, class, name);
    }
    drawn
}

fn ticks(axis: Axis, bottom: f64) -> String {
    let mut drawn = format!("<path class=\"axis\" d=\"M{GUTTER} {bottom:.1}H{WIDTH}\"/>");
    for at in axis.ticks() {
        let x = axis.x(at * 1e6);
        drawn += &format!("<path class=\"axis\" d=\"M{x:.1} {bottom:.1}v4\"/>");
        drawn += &text(x, bottom + 16.0, "unit middle", &format!("{at:.0} s"));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: &[(i64, &str)]) -> Vec<(i64, Option<i64>, String)> {
        stretches(100, said.iter().map(|(at, what)| (*at, (*what).to_owned())))
    }

    #[test]
    fn what_stays_is_a_stretch_and_what_changes_within_a_bin_is_one_too() {
        let stretch = |from, to, what: &str| (from, to, what.to_owned());
        assert_eq!(told(&[]), []);
        assert_eq!(
            told(&[(5, "up"), (150, "up"), (250, "down"), (420, "up")]),
            [stretch(5, Some(250), "up"), stretch(250, Some(420), "down"), stretch(420, None, "up")]
        );
        assert_eq!(
            told(&[(5, "up"), (210, "down"), (220, "up"), (260, "up"), (900, "down")]),
            [
                stretch(5, Some(210), "up"),
                stretch(210, Some(300), CHANGES),
                stretch(300, Some(900), "up"),
                stretch(900, None, "down")
            ]
        );
        assert_eq!(
            told(&[(5, "up"), (9, "down")]),
            [stretch(5, Some(100), CHANGES), stretch(100, None, "down")]
        );
    }

    #[test]
    fn what_never_stays_makes_no_more_stretches_than_there_are_bins() {
        let said = (0..10_000).map(|at| (at, if at % 2 == 0 { "up" } else { "down" }.to_owned()));
        let all = stretches(100, said);
        assert!(all.len() <= 201, "{}", all.len());
        assert!(all.windows(2).all(|pair| pair[0].1 == Some(pair[1].0)), "{all:?}");
    }
}
