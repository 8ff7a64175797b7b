//! A chat bot in Rust that runs well under a supervisor: it says when it is ready, what it is doing and that it stops.
//!
//! Run it in the fleet beside it, or alone: `cargo run --example echo_bot -- <socket of the chat server>`.

use std::{error::Error, time::Duration};

use kissops_core::{
    Backoff,
    agent::{Agent, shutdown_signal},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| ".kissops/chat.sock".into());
    let agent = Agent::from_env()?;
    let shutdown = shutdown_signal()?;
    tokio::select! {
        () = shutdown => {
            agent.stopping()?;
            println!("asked to stop: good-bye");
            Ok(())
        }
        never = stay_in_chat(&path, &agent) => never,
    }
}

/// Comes back whenever the server goes away.
async fn stay_in_chat(path: &str, agent: &Agent) -> Result<(), Box<dyn Error>> {
    let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5))?;
    let mut failures = 0;
    loop {
        match chat(path, agent, &mut failures).await {
            Ok(()) => println!("the server closed the connection"),
            Err(err) => println!("no chat: {err}"),
        }
        tokio::time::sleep(backoff.delay(failures)).await;
        failures += 1;
    }
}

async fn chat(path: &str, agent: &Agent, failures: &mut u32) -> Result<(), Box<dyn Error>> {
    let (reader, mut writer) = UnixStream::connect(path).await?.into_split();
    writer.write_all(b"NICK echo\nJOIN #lobby\n").await?;
    *failures = 0;
    println!("joined #lobby");
    agent.ready()?;
    agent.status("in #lobby, 0 lines echoed")?;
    let mut lines = BufReader::new(reader).lines();
    let mut echoed = 0_u64;
    while let Some(line) = lines.next_line().await? {
        if let Some(token) = line.strip_prefix("PING ") {
            writer.write_all(format!("PONG {token}\n").as_bytes()).await?;
        } else if let Some((_, text)) = line.split_once(" PRIVMSG #lobby :!echo ") {
            writer.write_all(format!("PRIVMSG #lobby :{text}\n").as_bytes()).await?;
            echoed += 1;
            println!("echoed: {text}");
            agent.status(&format!("in #lobby, {echoed} lines echoed"))?;
        }
    }
    Ok(())
}
