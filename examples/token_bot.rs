//! Says hello once a second, in the name of an account: through an API that wants a good token every time.
//!
//! Part of the fleet in `tokens/`, which says how to run it.

use std::{error::Error, time::Duration};

use kissops_core::agent::{Agent, BotToken, shutdown_signal};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

const API: &str = "http://127.0.0.1:7790/helix/users";
const EVERY: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let account = std::env::args().nth(1).ok_or("usage: token_bot ACCOUNT")?;
    let agent = Agent::from_env()?;
    let shutdown = shutdown_signal()?;
    tokio::select! {
        () = shutdown => {
            agent.stopping()?;
            println!("good-bye");
            Ok(())
        }
        never = greet(&agent, &account) => never,
    }
}

async fn greet(agent: &Agent, account: &str) -> Result<(), Box<dyn Error>> {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = 0;
    loop {
        tick.tick().await;
        // The supervisor has it at hand, so what is used is never old.
        let mut token = agent.token("mock", account).await?;
        let mut name = who_am_i(&token).await;
        if matches!(name, Ok(None)) {
            println!("generation {} was refused", token.generation);
            token = agent.token_invalid("mock", account, token.generation).await?;
            name = who_am_i(&token).await;
        }
        match name {
            Ok(Some(name)) if token.generation != last => {
                println!("hello from {name}, generation {}", token.generation);
                agent.status(&format!("{name}, generation {}", token.generation))?;
                agent.ready()?;
                last = token.generation;
            }
            Ok(_) => {}
            Err(err) => println!("not now: {err}"),
        }
    }
}

/// The name that the API knows the token's owner by; `None` if it does not accept the token.
///
/// A real bot has an HTTP client; this one talks to a mock on the same machine.
async fn who_am_i(token: &BotToken) -> std::io::Result<Option<String>> {
    let api = std::env::var("API").unwrap_or_else(|_| API.to_owned());
    let (host, path) = api.trim_start_matches("http://").split_once('/').unwrap_or((&api, ""));
    let mut stream = TcpStream::connect(host).await?;
    let secret = token.token.expose_secret();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer {secret}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.split(' ').nth(1) {
        Some("200") => {
            let login = answer.split("\"login\":\"").nth(1).and_then(|rest| rest.split('"').next());
            Ok(login.map(str::to_owned))
        }
        Some("401") => Ok(None),
        _ => Err(std::io::Error::other("the API did not answer with 200")),
    }
}
