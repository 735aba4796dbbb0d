//! How much a fault may add to the load: retries are a fifth of the requests at most.

/// In fifths of a retry.
const PER_RETRY: u32 = 5;
/// A node that dies takes with it what it was answering; that many may be tried again at once.
const SAVED_MAX: u32 = 500 * PER_RETRY;

/// A token bucket that requests fill and retries empty.
pub struct Budget {
    saved: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: SAVED_MAX }
    }
}

impl Budget {
    pub fn request(&mut self) {
        self.saved = (self.saved + 1).min(SAVED_MAX);
    }

    pub fn has_any(&self) -> bool {
        self.saved >= PER_RETRY
    }

    /// Whether one more may be made.
    pub fn retry(&mut self) -> bool {
        match self.saved.checked_sub(PER_RETRY) {
            Some(rest) => {
                self.saved = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_the_savings_are_spent_one_retry_costs_five_requests() {
        let mut budget = Budget::default();
        while budget.retry() {}
        for _ in 0..PER_RETRY {
            assert!(!budget.retry());
            budget.request();
        }
        assert!(budget.retry());
        assert!(!budget.retry());
    }
}
