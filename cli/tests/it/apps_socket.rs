//! The apps' socket: an instance's login, and nobody else's keys.

use data_encoding::BASE64;
use hyper_util::rt::TokioIo;
use proto::v1::cache_service_client::CacheServiceClient;
use proto::v1::session_service_client::SessionServiceClient;
use proto::v1::{GetRequest, InvalidateRequest, PutRequest};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request};

use crate::farm::Farm;

/// What an instance of the shop on this node found in its environment.
fn environment(farm: &Farm, node: usize, name: &str) -> String {
    let rows = farm.at(node, &["ps", "--json"]).ok().json();
    let node_name = farm.nodes[node].name.clone();
    let row = rows["instances"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["node"] == node_name.as_str())
        .unwrap()
        .clone();
    let environ = std::fs::read(format!("/proc/{}/environ", row["pid"])).unwrap();
    let prefix = format!("{name}=");
    let lines = environ.split(|byte| *byte == 0).map(|line| String::from_utf8_lossy(line).into_owned());
    lines.filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).next().unwrap()
}

async fn connect(path: String) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent.invalid").connect_with_connector(connector).await.unwrap()
}

fn request<T>(message: T, login: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(login) = login {
        let value = format!("Basic {}", BASE64.encode(login.as_bytes()));
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    request
}

fn get(keyspace: &str) -> GetRequest {
    GetRequest { keyspace: keyspace.to_owned(), key: "cart".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_reaches_its_own_keys_by_its_login_and_nobody_elses() {
    let farm = Farm::start(&["--nodes", "1"]);
    let url = environment(&farm, 0, "REDIS_URL");
    let login = url.strip_prefix("redis://").and_then(|rest| rest.split('@').next()).unwrap();
    let channel = connect(environment(&farm, 0, "HOLDFAST_SOCKET")).await;
    let mut sessions = SessionServiceClient::new(channel.clone());
    let mut cache = CacheServiceClient::new(channel);

    let put = PutRequest {
        keyspace: "shop".to_owned(),
        key: "cart".into(),
        value: "rope".into(),
        ..PutRequest::default()
    };
    assert!(sessions.put(request(put.clone(), Some(login))).await.unwrap().into_inner().applied);
    let found = sessions.get(request(get("shop"), Some(login))).await.unwrap().into_inner();
    assert_eq!(&found.value[..], b"rope");

    let denied = sessions.get(request(get("shop"), None)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    let denied = sessions.put(request(put, None)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    let denied = sessions.get(request(get(""), Some(login))).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "an app has no business in the operator's: {denied:?}");
    let invalidate = InvalidateRequest {
        keyspace: "shop".to_owned(),
        keys: vec!["price".into()],
        ..InvalidateRequest::default()
    };
    let denied = cache.invalidate(request(invalidate.clone(), None)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied:?}");
    cache.invalidate(request(invalidate, Some(login))).await.unwrap();

    let wrong = sessions.get(request(get("shop"), Some("shop:guess"))).await.unwrap_err();
    assert_eq!(wrong.code(), Code::Unauthenticated, "{wrong:?}");
    assert!(wrong.message().contains("REDIS_URL"), "it says what to do: {wrong:?}");
    let own = sessions.get(request(get(""), None)).await.unwrap().into_inner();
    assert!(!own.found, "without a login there is the default user, as on the Redis port");
}
