//! A `kissopsd` of its own for a test: in a folder of its own, with real bots, gone without a trace afterwards.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};

/// The longest that anything may take here.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// Whether the full numbers are asked for.
pub(crate) fn large() -> bool {
    std::env::var_os("KISSOPS_TEST_LARGE").is_some()
}

/// The number in a usual run, or that in a large one.
pub(crate) fn count(usual: usize, full: usize) -> usize {
    if large() { full } else { usual }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(LOOK);
    }
}

/// The same for what is awaited.
pub(crate) async fn until_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Neither gone nor a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    // One that is gone already is what was wanted.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A folder with a configuration, and the daemon that runs from it.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    pub(crate) program: PathBuf,
    env: Vec<(OsString, OsString)>,
    user: Option<u32>,
    daemon: Option<Child>,
}

impl Site {
    /// Writes the configuration, with `{dir}` filled in, and starts nothing. The folders of the daemon are given already.
    pub(crate) fn new(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("kiss").tempdir().unwrap();
        // Bots that run as another user have to get at their files.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_kissopsd"));
        let site = Self { dir, program, env: Vec::new(), user: None, daemon: None };
        site.configure(config);
        site
    }

    pub(crate) fn started(config: &str) -> Self {
        let mut site = Self::new(config);
        site.start();
        site
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A number that a bot has written, once it is there.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> i32 {
        until(name, || self.read(name).trim().parse::<i32>().is_ok());
        self.read(name).trim().parse().unwrap()
    }

    pub(crate) fn configure(&self, config: &str) {
        let mut text = config.replace("{dir}", self.dir.path().to_str().unwrap());
        if !text.contains("[daemon]") {
            text.insert_str(
                0,
                "[daemon]\nstate_dir = \"state\"\nruntime_dir = \"run\"\nlog_dir = \"logs\"\n",
            );
        }
        self.write("kissops.toml", &text);
    }

    /// For the daemon, from its next start on.
    pub(crate) fn env(&mut self, key: &str, value: &str) {
        self.env.push((key.into(), value.into()));
    }

    /// Trees are to be found without cgroups.
    pub(crate) fn without_cgroups(&mut self) {
        self.env("KISSOPS_NO_CGROUP", "1");
    }

    /// The daemon runs as somebody who is not root, to whom all of this folder is given.
    pub(crate) fn become_nobody(&mut self) {
        const NOBODY: u32 = 65534;
        let files = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        for path in files.chain([self.dir.path().to_owned()]) {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        self.user = Some(NOBODY);
    }

    /// A daemon on this folder that is not started yet.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
            .args(["--config".into(), self.path("kissops.toml")])
            .env("KISSOPS_KEEPER", env!("CARGO_BIN_EXE_kissops-keeper"))
            .env("KISSOPS_EXCHANGER", env!("CARGO_BIN_EXE_kissops-exchanger"))
            .env("NO_COLOR", "1")
            // By this the bots are found when the test is over.
            .env("KISS_SITE", self.dir.path())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts the daemon; returns when it answers, with the time that took.
    #[track_caller]
    pub(crate) fn start(&mut self) -> Duration {
        self.launch();
        let begun = Instant::now();
        while self.try_ask("GET", "/livez", None).is_none() {
            let daemon = self.daemon.as_mut().unwrap();
            if let Some(status) = daemon.try_wait().unwrap() {
                panic!("the daemon ended: {status}\n{}", self.log());
            }
            assert!(begun.elapsed() < LIMIT, "the daemon does not answer\n{}", self.log());
            std::thread::sleep(LOOK);
        }
        begun.elapsed()
    }

    /// Starts the daemon and does not wait.
    pub(crate) fn launch(&mut self) {
        assert!(self.daemon.is_none(), "one runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.err"));
        self.daemon = Some(self.command().stderr(log.unwrap()).spawn().unwrap());
    }

    /// What the daemon said on its standard error.
    pub(crate) fn log(&self) -> String {
        self.read("daemon.err")
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.daemon.as_ref().unwrap().id()).unwrap()
    }

