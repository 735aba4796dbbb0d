//! stub
use crate::args::Verb;
use crate::failure::Failure;
use std::path::Path;
pub struct Config;
pub fn run(_verb: Verb) -> Result<(), Failure> {
    Err(Failure::failed("this build has no agent", "build a later one"))
}
pub fn load(
    _: Option<&Path>,
    _: &[String],
    _: impl Iterator<Item = (String, String)>,
) -> Result<Config, Failure> {
    Ok(Config)
}
pub fn init(_: &Config) -> Result<(), Failure> {
    Err(Failure::failed("this build has no agent", "build a later one"))
}
pub async fn join(_: &Config, _: &str) -> Result<(), Failure> {
    Err(Failure::failed("this build has no agent", "build a later one"))
}
