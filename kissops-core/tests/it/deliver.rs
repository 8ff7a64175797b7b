//! Tokens over the sockets of instances: VLT-11, and instances that wait for their grants: VLT-8.

#![expect(clippy::unwrap_used, reason = "the functions around the tests are tests, too")]

mod fake;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
        net::UnixStream,
    },
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use fake::FakeVault;
use kissops_core::{
    agent::Agent,
    clock,
    redact::Redactor,
    store::{GrantState, Store, sqlite::SqliteStore},
    supervisor::{
        Definition, Leave, Live, LiveCheck, Ready, ReadyCheck, StateName, Supervisor, TokenPolicy,
    },
    vault::{
        Reauth,
        deliver::{Delivery, DeliveryOptions},
    },
};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const LIMIT: Duration = Duration::from_secs(30);

/// A bot that does what its `SCRIPT` says, with `ask` for requests and `note` for what the test is to see.
const BOT: &str = r"
import json, os, socket, subprocess, sys, time
def raw(text, at=os.environ.get('KISSOPS_SOCKET', '')):
    s = socket.socket(socket.AF_UNIX)
    s.connect(at.replace('@', '\0') if at.startswith('@') else at)
    s.sendall(text)
    data = b''
    while True:
        part = s.recv(65536)
        if not part: break
        data += part
    head, _, body = data.partition(b'\r\n\r\n')
    return int(head.split()[1]), json.loads(body) if body else None
def ask(method, path, body='', **more):
    body = body if isinstance(body, str) else json.dumps(body)
    head = f'{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n'
    return raw(head.encode() + body.encode(), **more)
def note(name, value):
    with open(name + '.part', 'w') as f: json.dump(value, f)
    os.rename(name + '.part', name)
exec(os.environ['SCRIPT'])
time.sleep(1000)
";

struct World {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    vault: Arc<FakeVault>,
    redactor: Arc<Redactor>,
    delivery: Delivery,
    reauth: Reauth,
    supervisor: Supervisor,
    tasks: TaskTracker,
    ending: CancellationToken,
}

impl World {
    async fn new(fleet: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        let world = Self::empty();
        world.begin(fleet.into_iter().map(|(name, script)| world.bot(name, script))).await;
        world
    }

    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let vault = FakeVault::new(Arc::clone(&store));
        let redactor = Arc::new(Redactor::new());
        let reauth = Reauth::new(Arc::<dyn Store>::clone(&store));
        let delivery = Self::delivery(&dir, &vault, &redactor, &reauth);
        let supervisor = Supervisor::builder(Arc::<dyn Store>::clone(&store))
            .redactor(Arc::clone(&redactor))
            .log_dir(dir.path().join("logs"))
            .runtime_dir(dir.path())
            .equip(Arc::new(delivery.clone()))
            .build()
            .unwrap();
        delivery.attach(&supervisor);
        let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
        Self { dir, store, vault, redactor, delivery, reauth, supervisor, tasks, ending }
    }

    fn delivery(
        dir: &tempfile::TempDir,
        vault: &Arc<FakeVault>,
        redactor: &Arc<Redactor>,
        reauth: &Reauth,
    ) -> Delivery {
        Delivery::new(DeliveryOptions {
            runtime_dir: dir.path().to_owned(),
            fleet: "test".into(),
            redactor: Arc::clone(redactor),
            vault: Some(Arc::<FakeVault>::clone(vault)),
            reauth: Some(reauth.clone()),
        })
        .unwrap()
    }

    /// An instance that runs [`BOT`] in a folder of its own.
    fn bot(&self, name: &str, script: &str) -> Definition {
        let mut bot = Definition::new(name, ["python3", "-c", BOT]).unwrap();
        bot.env.insert("SCRIPT".into(), kissops_core::supervisor::EnvValue::Plain(script.into()));
        bot.cwd = self.dir.path().join(name);
        fs::create_dir_all(&bot.cwd).unwrap();
        bot.tokens = vec!["twitch/ada".parse().unwrap(), "own/a/b".parse().unwrap()];
        bot.token_policy = TokenPolicy::Run;
        bot
    }

    async fn begin(&self, fleet: impl IntoIterator<Item = Definition>) {
        self.supervisor.begin(fleet.into_iter().collect()).await.unwrap();
        self.delivery.rebind().await;
        let vault = Arc::<FakeVault>::clone(&self.vault);
        let watch = self.reauth.clone().watch(self.supervisor.clone(), vault, self.ending.clone());
        self.tasks.spawn(watch);
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join("b").join(format!("{name}.sock"))
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let states = self.supervisor.status();

            assert!(begun.elapsed() < LIMIT, "{what}: {states:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What a bot has noted.
    async fn noted(&self, bot: &str, name: &str) -> Value {
        let path = self.dir.path().join(bot).join(name);
        let read = || serde_json::from_slice(&fs::read(&path).ok()?).ok();
        self.until(&format!("{bot} {name}"), read).await
    }

    async fn reaches(&self, bot: &str, state: StateName) -> String {
        let look = || {
            let status = self.supervisor.instance(&bot.parse().unwrap()).unwrap();
            (status.state == state).then_some(status.reason)
        };
        self.until(&format!("{bot} {state}"), look).await
    }

    async fn end(self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.supervisor.shutdown(Leave::Stopped).await;
        self.delivery.close().await;
        assert_eq!(fs::read_dir(self.dir.path().join("b")).unwrap().count(), 0);
    }
}

/// Asks as a process that is none of any instance's.
fn ask(socket: &PathBuf, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.get(9..12).unwrap().parse().unwrap(), answer)
}

