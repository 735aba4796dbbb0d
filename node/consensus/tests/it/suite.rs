use std::sync::Arc;

use node_consensus::memory::{MemoryEngine, MemorySnapshots};

#[test]
fn the_log_and_the_state_machine_pass_openrafts_suite_in_memory() {
    node_consensus::suite::run(|| ((), Arc::new(MemoryEngine::new()), Arc::new(MemorySnapshots::new())))
        .unwrap();
}
