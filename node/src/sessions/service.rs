//! The session store on gRPC: `holdfast.v1.SessionService`.

use node_core::sessions::OpError;
use proto::log::{Deadline, Del, Expire, Get, Op, Reply, Set, deadline, op, reply};
use proto::v1;
use proto::v1::session_service_server::SessionService;
use tonic::{Code, Request, Response, Status};

use super::Sessions;
use crate::api::guard::Scope;

pub struct SessionApi {
    sessions: Sessions,
}

impl SessionApi {
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    async fn execute(&self, keyspace: String, key: bytes::Bytes, kind: op::Kind) -> Result<Reply, Status> {
        if !self.sessions.has_keyspace(&keyspace) {
            return Err(Status::not_found(format!("there is no app {keyspace:?}")));
        }
        let op = Op { keyspace, key, kind: Some(kind) };
        let reply = self.sessions.execute(vec![op]).await.pop();
        let reply = reply.ok_or_else(|| Status::internal("the store gave no reply"))?;
        match reply.kind {
            Some(reply::Kind::Error(text)) => Err(Status::new(code(&text), text)),
            Some(_) | None => Ok(reply),
        }
    }
}

/// By the code that the store's errors begin with.
fn code(text: &str) -> Code {
    match text.split(' ').next() {
        Some("CLUSTERDOWN") => Code::Unavailable,
        // Not executed, or not known to be: `Aborted` asks for a look before the next try.
        Some("TRYAGAIN") => Code::Aborted,
        Some("OOM") => Code::ResourceExhausted,
        Some(_) | None => Code::InvalidArgument,
    }
}

fn unexpected(reply: &Reply) -> Status {
    Status::internal(format!("the store gave an unexpected reply: {reply:?}"))
}

/// A time to live of none would delete what it is given to.
fn after(ttl_ms: u64) -> Result<Deadline, Status> {
    if ttl_ms == 0 {
        return Err(Status::invalid_argument(OpError::BadDeadline.to_string()));
    }
    Ok(Deadline { at: Some(deadline::At::AfterMs(ttl_ms)) })
}

#[tonic::async_trait]
impl SessionService for SessionApi {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        Scope::check(&request, &request.get_ref().keyspace)?;
        let v1::GetRequest { keyspace, key } = request.into_inner();
        let reply = self.execute(keyspace, key, op::Kind::Get(Get {})).await?;
        match reply.kind {
            Some(reply::Kind::Value(value)) => Ok(Response::new(v1::GetResponse {
                found: true,
                value: value.value,
                version: value.version,
                ttl_ms: value.ttl_ms,
            })),
            Some(reply::Kind::Nil(_)) => Ok(Response::new(v1::GetResponse::default())),
            Some(
                reply::Kind::Integer(_)
                | reply::Kind::Stored(_)
                | reply::Kind::Error(_)
                | reply::Kind::Mismatch(_),
            )
            | None => Err(unexpected(&reply)),
        }
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        Scope::check(&request, &request.get_ref().keyspace)?;
        let v1::PutRequest { keyspace, key, value, ttl_ms, if_version } = request.into_inner();
        let set = Set { value, deadline: ttl_ms.map(after).transpose()?, if_version, ..Set::default() };
        let reply = self.execute(keyspace, key, op::Kind::Set(set)).await?;
        let (applied, version) = match &reply.kind {
            Some(reply::Kind::Stored(stored)) => (true, stored.version),
            Some(reply::Kind::Mismatch(mismatch)) => (false, mismatch.version),
            Some(
                reply::Kind::Integer(_) | reply::Kind::Value(_) | reply::Kind::Error(_) | reply::Kind::Nil(_),
            )
            | None => return Err(unexpected(&reply)),
        };
        Ok(Response::new(v1::PutResponse { applied, version }))
    }

    async fn touch(&self, request: Request<v1::TouchRequest>) -> Result<Response<v1::TouchResponse>, Status> {
        Scope::check(&request, &request.get_ref().keyspace)?;
        let v1::TouchRequest { keyspace, key, ttl_ms } = request.into_inner();
        let expire = Expire { deadline: Some(after(ttl_ms)?), ..Expire::default() };
        let reply = self.execute(keyspace, key, op::Kind::Expire(expire)).await?;
        Ok(Response::new(v1::TouchResponse { found: is_one(&reply)? }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        Scope::check(&request, &request.get_ref().keyspace)?;
        let v1::DeleteRequest { keyspace, key } = request.into_inner();
        let reply = self.execute(keyspace, key, op::Kind::Del(Del { get: false })).await?;
        Ok(Response::new(v1::DeleteResponse { found: is_one(&reply)? }))
    }
}

fn is_one(reply: &Reply) -> Result<bool, Status> {
    if let Some(reply::Kind::Integer(number)) = reply.kind { Ok(number == 1) } else { Err(unexpected(reply)) }
}