const GET: &str = "GET /v1/token/twitch/ada HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_a_bot_reads_its_own_tokens_and_learns_of_no_others() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    world.vault.give("twitch/eve", "token-of-eve-1").await;
    let script = r"
note('list', ask('GET', '/v1/tokens'))
note('first', ask('GET', '/v1/token/twitch/ada'))
note('foreign', [ask('GET', '/v1/token/twitch/' + who) for who in ('eve', 'bob', 'ada%2Feve')])
note('missing', ask('GET', '/v1/token/own/a%2Fb'))
note('none_yet', ask('GET', '/v1/token/twitch/ada?after=1&wait=50ms'))
note('old', ask('POST', '/v1/token/twitch/ada/invalid', {'generation': 0}))
note('waiting', True)
note('second', ask('GET', '/v1/token/twitch/ada?after=1&wait=60s'))
note('invalid', ask('POST', '/v1/token/twitch/ada/invalid', {'generation': 2}))
note('odd', [ask('GET', '/v1/tokens/x')[0], ask('POST', '/v1/tokens')[0], ask('POST', '/v1/token/twitch/ada/invalid', 'x')[0]])
";
    world.begin([world.bot("bot", script)]).await;
    let list = world.noted("bot", "list").await;
    assert_eq!(list[1]["tokens"][0]["account"], "ada");
    assert_eq!(list[1]["tokens"][1]["state"], "pending");
    let first = world.noted("bot", "first").await;
    assert_eq!(first[0], 200);
    assert_eq!(first[1]["access_token"], "token-of-ada-1");
    assert_eq!(
        (&first[1]["generation"], &first[1]["expires_at"]),
        (&1.into(), &"2027-01-15T08:00:00.000000Z".into())
    );
    let foreign = world.noted("bot", "foreign").await;
    let shown = |nth: usize, name: &str| foreign[nth].to_string().replace(name, "X");
    assert_eq!(foreign[0][0], 404);
    assert_eq!(shown(0, "eve"), shown(1, "bob"), "whether it exists must not show");
    assert_eq!(foreign[2][1]["code"], "no_such_token");
    let missing = world.noted("bot", "missing").await;
    assert_eq!((&missing[0], &missing[1]["code"]), (&409.into(), &"needs_reauth".into()));
    assert!(missing[1]["help"].as_str().unwrap().contains("kissops token authorize own a/b"));
    assert_eq!(world.noted("bot", "none_yet").await[0], 204);
    assert_eq!(world.noted("bot", "old").await[1]["generation"], 1);
    world.noted("bot", "waiting").await;
    world.vault.give("twitch/ada", "token-of-ada-2").await;
    assert_eq!(world.noted("bot", "second").await[1]["access_token"], "token-of-ada-2");
    assert_eq!(world.noted("bot", "invalid").await[1]["access_token"], "after-2");
    assert_eq!(world.noted("bot", "odd").await, serde_json::json!([404, 405, 400]));
    world.vault.refuse("twitch/ada").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_only_processes_of_the_instance_are_answered() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    let own = r"
