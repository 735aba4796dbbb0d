//! What goes to stdout: one JSON document, or text for a person.
//!
//! Written here rather than with `println!`, which panics when the reader has gone: `holdfast apps
//! | head -1` must not end in a panic.

pub mod paint;
pub mod table;

use std::io::{self, Write as _};

use serde::Serialize;

use crate::failure::Failure;

/// One JSON document, indented.
pub fn json(document: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(document).map_err(|error| {
        Failure::failed(format!("can not print JSON: {error}"), "this is a bug: report it")
    })?;
    text.push('\n');
    bytes(text.as_bytes())
}

/// Text as it is.
pub fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Bytes as they are.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::failed(
            format!("can not write to stdout: {error}"),
            "make room where the output goes, or let it go elsewhere",
        )),
    }
}

/// The beginning of a hex id: enough for a person to tell two apart.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// `-` for nothing, so that a table has no holes.
pub fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Seconds as the two largest units: `3d 4h`, `12m 5s`.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// Bytes in the unit that leaves at most four digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10_000 && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_keep_the_leading_units() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(725), "12m 5s");
        assert_eq!(duration(7_260), "2h 1m");
        assert_eq!(duration(273_600), "3d 4h");
        assert_eq!(size(9_999), "9999 B");
        assert_eq!(size(25 << 20), "25 MiB");
        assert_eq!(size(u64::MAX), format!("{} GiB", u64::MAX >> 30));
    }

    #[test]
    fn an_id_shorter_than_its_short_form_is_kept() {
        assert_eq!(short("abc"), "abc");
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
    }
}
