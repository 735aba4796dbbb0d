//! The built program, driven as its users drive it: by its verbs, a browser's protocol and a stock
//! Redis client. Farms are real processes on loopback.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

mod bad_input;
mod deploys;
mod farm;
mod kills;
mod others;
mod reflection;
mod shop;
mod tidy;
