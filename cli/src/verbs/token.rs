//! `holdfast token create` and `holdfast token ls`.

use std::time::Duration;

use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::v1::{CreateTokenRequest, CreateTokenResponse, ListTokensRequest, TokenInfo};
use tonic::transport::Channel;

use crate::args::{Form, Token};
use crate::failure::Failure;
use crate::local::{CALL_TIMEOUT, within};
use crate::output::table::{Table, plain};
use crate::output::{self, paint};

pub async fn run(channel: Channel, verb: Token) -> Result<(), Failure> {
    match verb {
        Token::Create { role, ttl, uses, form } => {
            let token = create(channel, role, ttl, uses).await?;
            if form.json {
                return output::json(&token);
            }
            eprintln!("on the new server, until {}:", token.expires);
            output::text(&format!("{}\n", token.join))
        }
        Token::Ls(form) => list(channel, form).await,
    }
}

/// Asks for a token that admits `uses` servers, 0 for as many as come within `ttl`.
pub async fn create(
    channel: Channel,
    role: String,
    ttl: Duration,
    uses: u32,
) -> Result<CreateTokenResponse, Failure> {
    let request = CreateTokenRequest { role, ttl_seconds: ttl.as_secs(), uses };
    ClusterServiceClient::new(channel)
        .create_token(within(CALL_TIMEOUT, request))
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status("create a token", &status))
}

async fn list(channel: Channel, form: Form) -> Result<(), Failure> {
    let answer = ClusterServiceClient::new(channel)
        .list_tokens(within(CALL_TIMEOUT, ListTokensRequest {}))
        .await
        .map_err(|status| Failure::from_status("list the tokens", &status))?
        .into_inner();
    if form.json {
        return output::json(&answer);
    }
    if answer.tokens.is_empty() {
        eprintln!("no tokens: `holdfast token create` makes one");
    }
    output::text(&table(&answer.tokens).render(paint::stdout()))
}

fn table(tokens: &[TokenInfo]) -> Table {
    let mut table = Table::new(&["ID", "ROLE", "USES LEFT", "EXPIRES"]);
    for token in tokens {
        let uses = if token.unlimited { "any".to_owned() } else { token.uses_left.to_string() };
        table.row(vec![plain(&token.id), plain(&token.role), plain(uses), plain(&token.expires)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_document_has_the_keys_of_the_contract() {
        let document = serde_json::to_value(CreateTokenResponse::default()).unwrap();
        let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["expires", "id", "join", "token"]);
    }
}