note('own', ask('GET', '/v1/token/twitch/ada')[0])
child = 'import os; exec(os.environ[\'CODE\']); note(\'child\', ask(\'GET\', \'/v1/token/twitch/ada\')[0])'
code = open('/proc/self/cmdline').read().split('\0')[2].split('exec(')[0]
subprocess.run([sys.executable, '-c', child], env={**os.environ, 'CODE': code}, start_new_session=True)
";
    let thief = r"

path = os.environ['KISSOPS_SOCKET'].replace('thief', 'bot')
note('theft', ask('GET', '/v1/token/twitch/ada', at=path))
";
    world.begin([world.bot("bot", own)]).await;
    assert_eq!(world.noted("bot", "own").await, 200);
    assert_eq!(world.noted("bot", "child").await, 200);
    let bot = world.bot("bot", own);
    world.supervisor.apply(vec![bot, world.bot("thief", thief)]).await.unwrap();
    let theft = world.noted("thief", "theft").await;
    assert_eq!((&theft[0], &theft[1]["code"]), (&403.into(), &"not_this_instance".into()));
    let socket = world.socket("bot");
    let (status, answer) = tokio::task::spawn_blocking(move || ask(&socket, GET)).await.unwrap();
    assert_eq!(status, 403);
    assert!(!answer.contains("token-of"), "{answer}");
    assert_eq!(world.delivery.counts().refused, 2);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(world.dir.path().join("b")), mode(world.socket("bot"))), (0o700, 0o600));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_what_a_bot_says_is_heard() {
    let world = World::empty();
    let script = r"
note('begun', os.environ['KISSOPS_INSTANCE'])
note('bad', ask('POST', '/v1/metrics', 'a{')[1]['detail'])
note('large', [ask('POST', '/v1/metrics', 'x' * ((1 << 20) + 1))[0], ask('POST', '/v1/status', 'x' * 70000)[0]])
note('metrics', ask('POST', '/v1/metrics', '# TYPE seen counter\nseen_total{by=\'x\'} 3\n'.replace(chr(39), chr(34)))[0])
note('ready', ask('POST', '/v1/ready', {'status': 'all well'})[0])
if os.path.exists('restart'): time.sleep(1000)
note('restart', True)
ask('POST', '/v1/restart', {'reason': 'a new version'})
";
    let mut bot = world.bot("bot", script);
    bot.ready = Some(Ready { check: ReadyCheck::Notify, within: LIMIT });
    world.begin([bot]).await;
    assert_eq!(world.noted("bot", "begun").await, "bot");
    assert!(world.noted("bot", "bad").await.as_str().unwrap().starts_with("line 1:"));
    assert_eq!(world.noted("bot", "large").await, serde_json::json!([413, 413]));
    assert_eq!(world.noted("bot", "ready").await, 204);
    world.reaches("bot", StateName::Running).await;
    let name = "bot".parse().unwrap();
    let text = || world.supervisor.instance(&name).unwrap().status_text;
    world.until("its status", || (text().as_deref() == Some("all well")).then_some(())).await;
    let metrics = world.delivery.metrics(&name).unwrap();
    assert_eq!(metrics.families["seen"].series[0].labels["by"], "x");
    let again = || {
        let status = world.supervisor.instance(&name).unwrap();
        (status.state == StateName::Running && status.restarts == 1).then_some(status)
    };
    let status = world.until("another process", again).await;
    assert!(status.last_exit.unwrap().reason.contains("SIGTERM"), "it was stopped like any other");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_a_heartbeat_on_the_socket_keeps_a_bot_alive_and_its_end_is_noticed() {
    let world = World::empty();
    let script = r"
for n in range(15):
    note('beat', ask('POST', '/v1/heartbeat')[0])
    time.sleep(0.1)
note('silent', time.time())
";
    let mut bot = world.bot("bot", script);
    let path = bot.cwd.join("never-written");
    let check = LiveCheck::Heartbeat { path, max_age: Duration::from_millis(600) };
    bot.live = vec![Live { check, failures: 1.try_into().unwrap() }];
    world.begin([bot]).await;
    world.noted("bot", "silent").await;
    let name = "bot".parse().unwrap();
    assert_eq!(world.supervisor.instance(&name).unwrap().restarts, 0, "it was alive until then");
    let again = || (world.supervisor.instance(&name).unwrap().restarts > 0).then_some(());
    world.until("a restart", again).await;
    world.end().await;
}

/// The same for a program of another language: it writes what it was answered to `token`.
const NODE: &str = r"
const http = require('node:http'), fs = require('node:fs');
http.get({ socketPath: process.env.KISSOPS_SOCKET, path: '/v1/token/twitch/ada' }, (answer) => {
  let text = '';
  answer.on('data', (part) => (text += part));
  answer.on('end', () => {
    fs.writeFileSync('part', JSON.stringify([answer.statusCode, JSON.parse(text)]));
    fs.renameSync('part', 'token');
  });
});
setTimeout(() => {}, 1e9);
";

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_bots_of_another_user_reach_their_sockets_and_no_others() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start an instance as another user");
        return;
    }
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    let of_nobody = |name: &str, command: &[&str]| {
        let script = "note('token', ask('GET', '/v1/token/twitch/ada'))";
        let mut bot = world.bot(name, script);
        bot.command = command.iter().map(|part| (*part).to_owned()).collect();
        bot.user = Some("nobody".into());
        chown(&bot.cwd, Some(NOBODY), None).unwrap();
        bot
    };
    let fleet = [
        of_nobody("python", &["/usr/bin/python3", "-c", BOT]),
        of_nobody("node", &["/usr/bin/node", "-e", NODE]),
        world.bot("ours", "note('token', ask('GET', '/v1/token/twitch/ada'))"),
    ];
    world.begin(fleet).await;
    for bot in ["python", "node", "ours"] {
        let token = world.noted(bot, "token").await;
        assert_eq!((&token[0], &token[1]["access_token"]), (&200.into(), &"token-of-ada-1".into()));
    }
    let folder = world.dir.path().join("b");
    let meta = |path: &std::path::Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.mode() & 0o777, meta.uid())
    };
    let own = folder.join(format!("u{NOBODY}"));
    assert_eq!((meta(world.dir.path()), meta(&folder)), ((0o711, 0), (0o711, 0)));
    assert_eq!((meta(&own), meta(&own.join("node.sock"))), ((0o700, NOBODY), (0o600, NOBODY)));
    assert_eq!(meta(&world.socket("ours")), (0o600, 0));
    // Whoever lives in that folder cannot make us give away what is not theirs.
    let prize = world.dir.path().join("prize");
    fs::write(&prize, "").unwrap();
    fs::remove_file(own.join("node.sock")).unwrap();
    symlink(&prize, own.join("node.sock")).unwrap();
    world.delivery.rebind().await;
    assert_eq!(meta(&prize).1, 0);
    assert_eq!(meta(&own.join("node.sock")), (0o600, NOBODY));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_one_stream_has_every_token_of_an_instance_and_no_others() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    world.vault.give("twitch/eve", "token-of-eve-1").await;
    let script = r"
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['KISSOPS_SOCKET'])
s.sendall(b'GET /v1/tokens/stream HTTP/1.1\r\nHost: x\r\n\r\n')
data, lines = b'', []
while True:
    part = s.recv(65536)
    if not part: break
    data += part
    lines = [json.loads(l) for l in data.split(b'\r\n') if l.startswith(b'{')]
    note('lines', [l for l in lines if 'heartbeat' not in l])
    note('beats', len([l for l in lines if 'heartbeat' in l]))
