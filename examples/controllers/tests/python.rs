//! The controller in Python passes the conformance suite, its drain included.
//!
//! `JOBGATE_PYTHON=path/to/python cargo test -p jobgate-examples --test python`, with a Python that has
//! `examples/python/requirements.txt` installed. Without it the test says so and is skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::{path::Path, process::Stdio};

use jobgate_sdk::testing::conformance::{self, Outcome};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

#[tokio::test]
async fn the_python_controller_conforms() {
    let Some(python) = std::env::var_os("JOBGATE_PYTHON") else {
        eprintln!("skipped: JOBGATE_PYTHON names no Python with examples/python/requirements.txt installed");
        return;
    };
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/controller.py");
    let mut child = Command::new(python)
        .arg(program)
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("JOBGATE_PYTHON is a Python");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.next_line().await.unwrap().expect("it prints its address");

    let id = child.id().unwrap().to_string();
    let target = conformance::Target::new(address).shut_down_by(async move {
        Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    });
    let report = conformance::run(target).await;
    eprintln!("{report}");
    let fine = |outcome: &Outcome| matches!(outcome, Outcome::Passed | Outcome::Skipped(_));
    assert!(report.checks().iter().all(|check| fine(check.outcome())), "{report}");
    assert!(child.wait().await.unwrap().success());
}
