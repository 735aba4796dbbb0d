//! Every service, found and called by what the agent says of itself.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use node_security::TlsIdentity;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::farm::Farm;

/// Messages that are known by their descriptors only.
#[derive(Clone)]
struct Dynamic {
    output: MessageDescriptor,
}

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        DynamicMessage::decode(self.output.clone(), buffer)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// As another server's agent comes: with a node's certificate.
async fn peer_channel(farm: &Farm) -> Channel {
    let node = &farm.nodes[0];
    let file = |name: &str| std::fs::read(node.data_dir.join("identity").join(name)).unwrap();
    let certificate = file("node.crt");
    let named = node_security::identify(&certificate.clone().into()).unwrap();
    let identity = TlsIdentity::new(named.cluster, named.node, certificate, file("node.key"), file("ca.crt"));
    let tls = node_security::client_config(&identity, &[b"h2"]).unwrap();
    let (address, tls) = (node.peer.clone(), TlsConnector::from(tls));
    let connector = tower::service_fn(move |_: Uri| {
        let name = node_security::server_name(named.cluster, Some(named.node));
        let (address, tls) = (address.clone(), tls.clone());
        async move { tls.connect(name, TcpStream::connect(address).await?).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://peer").connect_with_connector(connector).await.unwrap()
}

async fn channel(farm: &Farm) -> Channel {
    let socket = farm.nodes[0].socket.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent").connect_with_connector(connector).await.unwrap()
}

async fn ask(client: &mut ServerReflectionClient<Channel>, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap().message_response.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_listed_and_answers_by_reflection_alone() {
    let farm = Farm::start(&["--nodes", "1"]);
    list_and_call(channel(&farm).await).await;
    list_and_call(peer_channel(&farm).await).await;
}

async fn list_and_call(channel: Channel) {
    let mut client = ServerReflectionClient::new(channel.clone());
    let listed = ask(&mut client, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["Cluster", "Control", "App", "Session", "Cache", "Balancer"] {
        assert!(names.contains(&format!("holdfast.v1.{service}Service")), "{names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    let mut called = 0;
    for name in names.iter().filter(|name| name.starts_with("holdfast.v1.") || name.contains("health")) {
        let found = ask(&mut client, MessageRequest::FileContainingSymbol(name.clone())).await;
        let MessageResponse::FileDescriptorResponse(files) = found else { panic!("{name}: {found:?}") };
        let mut pool = DescriptorPool::new();
        let mut files: Vec<_> = files
            .file_descriptor_proto
            .iter()
            .map(|bytes| prost_types::FileDescriptorProto::decode(&bytes[..]).unwrap())
            .collect();
        let mut at = 0;
        // Reflection gives one file; what it imports is asked for by name.
        while at < files.len() {
            for import in files[at].dependency.clone() {
                if !files.iter().any(|file| file.name() == import) {
                    let found = ask(&mut client, MessageRequest::FileByFilename(import)).await;
                    let MessageResponse::FileDescriptorResponse(more) = found else { panic!("{found:?}") };
                    files.extend(
                        more.file_descriptor_proto
                            .iter()
                            .map(|bytes| prost_types::FileDescriptorProto::decode(&bytes[..]).unwrap()),
                    );
                }
            }
            at += 1;
        }
        pool.add_file_descriptor_protos(files).unwrap();
        for method in pool.get_service_by_name(name).unwrap().methods() {
            let code = call(&channel, &method).await;
            let unexpected = [Code::Unimplemented, Code::Internal, Code::Unknown];
            assert!(!unexpected.contains(&code), "{} answers {code:?}", method.full_name());
            called += 1;
        }
    }
    assert!(called >= 20, "{called} methods");
}

/// Calls a method with an empty message; how it went.
async fn call(channel: &Channel, method: &MethodDescriptor) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = path.parse::<tonic::codegen::http::uri::PathAndQuery>().unwrap();
    let codec = Dynamic { output: method.output() };
    let input = tonic::Request::new(tokio_stream::iter([DynamicMessage::new(method.input())]));
    let called = async {
        if method.is_server_streaming() {
            match grpc.streaming(input, path, codec).await {
                Ok(answer) => match answer.into_inner().next().await {
                    Some(Err(status)) => status.code(),
                    Some(Ok(_)) | None => Code::Ok,
                },
                Err(status) => status.code(),
            }
        } else {
            grpc.client_streaming(input, path, codec).await.map_or_else(|status| status.code(), |_| Code::Ok)
        }
    };
    // A stream that has nothing to tell yet is open, which is an answer too.
    tokio::time::timeout(Duration::from_secs(5), called).await.unwrap_or(Code::Ok)
}
