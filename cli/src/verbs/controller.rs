//! `holdfast controller`: who acts, with which epoch, and how far each voter's log is.

use std::fmt::Write as _;

use proto::v1::control_service_client::ControlServiceClient;
use proto::v1::{ControllerRequest, ControllerResponse};
use tonic::transport::Channel;

use crate::args::Form;
use crate::failure::Failure;
use crate::local::{CALL_TIMEOUT, within};
use crate::output;
use crate::output::paint::{self, Paint};
use crate::output::table::{Table, Tone, plain};

pub async fn show(channel: Channel, form: Form) -> Result<(), Failure> {
    let answer = ControlServiceClient::new(channel)
        .controller(within(CALL_TIMEOUT, ControllerRequest {}))
        .await
        .map_err(|status| Failure::from_status("read the controller", &status))?
        .into_inner();
    if form.json { output::json(&answer) } else { output::text(&render(&answer, paint::stdout())) }
}

fn render(answer: &ControllerResponse, paint: Paint) -> String {
    let mut out = String::new();
    if answer.node.is_empty() {
        let why = if answer.quorum { "one is being elected" } else { "there is no quorum" };
        let _ = writeln!(out, "{} {why}", paint.red("no controller:"));
    } else {
        let ControllerResponse { node, epoch, term, applied, .. } = answer;
        let _ = writeln!(out, "{} epoch {epoch}, term {term}, log applied to {applied}", paint.bold(node));
    }
    let mut table = Table::new(&["VOTER", "STATE", "APPLIED"]);
    for voter in &answer.voters {
        let tone = if voter.state == "alive" { Tone::Good } else { Tone::Bad };
        table.row(vec![plain(&voter.name), (voter.state.clone(), tone), plain(voter.applied.to_string())]);
    }
    out.push_str(&table.render(paint));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lack_of_a_controller_is_told_with_its_reason() {
        let text = render(&ControllerResponse::default(), Paint::plain());
        assert_eq!(text, "no controller: there is no quorum\n");
    }
}
