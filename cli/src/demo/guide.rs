//! What the demonstration tells: where everything is, and what to try.

use std::fmt::Write as _;
use std::path::Path;

use super::farm::{Farm, FarmNode};
use super::launch::{Ended, program};
use super::sample;
use crate::args::Demo;
use crate::failure::Failure;
use crate::output;
use crate::output::paint::{self, Paint};
use crate::output::table::{Table, plain};

pub fn print(dir: &Path, farm: &Farm, options: &Demo) -> Result<(), Failure> {
    let program = program()?.display().to_string();
    output::text(&render(dir, farm, options, &program, paint::stdout()))
}

fn render(dir: &Path, farm: &Farm, options: &Demo, program: &str, paint: Paint) -> String {
    let mut out = format!("\n{}\n\n", paint.bold(&format!("A farm of {} serves.", farm.nodes.len())));
    let mut table = Table::new(&["NODE", "ZONE", "SITE", "ADMIN PAGE", "REDIS PORT", "PID"]);
    for node in &farm.nodes {
        table.row(vec![
            plain(&node.name),
            plain(&node.zone),
            plain(format!("http://{}/", node.http)),
            plain(format!("http://{}/", node.admin)),
            plain(format!("redis://{}", node.resp)),
            plain(node.pid.to_string()),
        ]);
    }
    out.push_str(&table.render(paint));
    out.push_str(&tries(dir, farm, options, program, paint));
    let end = if options.detach {
        format!("End it:  {program} demo --dir {} --stop\n", dir.display())
    } else {
        "End it:  Ctrl-C\n".to_owned()
    };
    let _ = write!(out, "\n{end}");
    out
}

fn tries(dir: &Path, farm: &Farm, options: &Demo, program: &str, paint: Paint) -> String {
    let (Some(first), Some(last)) = (farm.nodes.first(), farm.nodes.last()) else { return String::new() };
    let mut out = String::new();
    let mut number = 0;
    let mut item = |title: &str, lines: &[String]| {
        number += 1;
        let _ = write!(out, "\n{} {title}\n", paint.bold(&format!("{number}.")));
        for line in lines {
            let _ = writeln!(out, "     {line}");
        }
    };
    let kill = match farm.nodes.len() {
        0..=2 => "Kill a server: without a majority nothing can be written until it is started again:",
        _ => "Kill a server, see that nobody notices, and start it again:",
    };
    item(
        kill,
        &[
            format!("kill -9 {}", last.pid),
            format!("{program} --socket {} status", first.socket.display()),
            restart(program, last),
        ],
    );
    if options.no_app || options.app.is_some() {
        item(
            "Deploy an app of yours: a folder with a holdfast.toml",
            &[format!("{program} --socket {} deploy DIR", first.socket.display())],
        );
        return out;
    }
    item(
        "Fill a basket on one server and find it on another; change a price and see it everywhere:",
        &[
            format!("http://{}/            log in, take something", first.http),
            format!("http://{}/basket      the same basket, by another server", last.http),
            format!("http://{}/admin       change a price", first.http),
        ],
    );
    item(
        "Deploy the next release under load, and go back:",
        &[
            format!(
                "sed -i 's/Kelp & Rope/Kelp \\& Knots/' {}/{}/holdfast.toml",
                dir.display(),
                sample::NAME
            ),
            format!(
                "{program} --socket {} deploy {}/{} --version 2",
                first.socket.display(),
                dir.display(),
                sample::NAME
            ),
            format!("{program} --socket {} rollback {}", first.socket.display(), sample::NAME),
        ],
    );
    out
}

/// A line for an agent that has ended under the eyes of the demonstration.
pub fn ended(farm: &Farm, ended: &Ended, program: &Path) -> String {
    let how = match &ended.status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let again = farm
        .nodes
        .iter()
        .find(|node| node.name == ended.node)
        .map(|node| restart(&program.display().to_string(), node));
    format!(
        "{} (process {}) has ended: {how}\n  start it again: {}",
        ended.node,
        ended.pid,
        again.unwrap_or_default()
    )
}

fn restart(program: &str, node: &FarmNode) -> String {
    format!("{program} agent --config {}", node.config.display())
}
