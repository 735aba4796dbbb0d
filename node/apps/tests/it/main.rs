//! Real processes under a real supervisor.
#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod farm;
mod leftovers;
mod supervisor;