    /// The daemon was started and not ended by us.
    pub(crate) fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// Kills the daemon as a crash would.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Sends the daemon a signal and waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self, with: Signal) -> ExitStatus {
        signal(self.pid(), with);
        let mut daemon = self.daemon.take().unwrap();
        let mut ended = None;
        until("the daemon ends", || {
            ended = daemon.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    pub(crate) fn keeper(&self) -> Option<i32> {
        self.companion("keeper")
    }

    pub(crate) fn exchanger(&self) -> Option<i32> {
        self.companion("exchanger")
    }

    /// A program of the daemon's that outlives it, which is known by where it logs to.
    fn companion(&self, which: &str) -> Option<i32> {
        let (name, log) = (format!("kissops-{which}"), self.path(format!("state/{which}.log")));
        // The kernel cuts a name after fifteen characters.
        let comm = &name[..name.len().min(15)];
        pids().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|told| told.trim() == comm)
                && fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|target| target == log)
                && is_alive(*pid)
        })
    }

    /// The one process of a bot, without asking the daemon.
    pub(crate) fn bot_of_proc(&self) -> Option<i32> {
        self.bots().into_iter().find(|pid| is_alive(*pid))
    }

    /// All processes that bots of this site have started.
    pub(crate) fn bots(&self) -> Vec<i32> {
        let mark = format!("KISS_SITE={}\0", self.dir.path().display());
        let own = self.daemon.as_ref().map(Child::id);
        let bears = |pid: &i32| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|env| env.windows(mark.len()).any(|part| part == mark.as_bytes()))
        };
        pids().filter(|pid| u32::try_from(*pid).ok() != own).filter(bears).collect()
    }

    /// A request and its answer; `None` if nobody answers.
    pub(crate) fn try_ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, String)> {
        let mut socket = UnixStream::connect(self.path("run/control.sock")).ok()?;
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).ok()?;
        let split = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..split]).to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut rest = &answer[split + 4..];
        if !head.contains("transfer-encoding: chunked") {
            return Some((status, String::from_utf8_lossy(rest).into_owned()));
        }
        let mut whole = Vec::new();
        loop {
            let end = rest.windows(2).position(|part| part == b"\r\n")?;
            let size =
                usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
            if size == 0 {
                return Some((status, String::from_utf8_lossy(&whole).into_owned()));
            }
            whole.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
            rest = rest.get(end + 4 + size..)?;
        }
    }

    /// What became of the daemon, for messages.
    fn whether_it_ended(&self) -> String {
        let Some(daemon) = &self.daemon else { return "there is no daemon".to_owned() };
        let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), options).unwrap() {
            None => "the daemon runs".to_owned(),
            Some(status) => format!(
                "the daemon ended, code {:?}, signal {:?}",
                status.exit_status(),
                status.terminating_signal()
            ),
        }
    }

    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let Some((status, text)) = self.try_ask(method, path, body) else {
            panic!("no answer to {method} {path}; {}\n{}", self.whether_it_ended(), self.log());
        };
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// Carries out an action and waits for it; the answer for the first target.
    #[track_caller]
    pub(crate) fn act(&self, action: &str, target: &str) -> Value {
        let body = json!({ "action": action, "targets": [target], "wait": true, "timeout": "50s" });
        let (status, value) = self.ask("POST", "/v1/instances/actions", Some(&body));
        assert_eq!(status, 200, "{action} {target}: {value}");
        value["results"][0].clone()
    }

    #[track_caller]
    pub(crate) fn stop(&self, target: &str) {
        let result = self.act("stop", target);
        assert_eq!(result["ok"], true, "{result}");
    }

    #[track_caller]
    pub(crate) fn reload(&self, dry_run: bool) -> (u16, Value) {
        self.ask("POST", "/v1/reload", Some(&json!({ "dry_run": dry_run })))
    }

    #[track_caller]
    pub(crate) fn all(&self) -> Vec<Value> {
        self.get("/v1/status")["instances"].as_array().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> Value {
        self.get(&format!("/v1/status?target={name}"))["instances"][0].clone()
    }

    #[track_caller]
    pub(crate) fn bot(&self, name: &str) -> i32 {
        i32::try_from(self.status(name)["pid"].as_i64().unwrap()).unwrap()
    }

    /// Waits until the status of an instance is such.
    #[track_caller]
    pub(crate) fn until(&self, name: &str, what: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status(name);
            if what(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "not in time: {status}\n{:#?}\n{}",
                self.events(name),
                self.log()
            );
            std::thread::sleep(LOOK);
        }
    }

    #[track_caller]
    pub(crate) fn until_state(&self, name: &str, state: &str) -> Value {
        self.until(name, |status| status["state"] == state)
    }

    #[track_caller]
    pub(crate) fn until_ready(&self, name: &str) -> Value {
        self.until(name, |status| status["ready"] == true)
    }

    /// Waits until every instance may take work.
    #[track_caller]
    pub(crate) fn until_all_ready(&self) -> Vec<Value> {
        let mut all = Vec::new();
        until("all are ready", || {
            all = self.all();
            all.iter().all(|status| status["ready"] == true)
        });
        all
    }

    /// The last events of an instance (all of them: `""`), oldest first.
    #[track_caller]
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        let target = if name.is_empty() { String::new() } else { format!("&target={name}") };
        self.get(&format!("/v1/events?limit=1000{target}"))["events"].as_array().unwrap().clone()
    }

    /// Waits for an event of this kind; its reason.
    #[track_caller]
    pub(crate) fn until_event(&self, name: &str, kind: &str) -> String {
        let mut found = None;
        until(kind, || {
            found = self.events(name).into_iter().find(|event| event["kind"] == kind);
            found.is_some()
        });
        found.unwrap()["reason"].as_str().unwrap().to_owned()
    }

    /// Waits for a crash report of an instance; the latest.
    #[track_caller]
    pub(crate) fn until_crash(&self, name: &str, what: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        until("a crash report", || {
            let crashes = self.get(&format!("/v1/crashes?target={name}"));
            found = crashes["crashes"].as_array().unwrap().iter().find(|c| what(c)).cloned();
            found.is_some()
        });
        found.unwrap()
    }

    /// All that an instance has written, as the log has it.
    #[track_caller]
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let (status, text) =
            self.try_ask("GET", &format!("/v1/logs?target={name}&since=1d"), None).unwrap();
        assert_eq!(status, 200, "{text}");
        let line = |text: &str| {
            let line: Value = serde_json::from_str(text).unwrap();
            line["line"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned()
        };
        text.lines().map(line).collect()
    }

    /// Waits until the log of an instance holds a line.
    #[track_caller]
    pub(crate) fn until_line(&self, name: &str, what: &str) -> String {
        let mut found = None;
        until(what, || {
            found = self.lines(name).into_iter().find(|line| line.contains(what));
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Those who fork are chased; nobody but the keeper is left to start more.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let companions = self.keeper().into_iter().chain(self.exchanger());
            let left: Vec<i32> = self.bots().into_iter().chain(companions).collect();
            let left: Vec<i32> = left.into_iter().filter(|pid| is_alive(*pid)).collect();
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                signal(pid, Signal::KILL);
            }
        }
        for cgroup in self.cgroups() {
            remove_cgroup(&cgroup);
        }
    }
}

impl Site {
    /// The cgroups that the daemon said it uses.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains("cgroups in use"));
        let path = |line: &str| {
            Some(PathBuf::from(line.split("path=").nth(1)?.split_whitespace().next()?))
        };
        lines.filter_map(path).collect()
    }
}

/// Empty after its processes are gone, which may take a moment.
fn remove_cgroup(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while path.exists() && Instant::now() < deadline {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        if fs::remove_dir(path).is_ok() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}
