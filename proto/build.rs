//! Compiles the .proto files with protox, so that no protoc has to be installed.

use std::env;
use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &[
    "proto/holdfast/v1/cluster.proto",
    "proto/holdfast/v1/control.proto",
    "proto/holdfast/v1/app.proto",
    "proto/holdfast/v1/session.proto",
    "proto/holdfast/v1/cache.proto",
    "proto/holdfast/v1/balancer.proto",
    "proto/holdfast/peer/v1/peer.proto",
    "proto/holdfast/peer/v1/state.proto",
    "proto/holdfast/log/v1/session.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let rpc = env::var_os("CARGO_FEATURE_RPC").is_some();
    tonic_prost_build::configure()
        .build_client(rpc)
        .build_server(rpc)
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        // The operator's messages are also the JSON that `--json` and `/v1/status` print: one
        // definition, snake_case keys, for both.
        .type_attribute(".holdfast.v1", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