note('ended', True)
";
    world.begin([world.bot("bot", script)]).await;
    let read = |name: &str| -> Option<Value> {
        serde_json::from_slice(&fs::read(world.dir.path().join("bot").join(name)).ok()?).ok()
    };
    let tokens = |count: usize| {
        read("lines").filter(|lines| lines.as_array().is_some_and(|all| all.len() == count))
    };
    let first = world.until("the token that there is", || tokens(1)).await;
    assert_eq!((&first[0]["account"], &first[0]["generation"]), (&"ada".into(), &1.into()));
    assert_eq!(first[0]["access_token"], "token-of-ada-1");
    world.until("a heartbeat", || read("beats").filter(|count| *count == 1)).await;
    world.vault.give("twitch/eve", "token-of-eve-2").await;
    world.vault.give("twitch/ada", "token-of-ada-2").await;
    let second = world.until("the next", || tokens(2)).await;
    assert_eq!(second[1]["access_token"], "token-of-ada-2");
    // One that is authorized only now.
    world.vault.give("own/a/b", "token-of-ab-1").await;
    let third = world.until("the other grant", || tokens(3)).await;
    assert_eq!((&third[2]["provider"], &third[2]["account"]), (&"own".into(), &"a/b".into()));
    assert_eq!(world.delivery.counts().tokens, 3);
    let begun = Instant::now();
    world.delivery.close().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "it ended when it was told to");
    world.noted("bot", "ended").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_nobody_takes_more_than_their_share_of_a_socket() {
    let script = r"
held = []
for n in range(18):
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.environ['KISSOPS_SOCKET'])
    s.sendall(b'GET /v1/tokens HTTP/1.1\r\n')
    held.append(s)
