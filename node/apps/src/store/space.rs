//! Whether there is room, asked before bytes are fetched rather than found out in the middle.

use std::path::Path;

use super::StoreError;

/// Room that releases leave to the databases and logs: an agent whose disk is full acknowledges
/// nothing any more.
const RESERVED_BYTES: u64 = 256 << 20;

/// # Errors
/// [`StoreError::NoSpace`] when so many bytes do not fit.
pub(super) fn check(path: &Path, needed: u64) -> Result<(), StoreError> {
    let free = rustix::fs::statvfs(path)
        .map_err(|error| StoreError::io("ask for the free space of", path)(error.into()))?;
    fits(path, needed, free.f_bavail.saturating_mul(free.f_frsize))
}

fn fits(path: &Path, needed: u64, free: u64) -> Result<(), StoreError> {
    let available = free.saturating_sub(RESERVED_BYTES);
    if needed <= available {
        return Ok(());
    }
    Err(StoreError::NoSpace { path: path.to_owned(), needed, available })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_room_is_not_given_away() {
        let path = Path::new("/");
        assert!(fits(path, 10, RESERVED_BYTES + 10).is_ok());
        let words = fits(path, 11, RESERVED_BYTES + 10).unwrap_err().to_string();
        assert!(words.contains("11 more bytes") && words.contains("10 can be used"), "{words}");
        assert!(fits(path, 1, 0).is_err());
        assert!(check(path, u64::MAX).is_err());
    }
}
