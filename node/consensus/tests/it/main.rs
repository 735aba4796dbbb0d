//! Groups of several nodes in one process, over a network that can be cut.

mod cluster;
mod failures;
mod growth;
mod suite;
