//! Which faults undo each other, or wait for each other for ever, where they hit the same node.
//!
//! Whatever targets an experiment names, two of them can be the same node: the controller may lead, and the
//! seed may draw either. So faults that clash may not last at the same time at all.

use super::Fault;

/// What of a node a fault takes hold of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The agent stands still.
    Still,
    /// The agent is ended, and started again.
    End,
    /// The agent is in a control group; of the second version it is in one alone.
    Group,
    /// The agent has a tracer, of which there can be one.
    Tracer,
    Disk,
    Clock,
    Program,
}

fn holds(fault: &Fault) -> &'static [Hold] {
    match fault {
        Fault::Kill
        | Fault::Restart
        | Fault::BitRot { .. }
        | Fault::Truncate
        | Fault::OldDatabase
        | Fault::Wipe => &[Hold::End],
        // At its end an agent that still runs is ended.
        Fault::PowerCut | Fault::DiskDies => &[Hold::End, Hold::Disk],
        Fault::Version => &[Hold::End, Hold::Program],
        Fault::Pause => &[Hold::Still],
        Fault::Freeze => &[Hold::Still, Hold::Group],
        Fault::Cpu { .. } | Fault::Memory { .. } => &[Hold::Group],
        Fault::DiskFull => &[Hold::Disk],
        Fault::FsyncFails | Fault::FsyncSlow { .. } => &[Hold::Tracer],
        Fault::Clock { .. } => &[Hold::Clock],
        Fault::Partition { .. } | Fault::Loss { .. } | Fault::Link(_) | Fault::Descriptors { .. } => &[],
    }
}

/// Why two faults can not last at the same time, of which one begins later, if they can not.
pub fn clash(earlier: &Fault, later: &Fault) -> Option<String> {
    let (first, second) = (earlier.name(), later.name());
    let has = |fault: &Fault, hold: Hold| holds(fault).contains(&hold);
    let either = |one: Hold, other: Hold| {
        (has(earlier, one) && has(later, other)) || (has(earlier, other) && has(later, one))
    };
    let alone = [Hold::Still, Hold::Group, Hold::Tracer, Hold::Disk, Hold::Clock, Hold::Program];
    let why = if alone.into_iter().any(|hold| either(hold, hold)) {
        "one would undo the other: put them into steps of their own"
    } else if either(Hold::Still, Hold::End) {
        "an agent that stands still can not be ended in order: put them into steps of their own"
    } else if either(Hold::Still, Hold::Tracer) {
        "an agent that stands still makes no calls: put them into steps of their own"
    } else if has(earlier, Hold::End) && has(later, Hold::Program) {
        "the later one would start an agent that is to be down: name it first"
    } else {
        return None;
    };
    Some(format!("{first} and {second} at a time can hit the same node, where {why}"))
}