note('busy', ask('GET', '/v1/tokens'))
begun = time.time()
note('hung_up', [held[0].recv(1000) in (b'',) or True, time.time() - begun])
held.clear()
note('again', ask('GET', '/v1/tokens')[0])
";
    let world =
        World::new([("bot", script), ("other", "note('ok', ask('GET', '/v1/tokens')[0])")]).await;
    let busy = world.noted("bot", "busy").await;
    assert_eq!((&busy[0], &busy[1]["code"]), (&503.into(), &"busy".into()));
    assert_eq!(world.noted("other", "ok").await, 200);
    let hung_up = world.noted("bot", "hung_up").await;
    assert!(hung_up[1].as_f64().unwrap() < 10.0, "a head that does not come is not waited for");
    assert_eq!(world.noted("bot", "again").await, 200);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_a_bot_goes_on_with_a_successor_of_ours() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    let script = r"
note('first', ask('GET', '/v1/token/twitch/ada')[0])
while not os.path.exists('go'): time.sleep(0.01)
note('second', ask('GET', '/v1/token/twitch/ada')[0])
";
    world.begin([world.bot("bot", script)]).await;
    world.noted("bot", "first").await;
    world.delivery.close().await;
    assert!(!world.socket("bot").exists());
    let next = World::delivery(&world.dir, &world.vault, &world.redactor, &world.reauth);
    next.attach(&world.supervisor);
    next.rebind().await;
    fs::write(world.dir.path().join("bot/go"), "").unwrap();
    assert_eq!(world.noted("bot", "second").await, 200);
    next.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_11_a_token_is_in_the_environment_only_where_it_was_asked_for_and_never_in_the_log() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    let mut asked = world.bot(
        "asked",
        "note('env', os.environ.get('TOKEN')); print('it is', os.environ.get('TOKEN'), flush=True)",
    );
    asked.token_env.insert("TOKEN".into(), "twitch/ada".parse().unwrap());
    let not = world.bot(
        "not",
        "note('env', [v for v in os.environ.values() if 'token-of' in v and 'note' not in v])",
    );
    world.begin([asked, not]).await;
    assert_eq!(world.noted("asked", "env").await, "token-of-ada-1");
    assert_eq!(world.noted("not", "env").await, serde_json::json!([]));
    let log = world.dir.path().join("logs/asked/current");
    let line = world
        .until("a line", || fs::read_to_string(&log).ok().filter(|t| t.contains("it is")))
        .await;
    assert!(line.contains("it is ***"), "{line}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_8_instances_wait_for_their_grants_and_come_back_by_themselves() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    let with = |name: &str, policy| {
        let mut bot = world.bot(name, "");
        bot.tokens.truncate(1);
        bot.token_policy = policy;
        bot
    };
    let fleet = [
        with("stops", TokenPolicy::Stop),
        with("runs", TokenPolicy::Run),
        with("strict", TokenPolicy::Strict),
        with("stopped", TokenPolicy::Stop),
    ];
    world.begin(fleet).await;
    for bot in ["stops", "runs", "strict", "stopped"] {
        world.reaches(bot, StateName::Running).await;
    }
    world.supervisor.stop(&"stopped".parse().unwrap()).await.unwrap();
    world.vault.set("twitch/ada", GrantState::Degraded { since: clock::now() }).await;
    world.vault.tell(&"twitch/ada".parse().unwrap(), kissops_core::vault::VaultEventKind::Degraded);
    let why = world.reaches("strict", StateName::NeedsReauth).await;
    assert!(why.contains("strict"), "{why}");
    assert_eq!(
        world.supervisor.instance(&"stops".parse().unwrap()).unwrap().state,
        StateName::Running
    );
    world.vault.refuse("twitch/ada").await;
    let why = world.reaches("stops", StateName::NeedsReauth).await;
    assert_eq!(
        why,
        "twitch/ada needs a new authorization: invalid_grant; kissops token authorize twitch ada"
    );
    world
        .until("the new reason", || {
            let status = world.supervisor.instance(&"strict".parse().unwrap()).unwrap();
            status.reason.contains("invalid_grant").then_some(())
        })
        .await;
    // By hand: it goes back, and says why.
    world.supervisor.start(&"stops".parse().unwrap()).await.unwrap();
    assert_eq!(world.reaches("stops", StateName::NeedsReauth).await, why);
    // A stop by hand wins over what comes later.
    world.supervisor.stop(&"strict".parse().unwrap()).await.unwrap();
    world.reaches("strict", StateName::Stopped).await;
    assert_eq!(
        world.supervisor.instance(&"runs".parse().unwrap()).unwrap().state,
        StateName::Running
    );
    world.vault.give("twitch/ada", "token-of-ada-2").await;
    world.reaches("stops", StateName::Running).await;
    world.reaches("strict", StateName::Stopped).await;
    world.reaches("stopped", StateName::Stopped).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vlt_8_an_instance_whose_grant_is_dead_does_not_start_with_the_fleet() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    world.vault.refuse("twitch/ada").await;
    let mut dead = world.bot("dead", "note('started', 1)");
    let mut fresh = world.bot("fresh", "note('started', 1)");
    dead.tokens.truncate(1);
    fresh.tokens.remove(0);
    (dead.token_policy, fresh.token_policy) = (TokenPolicy::Stop, TokenPolicy::Stop);
    world.begin([dead, fresh]).await;
    world.reaches("dead", StateName::NeedsReauth).await;
    let why = world.reaches("fresh", StateName::NeedsReauth).await;
    assert!(why.contains("own/a/b was not authorized yet"), "{why}");
    for bot in ["dead", "fresh"] {
        assert!(!world.dir.path().join(bot).join("started").exists());
    }
    world.vault.give("own/a/b", "token-of-ab").await;
    world.noted("fresh", "started").await;
    assert_eq!(
        world
            .store
            .grants(kissops_core::store::GrantQuery { limit: 9, ..Default::default() })
            .await
            .unwrap()
            .len(),
        2
    );
    world.end().await;
}

