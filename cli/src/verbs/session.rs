//! `holdfast session get|set|del`: the session store one key at a time, for debugging.

use std::io::IsTerminal as _;

use bytes::Bytes;
use data_encoding::BASE64;
use proto::v1::session_service_client::SessionServiceClient;
use proto::v1::{DeleteRequest, GetRequest, GetResponse, PutRequest};
use serde::Serialize;
use tonic::transport::Channel;

use crate::args::{Form, Session};
use crate::failure::Failure;
use crate::local::{CALL_TIMEOUT, within};
use crate::output;

pub async fn run(channel: Channel, verb: Session) -> Result<(), Failure> {
    let client =
        SessionServiceClient::new(channel).max_decoding_message_size(proto::limits::MESSAGE_BYTES_MAX);
    match verb {
        Session::Get { key, keyspace, form } => get(client, keyspace.name, key, form).await,
        Session::Set { key, value, ttl, keyspace, form } => {
            let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            let value = Bytes::from(value);
            let key = Bytes::from(key);
            set(client, PutRequest { keyspace: keyspace.name, key, value, ttl_ms, if_version: None }, form)
                .await
        }
        Session::Del { key, keyspace, form } => delete(client, keyspace.name, key, form).await,
    }
}

type Client = SessionServiceClient<Channel>;

async fn get(mut client: Client, keyspace: String, key: String, form: Form) -> Result<(), Failure> {
    let request = GetRequest { keyspace, key: Bytes::from(key.clone()) };
    let answer = client
        .get(within(CALL_TIMEOUT, request))
        .await
        .map_err(|status| Failure::from_status(&format!("get {key}"), &status))?
        .into_inner();
    if form.json {
        return output::json(&Document::new(&key, &answer));
    }
    if !answer.found {
        return Err(Failure::failed(
            format!("there is no key {key}"),
            "it may have expired, or be in another --keyspace",
        ));
    }
    output::bytes(&answer.value)?;
    // A pipe gets the value and nothing else; a terminal gets its prompt on a line of its own.
    if std::io::stdout().is_terminal() { output::text("\n") } else { Ok(()) }
}

async fn set(mut client: Client, request: PutRequest, form: Form) -> Result<(), Failure> {
    let key = String::from_utf8_lossy(&request.key).into_owned();
    let answer = client
        .put(within(CALL_TIMEOUT, request))
        .await
        .map_err(|status| Failure::from_status(&format!("set {key}"), &status))?
        .into_inner();
    if form.json {
        return output::json(&serde_json::json!({ "key": key, "version": answer.version }));
    }
    eprintln!("set, version {}", answer.version);
    Ok(())
}

async fn delete(mut client: Client, keyspace: String, key: String, form: Form) -> Result<(), Failure> {
    let answer = client
        .delete(within(CALL_TIMEOUT, DeleteRequest { keyspace, key: Bytes::from(key.clone()) }))
        .await
        .map_err(|status| Failure::from_status(&format!("delete {key}"), &status))?
        .into_inner();
    if form.json {
        return output::json(&serde_json::json!({ "key": key, "found": answer.found }));
    }
    eprintln!("{}", if answer.found { "deleted" } else { "there was no such key" });
    Ok(())
}

/// The value as text where it is some: JSON has no bytes.
#[derive(Debug, Serialize)]
struct Document<'a> {
    key: &'a str,
    found: bool,
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    version: u64,
    ttl_ms: Option<u64>,
}

impl<'a> Document<'a> {
    fn new(key: &'a str, answer: &'a GetResponse) -> Self {
        let text = std::str::from_utf8(&answer.value).ok().filter(|_| answer.found);
        let binary = answer.found && text.is_none();
        Self {
            key,
            found: answer.found,
            value: text,
            value_base64: binary.then(|| BASE64.encode(&answer.value)),
            version: answer.version,
            ttl_ms: answer.ttl_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(answer: &GetResponse) -> serde_json::Value {
        serde_json::to_value(Document::new("k", answer)).unwrap()
    }

    #[test]
    fn a_text_is_a_string_and_other_bytes_are_base64() {
        let answer = GetResponse { found: true, value: "grüße".into(), version: 3, ttl_ms: Some(7) };
        let expected =
            serde_json::json!({"key": "k", "found": true, "value": "grüße", "version": 3, "ttl_ms": 7});
        assert_eq!(document(&answer), expected);
        let answer = GetResponse { value: Bytes::from_static(&[0xff, 0]), ..answer };
        assert_eq!(document(&answer)["value_base64"], "/wA=");
        assert!(document(&answer)["value"].is_null());
    }

    #[test]
    fn a_missing_key_has_no_value_not_an_empty_one() {
        assert!(document(&GetResponse::default())["value"].is_null());
        let empty = GetResponse { found: true, ..GetResponse::default() };
        assert_eq!(document(&empty)["value"], "");
    }
}
