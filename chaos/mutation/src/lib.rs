//! Which of its promises the product breaks on purpose.
//!
//! A checker that never finds anything may be blind. So there are places in the product at which a build
//! with `--cfg holdfast_mutants`, and no other, can be told by its environment to do wrong:
//!
//! ```text
//!   #[cfg(holdfast_mutants)]
//!   if mutation::is("sync-removed") {
//!       return Ok(());
//!   }
//! ```
//!
//! `holdfast-chaos mutants` makes that build, breaks each promise once, and expects to be told.
//!
//! Architecture Invariant: no other build links this crate (the manifests name it for that cfg alone), and
//! a test looks for the variable's name in the program.

#[cfg(all(holdfast_mutants, not(debug_assertions)))]
compile_error!("a build for release has no mutants");

use std::sync::OnceLock;

/// Names the one mutant that is to live.
pub const VARIABLE: &str = "HOLDFAST_MUTANT";

/// Whether this mutant is to live in this process.
pub fn is(name: &str) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(name)
}
