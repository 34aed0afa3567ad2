//! Compiles the protobuf messages with protox (no protoc needed), when the feature asks for them.

fn main() {
    println!("cargo::rerun-if-changed=src");
    #[cfg(feature = "messages")]
    messages();
}

#[cfg(feature = "messages")]
fn messages() {
    let files = ["src/link.proto", "src/api.proto"];
    let descriptors = protox::compile(files, ["src"]).unwrap_or_else(|error| panic!("{error:?}"));
    prost_build::Config::new()
        .btree_map(["."])
        .type_attribute(".gemcast.api", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)
        .unwrap_or_else(|error| panic!("generating code from {files:?}: {error}"));
}