/// Not a test: what a bot written in Rust does, in a process of its own.
#[tokio::test]
#[ignore = "run as an instance by the test below"]
async fn as_a_bot() {
    let agent = Agent::from_env().unwrap();
    if !agent.is_supervised() {
        return;
    }
    agent.heartbeat().await.unwrap();
    agent.metrics("up 1\n").await.unwrap();
    let first = agent.token("twitch", "ada").await.unwrap();
    assert!(
        agent
            .token_after("twitch", "ada", first.generation, Duration::from_millis(20))
            .await
            .unwrap()
            .is_none()
    );
    let next = agent.token_invalid("twitch", "ada", first.generation).await.unwrap();
    let foreign = agent.token("twitch", "eve").await.unwrap_err();
    let dead = agent.token("own", "a/b").await.unwrap_err();
    let seen = serde_json::json!([
        first.token.expose_secret(),
        next.token.expose_secret(),
        foreign.to_string(),
        format!("{dead:?}"),
        format!("{next:?}")
    ]);
    fs::write("part", seen.to_string()).unwrap();
    fs::rename("part", "seen").unwrap();
    agent.request_restart("done").await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emb_5_a_rust_bot_has_all_that_at_hand() {
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    let mut bot = world.bot("bot", "");
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    bot.command =
        [&*program, "--ignored", "--exact", "deliver::as_a_bot"].map(str::to_owned).into();
    world.begin([bot]).await;
    let seen = world.noted("bot", "seen").await;
    assert_eq!((&seen[0], &seen[1]), (&"token-of-ada-1".into(), &"after-1".into()));
    assert!(seen[2].as_str().unwrap().contains("twitch/eve"), "{seen}");
    assert!(seen[3].as_str().unwrap().contains("needs_reauth"), "{seen}");
    assert!(!seen[4].as_str().unwrap().contains("after-1"), "{seen}");
    let name = "bot".parse().unwrap();
    world
        .until("a restart", || {
            (world.supervisor.instance(&name).unwrap().restarts > 0).then_some(())
        })
        .await;
    world.end().await;
}

/// `cargo test -p kissops-core --all-features --test it -- deliver::what --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn what_a_thousand_sockets_cost() {
    let resident = || {
        let text = fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
    };
    let world = World::empty();
    world.vault.give("twitch/ada", "token-of-ada-1").await;
    let script = r"
while not os.path.exists('go'): time.sleep(0.01)
def times(work, count):
    taken = []
    for n in range(count):
        begun = time.perf_counter(); work(); taken.append((time.perf_counter() - begun) * 1e6)
    taken.sort()
    return [round(taken[len(taken) // 2]), round(taken[len(taken) * 99 // 100]), round(taken[-1])]
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['KISSOPS_SOCKET'])
def kept():
    s.sendall(b'GET /v1/token/twitch/ada HTTP/1.1\r\nHost: x\r\n\r\n')
    s.recv(65536)
note('times', [times(kept, 3000), times(lambda: ask('GET', '/v1/token/twitch/ada'), 1000)])
";
    let idle = |nth: usize| {
        let mut bot = Definition::new(&format!("idle@{nth}"), ["sleep", "1000"]).unwrap();
        bot.tokens = vec!["twitch/ada".parse().unwrap()];
        bot
    };
    let fleet = (0..1_000).map(idle).chain([world.bot("bot", script)]);
    world.begin(fleet).await;
    for nth in 0..1_000 {
        world.reaches(&format!("idle@{nth}"), StateName::Running).await;
    }
    let with = resident();
    world.delivery.close().await;
    let next = World::delivery(&world.dir, &world.vault, &world.redactor, &world.reauth);
    let before = resident();
    next.attach(&world.supervisor);
    let begun = Instant::now();
    next.rebind().await;
    println!(
        "1,000 sockets made in {:?}; {with} KiB with, {before} KiB without, {} KiB with again",
        begun.elapsed(),
        resident()
    );
    fs::write(world.dir.path().join("bot/go"), "").unwrap();
    println!(
        "[median, p99, worst] in microseconds, one connection and one each: {}",
        world.noted("bot", "times").await
    );
    next.close().await;
    world.end().await;
}
