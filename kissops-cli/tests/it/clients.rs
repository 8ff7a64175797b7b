//! The one-file clients for Python and Node, each put through the same.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::bot_socket::{BotSocket, Mood};

const DEADLINE: Duration = Duration::from_secs(30);
const LANGUAGES: [(&str, &str); 2] = [("python3", "drive.py"), ("node", "drive.mjs")];

/// A bot in one of the languages that does what it is told.
struct Bot {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Bot {
    fn start(language: (&str, &str), socket: Option<&Path>, more: &[(&str, &str)]) -> Self {
        let (program, script) = language;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let mut command = Command::new(program);
        command.arg(folder.join(script));
        command.env_remove("NOTIFY_SOCKET").env_remove("KISSOPS_SOCKET");
        for (name, value) in more {
            command.env(name, value);
        }
        if let Some(socket) = socket {
            command.env("KISSOPS_SOCKET", socket);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("{program} is needed for this test: {err}"));
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, stdout: BufReader::new(stdout).lines() }
    }

    fn tell(&mut self, order: &Value) {
        writeln!(self.stdin, "{order}").unwrap();
    }

    fn answer(&mut self) -> Value {
        let line = self.stdout.next().expect("the bot has ended").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, order: &Value) -> Value {
        self.tell(order);
        let answer = self.answer();
        // Whatever becomes of it, no token is shown but where it is asked for.
        assert!(!answer["ok"]["shown"].to_string().contains("secret-"), "{order}: {answer}");
        assert!(!answer["text"].to_string().contains("secret-"), "{order}: {answer}");
        answer
    }

    fn ok(&mut self, order: &Value) -> Value {
        let answer = self.ask(order);
        assert_eq!(answer.get("error"), None, "{order}: {answer}");
        answer["ok"].clone()
    }

    /// The access token of an answer.
    fn access(&mut self, order: &Value) -> String {
        self.ok(order)["access"].as_str().unwrap().to_owned()
    }

