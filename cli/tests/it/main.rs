//! The built program, driven as its users drive it: by its verbs, a browser's protocol and a stock
//! Redis client. Farms are real processes on loopback.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]
#![allow(clippy::print_stdout, reason = "what was not run is told to whoever runs the tests")]

mod apps_socket;
mod bad_input;
mod deploys;
mod farm;
mod kills;
mod others;
mod reflection;
mod shop;
mod tidy;
