//! Lengths of time as people write them: `250ms`, `60s`, `10m`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::SpecError;

pub(super) const fn seconds(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(from)..=Duration::from_secs(to)
}

/// A length of time, which must lie in `range`.
pub(super) fn parse(key: &str, text: &str, range: RangeInclusive<Duration>) -> Result<Duration, SpecError> {
    let duration = humantime::parse_duration(text).map_err(|error| {
        SpecError::invalid(key, format!("is not a length of time such as \"60s\" ({text:?}: {error})"))
    })?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (from, to) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    Err(SpecError::invalid(key, format!("must be between {from} and {to}, not {text:?}")))
}
