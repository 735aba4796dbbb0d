//! What panics in a simulation, in its own words.
//!
//! A runtime that ends by the panic of a task says only that there was one; the words are the hook's, and
//! that is the process's. So it is set once, and keeps what it hears on the threads that listen: each of
//! them runs one simulation at a time.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs something on this thread.
///
/// # Errors
/// The first panic's words, also when whoever panicked has told nobody.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if LISTENS.get() {
                let words = info.to_string().replace('\n', " ");
                HEARD.with_borrow_mut(|heard| heard.get_or_insert(words).len());
            } else {
                before(info);
            }
        }));
    });
    LISTENS.set(true);
    // What was run is not looked at again after a panic.
    let ran = panic::catch_unwind(AssertUnwindSafe(run));
    LISTENS.set(false);
    match (ran, HEARD.take()) {
        (Ok(done), None) => Ok(done),
        (Ok(_) | Err(_), Some(words)) => Err(words),
        (Err(_), None) => Err("a panic without words".to_owned()),
    }
}
