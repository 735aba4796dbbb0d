//! What one search may cost: it remembers every state of affairs that it has come across, and one that is not
//! linearizable is known to be so only when it has come across all of them.
//!
//! The search offers no way to stop it but a time. So the model, which it asks of each step, looks at what this
//! process has grown by, and refuses every step once the budget is spent: the search comes to its end, and what
//! it says then is no verdict. To count the steps instead would be to count the states that were there already,
//! which are most of them where there are many. A search is on one thread, as is its budget.

use std::cell::Cell;
use std::fs;
use std::time::Instant;

/// It is looked at so often, and in between a search takes some megabytes at most.
const STEPS_A_LOOK: u32 = 2_048;

#[derive(Clone, Copy)]
struct Budget {
    steps: u32,
    /// This process may have.
    bytes_max: u64,
    until: Option<Instant>,
    spent: Option<Spent>,
}

/// What there was too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    Memory,
    Time,
}

thread_local! {
    static BUDGET: Cell<Budget> =
        const { Cell::new(Budget { steps: 0, bytes_max: u64::MAX, until: None, spent: None }) };
}

/// Sets what a search may take, and searches. `Err` is what there was too little of.
pub fn within<T>(bytes: u64, until: Instant, search: impl FnOnce() -> T) -> Result<T, Spent> {
    let bytes_max = resident().saturating_add(bytes);
    BUDGET.set(Budget { steps: 0, bytes_max, until: Some(until), spent: None });
    let found = search();
    BUDGET.get().spent.map_or(Ok(found), Err)
}

/// Whether one more step may be taken.
pub fn allows() -> bool {
    let mut budget = BUDGET.get();
    if budget.spent.is_some() {
        return false;
    }
    budget.steps += 1;
    if budget.steps == STEPS_A_LOOK {
        budget.steps = 0;
        if budget.until.is_some_and(|until| Instant::now() > until) {
            budget.spent = Some(Spent::Time);
        }
        if resident() > budget.bytes_max {
            budget.spent = Some(Spent::Memory);
        }
    }
    BUDGET.set(budget);
    budget.spent.is_none()
}

/// What this process has in memory. Where nobody tells, it does not grow.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
