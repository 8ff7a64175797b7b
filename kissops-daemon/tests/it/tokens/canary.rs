//! A bot that gives its token away, and a provider that repeats what it was sent: none of it may be found anywhere.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kissops_mock_provider::{ImportRow, Knobs, Scope, TokenStyle};
use serde_json::json;

use super::{CLIENT_SECRET, KEY, Stage, built, repository};
use crate::harness::{is_root, until};

/// So much of a secret's end is looked for: it is the same in a form, in JSON and in an address.
const TAIL: usize = 16;

/// What must not be found, by name.
struct Canaries(Vec<(String, Vec<u8>)>);

impl Canaries {
    fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let each = secrets.into_iter().flat_map(|(name, secret)| {
            let tail = &secret[secret.len() - TAIL..];
            // Wherever it stands in a longer text, its inner bytes come out as one of these three.
            let coded = (0..3).map(|at| {
                let text = format!("{}{tail}", &"000"[..at]);
                let code = BASE64_STANDARD.encode(&text[..text.len() / 3 * 3]);
                code[if at == 0 { 0 } else { 4 }..].to_owned()
            });
            let each: Vec<_> = coded.chain([tail.to_owned()]).collect();
            each.into_iter().map(move |text| (name.to_owned(), text.into_bytes()))
        });
        Self(each.collect())
    }

    /// What of it is in a text, with its surroundings.
    fn in_text(&self, place: &str, text: &[u8]) -> Vec<String> {
        let found = self.0.iter().filter_map(|(name, canary)| {
            let at = text.windows(canary.len()).position(|part| part == canary)?;
            let around = &text[at.saturating_sub(60)..(at + 60).min(text.len())];
            Some(format!("{name} in {place}: …{}…", String::from_utf8_lossy(around)))
        });
        found.collect()
    }

    /// In every file below a folder, whole and unpacked.
    fn below(&self, folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                found.extend(self.below(&path));
            } else if kind.is_file() {
                let Ok(bytes) = fs::read(&path) else { continue };
                let place = path.display().to_string();
                found.extend(self.in_text(&place, &bytes));
                if place.ends_with(".zst") {
                    let plain = zstd::decode_all(&bytes[..]).unwrap();
                    found.extend(self.in_text(&place, &plain));
                }
            }
        }
        found
    }

    /// In a process: its arguments, and its environment but for the variables that it has asked for.
    fn in_process(&self, who: &str, pid: i32, asked_for: &str) -> Vec<String> {
        let read = |what: &str| fs::read(format!("/proc/{pid}/{what}"));
        let arguments = read("cmdline").unwrap();
        let mut found = self.in_text(&format!("{who}'s arguments"), &arguments);
        // Only its own user and root can read it, and of a shielded process root alone.
        let environment = read("environ").unwrap_or_default();
        let asked_for = format!("{asked_for}=");
        for variable in environment.split(|byte| *byte == 0) {
            if !variable.starts_with(asked_for.as_bytes()) {
                found.extend(self.in_text(&format!("{who}'s environment"), variable));
            }
        }
        found
    }
}

/// A provider that says back whatever it was sent, once in every shape of an answer.
struct Parrot {
    address: String,
    heard: Arc<Mutex<u32>>,
}

impl Parrot {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(0));
        let count = Arc::clone(&heard);
        // Ends with the test's process: it holds nothing but a port.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut nth = count.lock().unwrap();
                if answer(stream, *nth).is_ok() {
                    *nth += 1;
                }
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> u32 {
        *self.heard.lock().unwrap()
    }
}

