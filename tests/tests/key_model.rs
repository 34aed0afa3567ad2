//! The life of keys as a model that is searched exhaustively: tests/model/keys.pml, by Spin.

use std::path::Path;
use std::process::Command;

/// Searches every interleaving of one variant of the model.
fn search(claim: &str, compile: &[&str], run: &[&str]) -> String {
    let directory = std::env::temp_dir().join(format!("gemcast-model-{}-{claim}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/keys.pml");
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&directory).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    output("spin", &["-a", &format!("-D{claim}"), model.to_str().expect("a path of ours")]);
    output("gcc", &[&["-w", "-O2", "-o", "pan", "pan.c"], compile].concat());
    let found = output(directory.join("pan").to_str().expect("a path of ours"), run);
    std::fs::remove_dir_all(&directory).expect("the directory is ours");
    assert!(found.contains("errors: 0"), "{found}");
    assert!(!found.contains("max search depth too small"), "{found}");
    found
}

#[test]
fn r1_whatever_dies_no_counter_seals_twice() {
    search("COUNTING", &["-DSAFETY"], &["-E", "-m100000", "-n"]);
}

#[test]
fn r1_who_is_left_out_gets_nothing_in_and_nothing_back() {
    search("REVOKING", &["-DSAFETY"], &["-E", "-m100000", "-n"]);
}

#[test]
fn r1_source_and_member_converge_on_the_new_group_key() {
    search("LIVENESS", &["-DNFAIR=4", "-DCOLLAPSE"], &["-a", "-f", "-m1000000", "-n"]);
}
