//! ClusterService: who is here, and tokens for who may come.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use node_core::control::{Command, Fingerprint, Role, TokenRecord};
use node_security::JoinToken;
use proto::v1::cluster_service_server::ClusterService;
use proto::v1::{self};
use tonic::{Request, Response, Status};

use super::status::StatusSource;
use crate::control::Control;

/// A token's longest life: a forgotten one must not stay a door for ever.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// What `holdfast token create` says when nobody names one.
const TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// Implements the service over the agent's own view.
pub struct ClusterApi {
    pub status: StatusSource,
    pub control: Control,
    /// Digest of the CA's certificate, which every token carries.
    pub ca_digest: [u8; 32],
    /// Where a joiner reaches this node.
    pub advertise: std::net::SocketAddr,
}

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(self.status.status()))
    }

    async fn members(&self, _: Request<v1::MembersRequest>) -> Result<Response<v1::MembersResponse>, Status> {
        Ok(Response::new(v1::MembersResponse { members: self.status.members() }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let role = match request.role.as_str() {
            "" | "server" => Role::Server,
            "worker" => Role::Worker,
            other => {
                return Err(Status::invalid_argument(format!(
                    "no such role: {other:?}; this version knows server and worker"
                )));
            }
        };
        let ttl = match request.ttl_seconds {
            0 => TTL_DEFAULT,
            seconds => Duration::from_secs(seconds),
        };
        if ttl > TTL_MAX {
            return Err(Status::invalid_argument("a token lives for at most 365 days"));
        }
        let token = JoinToken::generate(self.ca_digest);
        let expires = SystemTime::now() + ttl;
        let record = TokenRecord {
            hash: Fingerprint(token.hash()),
            role,
            expires_ms: unix_ms(expires),
            uses_left: (request.uses > 0).then_some(request.uses),
        };
        self.control
            .propose(&Command::CreateToken { id: token.id(), token: record })
            .await
            .map_err(Status::from)?;
        let secret = token.to_string();
        Ok(Response::new(v1::CreateTokenResponse {
            id: token.id(),
            join: format!("holdfast join {secret}@{}", self.advertise),
            token: secret,
            expires: humantime::format_rfc3339_seconds(expires).to_string(),
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let now = unix_ms(SystemTime::now());
        let state = self.control.state();
        let usable = |token: &TokenRecord| token.expires_ms > now && token.uses_left != Some(0);
        let tokens = state.tokens.iter().filter(|(_, token)| usable(token));
        let tokens = tokens.map(|(id, token)| token_info(id, token)).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }
}

/// The last second of the year 9999.
const YEAR_9999_MS: u64 = 253_402_300_799_000;

fn token_info(id: &str, token: &TokenRecord) -> v1::TokenInfo {
    // RFC 3339 has four digits for the year.
    let expires = UNIX_EPOCH + Duration::from_millis(token.expires_ms.min(YEAR_9999_MS));
    v1::TokenInfo {
        id: id.to_owned(),
        role: token.role.as_str().to_owned(),
        expires: humantime::format_rfc3339_seconds(expires).to_string(),
        uses_left: token.uses_left.unwrap_or(0),
        unlimited: token.uses_left.is_none(),
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
