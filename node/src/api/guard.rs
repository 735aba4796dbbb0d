//! Who may ask, before a service hears of it.

use std::sync::Arc;

use data_encoding::BASE64;
use node_security::Role;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::control::Control;
use crate::identity::Identity;
use crate::mesh::PeerInfo;
use crate::sessions::logins::{DEFAULT_USER, Logins};

/// Longest `authorization` that is looked at: a name and a secret have some hundred bytes.
const AUTHORIZATION_BYTES_MAX: usize = 1 << 10;

/// The only keyspace that a request may name. A request without this is an operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    /// Whether the request may touch a keyspace.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, which names both.
    pub fn check<T>(request: &Request<T>, keyspace: &str) -> Result<(), Status> {
        match request.extensions().get::<Self>() {
            Some(Self(own)) if own != keyspace => Err(Status::permission_denied(format!(
                "this login has the keyspace {own:?}, not {keyspace:?}"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// The apps' socket: as on the Redis port, an app shows the user and the secret of its `REDIS_URL` and
/// gets its own keyspace. They travel as HTTP's Basic authentication (RFC 7617).
///
/// # Errors
/// `UNAUTHENTICATED`, when they are wrong, or are needed and absent.
pub fn log_in(logins: &Logins, mut request: Request<()>) -> Result<Request<()>, Status> {
    let keyspace = match credentials(request.metadata())? {
        Some((user, password)) => logins.keyspace_of(&user, &password),
        None => logins.default_keyspace(),
    };
    let keyspace = keyspace.ok_or_else(|| {
        Status::unauthenticated("send the user and the password of REDIS_URL as Basic authorization")
    })?;
    request.extensions_mut().insert(Scope(keyspace));
    Ok(request)
}

/// What the request logs in with, if anything.
fn credentials(metadata: &MetadataMap) -> Result<Option<(String, String)>, Status> {
    let Some(value) = metadata.get("authorization") else { return Ok(None) };
    let unreadable = || Status::unauthenticated("the authorization is not Basic with a user and a password");
    let text = value.to_str().ok().filter(|text| text.len() <= AUTHORIZATION_BYTES_MAX);
    let (scheme, encoded) = text.and_then(|text| text.split_once(' ')).ok_or_else(unreadable)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(unreadable());
    }
    let decoded =
        BASE64.decode(encoded.trim().as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (user, password) = decoded.as_deref().and_then(|pair| pair.split_once(':')).ok_or_else(unreadable)?;
    // REDIS_URL may leave the user out.
    let user = if user.is_empty() { DEFAULT_USER } else { user };
    Ok(Some((user.to_owned(), password.to_owned())))
}

/// The operators' services on the peer port: for nodes of this cluster that were not removed and joined
/// as servers. A worker's certificate must not be worth an operator's rights.
#[derive(Clone)]
pub struct ServersOnly {
    identity: Arc<Identity>,
    control: Control,
}

impl ServersOnly {
    pub fn new(identity: Arc<Identity>, control: Control) -> Self {
        Self { identity, control }
    }

    /// # Errors
    /// `UNAUTHENTICATED` for strangers, `PERMISSION_DENIED` for other nodes.
    pub fn check(&self, request: &Request<()>) -> Result<(), Status> {
        let identity = request.extensions().get::<PeerInfo>().and_then(|info| info.identity.as_ref());
        let caller = identity
            .ok_or_else(|| Status::unauthenticated("this call needs a certificate of this cluster"))?;
        if caller.cluster != self.identity.cluster {
            return Err(Status::permission_denied("the certificate is of another cluster"));
        }
        let state = self.control.state();
        if state.nodes.get(&caller.node).is_some_and(|record| record.removed) {
            return Err(Status::permission_denied(format!("node {} has been removed", caller.node)));
        }
        match caller.role {
            Role::Server => Ok(()),
            Role::Worker => {
                Err(Status::permission_denied("a node that joined as a worker has no operator's rights"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn with(authorization: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", authorization.parse().unwrap());
        metadata
    }

    #[test]
    fn basic_authorization_holds_a_user_and_a_password_that_may_hold_colons() {
        assert!(credentials(&MetadataMap::new()).unwrap().is_none());
        let encoded = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        let (user, password) = credentials(&with(&encoded("shop:a:b"))).unwrap().unwrap();
        assert_eq!((user.as_str(), password.as_str()), ("shop", "a:b"));
        let (user, _) = credentials(&with(&encoded(":secret"))).unwrap().unwrap();
        assert_eq!(user, DEFAULT_USER);
        let long = format!("Basic {}", "A".repeat(5_000));
        for bad in ["Basic", "Bearer abc", "Basic %%%", &encoded("no colon"), &long] {
            assert_eq!(credentials(&with(bad)).unwrap_err().code(), Code::Unauthenticated, "{bad}");
        }
    }

    #[test]
    fn a_login_is_kept_to_its_keyspace_and_an_operator_is_not() {
        let mut request = Request::new(());
        assert!(Scope::check(&request, "shop").is_ok());
        request.extensions_mut().insert(Scope("shop".to_owned()));
        assert!(Scope::check(&request, "shop").is_ok());
        for other in ["", "billing"] {
            assert_eq!(Scope::check(&request, other).unwrap_err().code(), Code::PermissionDenied);
        }
    }
}
