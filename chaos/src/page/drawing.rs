//! Lines, areas and blocks in SVG, by time.

use std::fmt::Write as _;

use super::markup::escape;

/// Of the drawing, in its own units.
pub const WIDTH: f64 = 1_000.0;
/// For the names of rows.
pub const GUTTER: f64 = 118.0;

/// Where a time is.
#[derive(Clone, Copy)]
pub struct Axis {
    pub seconds: f64,
}

impl Axis {
    pub fn x(self, at_us: f64) -> f64 {
        GUTTER + (WIDTH - GUTTER) * (at_us / 1e6 / self.seconds).clamp(0.0, 1.0)
    }

    /// Seconds at which a number stands.
    pub fn ticks(self) -> Vec<f64> {
        let rough = self.seconds / 10.0;
        let step = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0]
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        (0..).map(|tick| f64::from(tick) * step).take_while(|at| *at <= self.seconds).collect()
    }
}

/// The area under values of the same distance, between a bottom and a height above it.
pub fn area(axis: Axis, bin_us: f64, values: &[f64], bottom: f64, height: f64, class: &str) -> String {
    let max = values.iter().copied().fold(0.0, f64::max);
    if max <= 0.0 {
        return String::new();
    }
    let mut path = format!("M{:.1} {bottom:.1}", axis.x(0.0));
    for (place, value) in values.iter().enumerate() {
        let (from, to) = (axis.x(place as f64 * bin_us), axis.x((place + 1) as f64 * bin_us));
        let y = bottom - height * value / max;
        // Writing into a String does not fail.
        let _ = write!(path, "L{from:.1} {y:.1}H{to:.1}");
    }
    let _ = write!(path, "V{bottom:.1}Z");
    format!("<path class=\"{class}\" d=\"{path}\"/>")
}

/// A line through values on a logarithmic scale; a gap where there is none.
pub fn line(
    axis: Axis,
    bin_us: f64,
    values: &[Option<f64>],
    scale: impl Fn(f64) -> f64,
    class: &str,
) -> String {
    let (mut path, mut draws) = (String::new(), false);
    for (place, value) in values.iter().enumerate() {
        let x = axis.x((place as f64 + 0.5) * bin_us);
        match value {
            Some(value) => {
                let _ = write!(path, "{}{x:.1} {:.1}", if draws { 'L' } else { 'M' }, scale(*value));
                draws = true;
            }
            None => draws = false,
        }
    }
    format!("<path class=\"{class}\" d=\"{path}\"/>")
}

/// A block of time with words in it, where they fit, and in any case when it is pointed at.
pub fn block(from: f64, to: f64, y: f64, height: f64, class: &str, words: &str) -> String {
    let width = (to - from).max(1.0);
    let words = escape(words);
    let mut block = format!(
        "<g><title>{words}</title><rect class=\"{class}\" x=\"{from:.1}\" y=\"{y:.1}\" \
         width=\"{width:.1}\" height=\"{height:.1}\"/>"
    );
    // A letter is some six units wide.
    if width > words.len() as f64 * 6.2 {
        let _ = write!(
            block,
            "<text class=\"in\" x=\"{:.1}\" y=\"{:.1}\">{words}</text>",
            from + 3.0,
            y + height - 4.0
        );
    }
    block + "</g>"
}

/// Words at a place.
pub fn text(x: f64, y: f64, class: &str, words: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(words))
}
