//! `agent::shutdown_signal`, in a process of its own: signals are the whole process' affair.

use std::process::Stdio;

use kissops_core::agent::shutdown_signal;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

const CHILD: &str = "KISSOPS_TEST_SHUTDOWN_CHILD";

/// Runs only in the process that the test below starts.
#[tokio::test]
async fn shutdown_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let shutdown = shutdown_signal().unwrap();
    println!("\nlistening");
    shutdown.await;
    println!("\nshut down");
}

#[tokio::test]
async fn a_shutdown_signal_resolves_instead_of_killing() {
    for signal in ["TERM", "INT"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent::shutdown_child", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.next_line().await.unwrap().unwrap() != "listening" {}
        let pid = child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().await.unwrap();
        assert!(sent.success());
        let mut seen = false;
        while let Some(line) = lines.next_line().await.unwrap() {
            seen |= line == "shut down";
        }
        assert!(seen && child.wait().await.unwrap().success(), "SIG{signal}");
    }
}

#[test]
fn outside_of_a_runtime_it_is_an_error() {
    let err = shutdown_signal().err().unwrap();
    assert!(err.to_string().contains("runtime"), "{err}");
}
