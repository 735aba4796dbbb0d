//! Panics of sled that are told as errors: nobody has to read of them twice.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Does something that may panic, and says in which words it has. What other threads panic of is told as ever.
pub fn caught<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            if !IS_EXPECTED.get() {
                before(about);
            }
        }));
    });
    IS_EXPECTED.set(true);
    let caught = catch_unwind(AssertUnwindSafe(work));
    IS_EXPECTED.set(false);
    caught.map_err(|panic| text(&*panic))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "sled panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| panic!("page {} is gone", 3)), Err::<(), _>("page 3 is gone".to_owned()));
        assert_eq!(caught(|| panic!("gone")), Err::<(), _>("gone".to_owned()));
        assert!(!IS_EXPECTED.get());
    }
}