    fn error(&mut self, order: &Value) -> String {
        let answer = self.ask(order);
        answer["error"].as_str().unwrap_or_else(|| panic!("{order}: {answer}")).to_owned()
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < DEADLINE, "{what} took too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// With a kissopsd of today, and with one that knows no streams.
fn in_each_language(test: impl Fn(&mut BotSocket, &mut Bot)) {
    for mood in [Mood::Good, Mood::Old] {
        in_each_language_while(mood, &test);
    }
}

fn in_each_language_while(mood: Mood, test: impl Fn(&mut BotSocket, &mut Bot)) {
    for language in LANGUAGES {
        println!("in {}, {mood:?}", language.0);
        let mut socket = BotSocket::new();
        socket.set(mood);
        let mut bot = Bot::start(language, Some(&socket.path()), &[]);
        test(&mut socket, &mut bot);
    }
}

const TOKEN: [&str; 3] = ["token", "twitch", "ann"];

#[test]
fn a_token_is_kept_and_replaced_by_the_next() {
    in_each_language(|socket, bot| {
        let first = bot.ok(&json!(TOKEN));
        assert_eq!((&first["access"], &first["generation"]), (&json!("secret-1"), &json!(1)));
        assert!(first["expires"].as_str().unwrap().starts_with("2099-01-02T03:04:05"), "{first}");
        until("the wait for the next", || socket.seen().waiting == 1);
        let asked = || {
            let seen = socket.seen();
            seen.requests.iter().filter(|(line, _)| line == "GET /v1/token/twitch/ann").count()
        };
        assert_eq!(bot.access(&json!(TOKEN)), "secret-1");
        assert_eq!(asked(), 1);
        bot.tell(&json!(["next"]));
        socket.rotate();
        assert_eq!(bot.answer()["ok"]["access"], "secret-2");
        assert_eq!(bot.access(&json!(TOKEN)), "secret-2");
        assert_eq!(asked(), 1);
        bot.tell(&json!(["next_async"]));
        socket.rotate();
        assert_eq!(bot.answer()["ok"]["access"], "secret-3");
        assert_eq!(bot.access(&json!(["token_async", "twitch", "ann"])), "secret-3");
        assert_eq!(bot.error(&json!(["next", 0.05])), "timeout");
    });
}

#[test]
fn a_refused_token_is_reported_once() {
    in_each_language(|socket, bot| {
        assert_eq!(bot.access(&json!(TOKEN)), "secret-1");
        assert_eq!(bot.access(&json!(["invalid"])), "secret-2");
        assert_eq!(bot.access(&json!(["invalid_async"])), "secret-3");
        assert_eq!(bot.access(&json!(TOKEN)), "secret-3");
        let reports = |socket: &BotSocket| {
            let seen = socket.seen();
            seen.requests.iter().filter(|(line, _)| line.ends_with("/invalid")).count()
        };
        assert_eq!(reports(socket), 2);
    });
}

#[test]
fn a_daemon_that_comes_back_is_found_again() {
    in_each_language(|socket, bot| {
        assert_eq!(bot.access(&json!(TOKEN)), "secret-1");
        until("the wait for the next", || socket.seen().waiting == 1);
        // Gone as a whole, with the connection that waits; what is known goes on.
        socket.close();
        assert_eq!(bot.access(&json!(TOKEN)), "secret-1");
        assert_eq!(bot.ok(&json!(["heartbeat"])), false);
        bot.tell(&json!(["next"]));
        socket.seen().generation = 5;
        socket.open();
        assert_eq!(bot.answer()["ok"]["access"], "secret-5");
        // There, but not answering.
        socket.set(Mood::Away);
        let before = socket.seen().connections;
        bot.tell(&json!(["restart", "new code"]));
        until("three tries", || socket.seen().connections >= before + 3);
        socket.set(Mood::Good);
        assert_eq!(bot.answer(), json!({"ok": null}));
        let restart = ("POST /v1/restart".to_owned(), "new code");
        let seen = socket.seen();
        let found =
            seen.requests.iter().any(|(line, body)| *line == restart.0 && body.contains(restart.1));
        assert!(found, "{:?}", seen.requests);
    });
}

#[test]
fn patience_ends() {
    for language in LANGUAGES {
        let socket = BotSocket::new();
        let mut bot = Bot::start(language, Some(&socket.path()), &[("PATIENCE", "0.2")]);
        for mood in [Mood::Away, Mood::Busy] {
            socket.set(mood);
            assert_eq!(bot.error(&json!(TOKEN)), "unavailable", "{language:?}");
        }
        socket.set(Mood::Nonsense);
        assert_eq!(bot.error(&json!(TOKEN)), "protocol", "{language:?}");
        let mut bot =
            Bot::start(language, Some(&socket.folder().join("none")), &[("PATIENCE", "0.2")]);
        assert_eq!(bot.error(&json!(TOKEN)), "unavailable", "{language:?}");
    }
}

#[test]
fn what_cannot_be_had_is_told_by_a_code() {
    in_each_language(|socket, bot| {
        assert_eq!(bot.error(&json!(["token", "twitch", "a/b c"])), "no_such_token");
        assert!(socket.seen().requests[0].0.ends_with("/v1/token/twitch/a%2Fb%20c"));
        socket.set(Mood::NeedsReauth);
        let answer = bot.ask(&json!(TOKEN));
        assert_eq!(answer["error"], "needs_reauth");
        assert_eq!(answer["text"], "about needs_reauth: do so");
        socket.set(Mood::Fenced);
        let before = socket.seen().connections;
        assert_eq!(bot.error(&json!(TOKEN)), "fenced");
        assert_eq!(socket.seen().connections, before + 1);
        socket.set(Mood::Good);
        assert_eq!(bot.access(&json!(TOKEN)), "secret-1");
        // A grant that dies while somebody waits may live again: the wait goes on.
        bot.tell(&json!(["next"]));
        until("the wait for the next", || socket.seen().waiting == 1);
        let asked = || socket.seen().requests.len();
        socket.set(Mood::NeedsReauth);
        let before = asked();
        until("another try", || asked() > before);
        socket.rotate();
        socket.set(Mood::Good);
        assert_eq!(bot.answer()["ok"]["access"], "secret-2");
    });
}

#[test]
fn a_hasty_answer_does_not_make_a_busy_loop() {
    in_each_language(|socket, bot| {
        socket.set(Mood::Hasty);
        assert_eq!(bot.access(&json!(TOKEN)), "secret-1");
        assert_eq!(bot.error(&json!(["next", 1])), "timeout");
        // Doubling from a tenth of a second: four tries in the first second, with room for a slow machine.
        let tries = socket.seen().connections;
        assert!((2..=8).contains(&tries), "{tries}");
        socket.rotate();
        bot.tell(&json!(["next"]));
        assert_eq!(bot.answer()["ok"]["access"], "secret-2");
    });
}

#[test]
fn metrics_are_pushed_as_open_metrics() {
    in_each_language(|socket, bot| {
        assert_eq!(bot.ok(&json!(["metrics"])), true);
        let (line, body) = socket.seen().requests[0].clone();
        assert_eq!(line, "POST /v1/metrics");
        let expected = "# TYPE served counter\n# HELP served lines, \\\"all\\\"\nserved_total 1\n\
                        served_total{channel=\"a\\\"b\\\\c\\nd\"} 2\n# TYPE open_channels gauge\nopen_channels 2.5\n# EOF\n";
        assert_eq!(body, expected);
        assert!(
            bot.ok(&json!(["wrong_metric"])).as_str().unwrap().contains("no name for a metric")
        );
    });
}

#[test]
fn the_bots_life_is_told_over_the_socket() {
    in_each_language(|socket, bot| {
        assert_eq!(bot.ok(&json!(["supervised"])), true);
        assert_eq!(bot.ok(&json!(["ready", "in 42\nchannels"])), true);
        assert_eq!(bot.ok(&json!(["status", "fine"])), true);
        assert_eq!(bot.ok(&json!(["heartbeat"])), true);
        assert_eq!(bot.ok(&json!(["stopping"])), true);
        let seen = socket.seen();
        let told: Vec<(&str, Value)> = seen
            .requests
            .iter()
            .map(|(line, body)| (line.as_str(), serde_json::from_str(body).unwrap()))
            .collect();
        let expected = [
            ("POST /v1/ready", json!({"status": "in 42 channels"})),
            ("POST /v1/status", json!({"status": "fine"})),
            ("POST /v1/heartbeat", json!({"ok": true})),
            ("POST /v1/stopping", json!({})),
        ];
        assert_eq!(told, expected);
    });
}

#[test]
fn without_a_supervisor_the_bot_runs_and_has_no_tokens() {
    for language in LANGUAGES {
        let mut bot = Bot::start(language, None, &[]);
        for order in
            [json!(["supervised"]), json!(["ready"]), json!(["status", "x"]), json!(["heartbeat"])]
        {
            assert_eq!(bot.ok(&order), false, "{language:?}");
        }
        assert_eq!(bot.ok(&json!(["metrics"])), false);
        let answer = bot.ask(&json!(TOKEN));
        assert_eq!(answer["error"], "not_supervised");
        assert!(answer["text"].as_str().unwrap().contains("KISSOPS_SOCKET"), "{answer}");
        assert_eq!(bot.error(&json!(["restart", "x"])), "not_supervised");
    }
}

#[test]
fn python_speaks_the_notify_protocol_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let name = format!("kissops-client-test-{}", std::process::id());
    let sockets = [
        (path.to_str().unwrap().to_owned(), SocketAddr::from_pathname(&path).unwrap()),
        (format!("@{name}"), SocketAddr::from_abstract_name(&name).unwrap()),
    ];
    for (address, bound) in sockets {
        let listener = UnixDatagram::bind_addr(&bound).unwrap();
        listener.set_read_timeout(Some(DEADLINE)).unwrap();
        let more = [("NOTIFY_SOCKET", &*address), ("WATCHDOG_USEC", "1000000")];
        let mut bot = Bot::start(LANGUAGES[0], None, &more);
        for order in [
            json!(["ready", "two\nlines"]),
            json!(["status", "s"]),
            json!(["heartbeat"]),
            json!(["stopping"]),
        ] {
            assert_eq!(bot.ok(&order), true);
        }
        let got: Vec<String> = (0..4)
            .map(|_| {
                let mut buffer = [0; 200];
                let length = listener.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            })
            .collect();
        assert_eq!(got, ["READY=1\nSTATUS=two lines", "STATUS=s", "WATCHDOG=1", "STOPPING=1"]);
    }
}

#[test]
fn python_finds_a_socket_with_an_abstract_name() {
    let name = format!("kissops-client-test-{}-socket", std::process::id());
    let _socket = BotSocket::named(&name);
    let mut bot = Bot::start(LANGUAGES[0], Some(Path::new(&format!("@{name}"))), &[]);
    assert_eq!(bot.access(&json!(TOKEN)), "secret-1");
}

#[test]
fn one_stream_brings_the_tokens_of_many_accounts() {
    in_each_language_while(Mood::Good, |socket, bot| {
        for account in 0..20 {
            let order = json!(["token", "twitch", format!("ann{account}")]);
            assert_eq!(bot.access(&order), "secret-1");
        }
        until("the stream", || socket.seen().waiting == 1);
        socket.rotate();
        for account in 0..20 {
            let order = json!(["token", "twitch", format!("ann{account}")]);
            until("the next of each", || bot.access(&order) == "secret-2");
        }
        let seen = socket.seen();
        assert_eq!((seen.most_waiting, seen.requests.len()), (1, 21));
    });
}

#[test]
fn many_accounts_take_turns_at_waiting_for_an_old_daemon() {
    in_each_language_while(Mood::Old, |socket, bot| {
        for account in 0..20 {
            let order = json!(["token", "twitch", format!("ann{account}")]);
            assert_eq!(bot.access(&order), "secret-1");
        }
        until("as many waits as there may be", || socket.seen().waiting == 8);
        assert_eq!(bot.ok(&json!(["heartbeat"])), true);
        socket.rotate();
        assert_eq!(bot.access(&json!(["next"])), "secret-2");
        until("as many waits as there may be, anew", || socket.seen().waiting == 8);
        assert_eq!(socket.seen().most_waiting, 8);
        for account in 0..20 {
            let order = json!(["token", "twitch", format!("ann{account}")]);
            until("its turn", || bot.access(&order) == "secret-2");
        }
    });
}