fn answer(mut stream: TcpStream, nth: u32) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let said = String::from_utf8_lossy(&body).into_owned();
    let (status, kind, text) = match nth % 4 {
        0 => ("503 Service Unavailable", "text/html", format!("<h1>cannot serve {said}</h1>")),
        1 => {
            let told = json!({ "status": 400, "error": said, "message": said });
            ("400 Bad Request", "application/json", told.to_string())
        }
        2 => ("200 OK", "application/json", format!("{{\"access_token\": {said}")),
        _ => {
            let told = json!({ "error": "invalid_grant", "error_description": said });
            ("400 Bad Request", "application/json", told.to_string())
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nx-echo: {said}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn leaky() -> String {
    let script = repository("kissops-daemon/tests/it/tokens/leaky.py");
    let clients = repository("kissops-cli/clients");
    format!(
        "[instance.leaky]\ncommand = [\"python3\", {script:?}, {clients:?}]\ntokens = [\"mock/ann\"]\n\
         token_env = {{ LEAKED = \"mock/ann\" }}\nready = {{ notify = true }}\nstop = {{ grace = \"1s\" }}\n\
         backoff = {{ base = \"10ms\", cap = \"10ms\" }}\nlogs = {{ rotate_size = \"4KB\", keep = 100, compress = true }}\n"
    )
}

/// SUP-22, VLT-1, VLT-2, VLT-11: not in a log, an event, a report, a file, a process, or an answer.
#[test]
fn what_a_bot_and_a_provider_give_away_is_found_nowhere() {
    let parrot = Parrot::start();
    let mut stage = Stage::new(&format!(
        "[vault.provider.parrot]\ntoken_url = \"http://{}/token\"\nrotation = \"reusable\"\n\
         client_id = \"kiss\"\nclient_secret = {{ file = \"client.secret\" }}\n{}",
        parrot.address,
        leaky()
    ));
    let knobs = Knobs { token_style: Some(TokenStyle::Awkward), ..Knobs::default() };
    stage.mock.set(&Scope::All, knobs).unwrap();
    let mut rows = stage.accounts(&["ann", "bob"]);
    rows.push(ImportRow {
        provider: "parrot".into(),
        account: "eve".into(),
        access_token: "parrot+access/5e1f0c9a7b3d2468".into(),
        refresh_token: "parrot+refresh/90b7c1e5d3f82a64".into(),
        ..rows[0].clone()
    });
    stage.site.start();
    stage.import(&rows);
    stage.site.until_ready("leaky");
    let crash = stage.site.until_crash("leaky", |crash| crash["code"] == 1);
    assert!(crash.to_string().contains("cannot log in with"), "{crash}");
    let child = stage.site.until_line("leaky", "child ");
    let mut errors = String::new();
    for nth in 1..=6 {
        let (_, error) = stage.site.ask("POST", "/v1/tokens/parrot/eve/refresh", None);
        errors.push_str(&error.to_string());
        until("the provider was asked", || parrot.heard() >= nth.min(2));
    }
    stage.refresh("bob");
    let bob = stage.revealed("bob");

    let named = rows.iter().flat_map(|row| {
        [("an access token", row.access_token.as_str()), ("a refresh token", &row.refresh_token)]
    });
    let others = [("the client's secret", CLIENT_SECRET), ("the key", KEY), ("a new token", &bob)];
    let canaries = Canaries::new(named.chain(others));
    let mut found = canaries.in_text("errors of refreshes", errors.as_bytes());
    for folder in ["logs", "state", "run"] {
        found.extend(canaries.below(&stage.site.path(folder)));
    }
    found.extend(canaries.in_text("the daemon's log", stage.site.log().as_bytes()));
    found.extend(in_answers(&stage, &canaries));
    found.extend(in_commands(&stage, &canaries));
    found.extend(in_processes(&stage, &canaries, child.trim_start_matches("child ")));
    assert!(found.is_empty(), "{found:#?}");
    // It was looked for in the right places.
    let unpacked = fs::read_dir(stage.site.path("logs")).unwrap().flatten();
    assert!(unpacked.count() > 0);
    assert!(stage.site.lines("leaky").iter().any(|line| line.starts_with("plain ")));
    stage.site.stop("leaky");
}

fn in_answers(stage: &Stage, canaries: &Canaries) -> Vec<String> {
    let paths = [
        "/v1/status",
        "/v1/events?limit=1000",
        "/v1/crashes",
        "/v1/instances/leaky",
        "/v1/logs?since=1d",
        "/v1/tokens",
        "/v1/tokens/parrot/eve",
        "/v1/tokens/mock/ann",
        "/v1/vault",
        "/v1/secrets",
        "/metrics",
    ];
    let each = paths.into_iter().flat_map(|path| {
        let (_, text) = stage.site.try_ask("GET", path, None).unwrap();
        canaries.in_text(path, text.as_bytes())
    });
    each.collect()
}

fn in_commands(stage: &Stage, canaries: &Canaries) -> Vec<String> {
    let Some(kissops) = built("kissops") else { return Vec::new() };
    let commands = [
        "status",
        "events",
        "crashes leaky",
        "describe leaky",
        "logs leaky",
        "token list",
        "token show parrot eve",
        "token refresh parrot eve",
        "vault status",
        "secret list",
        "check",
    ];
    let each = commands.into_iter().flat_map(|command| ["", "--json"].map(|form| (command, form)));
    let each = each.flat_map(|(command, form)| {
        let config = stage.site.path("kissops.toml");
        let arguments = command.split(' ').chain([form]).filter(|word| !word.is_empty());
        let ran = Command::new(&kissops).args(arguments).arg("--config").arg(config).output();
        let ran = ran.unwrap();
        assert!(
            ran.status.code() != Some(2),
            "{command}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        [ran.stdout, ran.stderr].map(|text| canaries.in_text(&format!("{command} {form}"), &text))
    });
    each.flatten().collect()
}

/// The bot's own child has it among its arguments, because the bot has put it there.
fn in_processes(stage: &Stage, canaries: &Canaries, child: &str) -> Vec<String> {
    let of_us = [
        ("kissopsd", stage.site.pid()),
        ("the keeper", stage.site.keeper().unwrap()),
        ("the exchanger", stage.site.exchanger().unwrap()),
        ("the bot", stage.site.bot("leaky")),
    ];
    let mut found = Vec::new();
    for (who, pid) in of_us {
        let asked_for = if who == "the bot" { "LEAKED" } else { "" };
        found.extend(canaries.in_process(who, pid, asked_for));
    }
    let child = canaries.in_process("the child", child.trim().parse().unwrap(), "LEAKED");
    assert_eq!(child.len(), 1, "the search finds what is there: {child:?}");
    found
}

/// VLT-2: no core dump, no debugger, no `/proc/PID/mem` and `/proc/PID/environ` of others of the same user.
#[test]
fn nobody_looks_into_the_memory_of_who_has_keys() {
    let mut stage = Stage::new("[instance.bot]\ncommand = [\"sleep\", \"1000\"]\n");
    if is_root() {
        // Everything of root's belongs to root anyway.
        stage.site.become_nobody();
    }
    stage.site.start();
    stage.import(&stage.accounts(&["ann"]));
    stage.refresh("ann");
    let shielded =
        [("kissopsd", stage.site.pid()), ("the exchanger", stage.site.exchanger().unwrap())];
    for (who, pid) in shielded {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{who}: {core}");
        let owner = |what: &str| fs::metadata(format!("/proc/{pid}/{what}")).unwrap().uid();
        assert_ne!(owner(""), 0, "{who} is no process of root's");
        assert_eq!((owner("environ"), owner("mem")), (0, 0), "{who} is open to its user");
    }
    let bot = stage.site.bot("bot");
    let limits = fs::read_to_string(format!("/proc/{bot}/limits")).unwrap();
    assert!(limits.contains("Max core file size        0 "), "a bot has tokens, too: {limits}");
}
