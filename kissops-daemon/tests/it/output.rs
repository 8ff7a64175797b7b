//! Whatever a bot prints, and wherever it cannot be written (SUP-21, SUP-22, SUP-24).

use std::{fs, process::Command};

use crate::harness::{Site, is_root, until};

/// SUP-21: bytes that are no text, NULs, and a line of 10 MB.
#[test]
fn sup_21_any_bytes_are_kept_and_hurt_nobody() {
    let site = Site::new(
        "[instance.bot]\ncommand = [\"python3\", \"bot.py\"]\nlogs = { max_line = \"16KiB\" }\n[instance.raw]\ncommand = [\"python3\", \"bot.py\"]\nlogs = { format = \"raw\" }\n[instance.json]\ncommand = [\"python3\", \"bot.py\"]\nlogs = { format = \"json\" }\n",
    );
    site.write(
        "bot.py",
        r#"
import os, time
def put(data):
    while data: data = data[os.write(1, data):]
put(bytes(range(256)) * 40 + b"\n")
put(b"\xff\xfe\xc3( broken \xed\xa0\x80 text\n")
put(b"nul \0 in it\n\0\0\0\n\r\n")
put(b"x" * 10_000_000 + b"\n")
put(b"without an end")
time.sleep(0.3)
put(b" but then it came\nlast\n")
time.sleep(1000)
"#,
    );
    let mut site = site;
    site.start();
    for name in ["bot", "raw", "json"] {
        site.until_line(name, "last");
        let lines = site.lines(name);
        assert_eq!(lines.iter().filter(|line| line.contains("last")).count(), 1);
        assert!(lines.iter().any(|line| line == "without an end but then it came"), "{name}");
        assert!(lines.iter().any(|line| line.contains("broken") && line.contains("text")));
        assert!(lines.iter().any(|line| line.contains("nul ")), "{name}");
        let sum: usize = lines.iter().map(|line| line.matches('x').count()).sum();
        // 40 are in the first lines, and those of "text".
        assert!((10_000_000..10_000_100).contains(&sum), "{name}: {sum}");
        if name != "raw" {
            let longest = lines.iter().map(String::len).max().unwrap();
            // Each broken byte is shown as three.
            assert!(longest <= 3 * (16 << 10) + 100, "{name}: {longest}");
        }
    }
    assert_eq!(site.all().iter().filter(|status| status["state"] == "running").count(), 3);
}

/// SUP-22: a secret of the configuration is masked everywhere, also when it is written in pieces.
#[test]
fn sup_22_a_secret_shows_nowhere() {
    const SECRET: &str = "s3cr3t-oauth:4711-value";
    let mut site = Site::new(
        "[instance.bot]\ncommand = [\"python3\", \"bot.py\"]\nenv = { TOKEN = { env = \"THE_TOKEN\" } }\nenv_file = [\"bot.env\"]\nready = { notify = true }\nrestart = \"never\"\n",
    );
    site.env("THE_TOKEN", SECRET);
    site.write("bot.env", "API_PASSWORD=other-pass-phrase\n");
    Command::new("chmod").args(["600"]).arg(site.path("bot.env")).status().unwrap();
    site.write(
        "bot.py",
        r#"
import os, socket, sys, time
secret, other = os.environ["TOKEN"].encode(), os.environ["API_PASSWORD"].encode()
os.write(1, b"got " + secret + b" and " + other + b"\n")
os.write(1, b"split " + secret[:9]); time.sleep(0.2); os.write(1, secret[9:] + b" joined\n")
for byte in b"bytes " + secret + b" done\n": os.write(2, bytes([byte]))
to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
to.sendto(b"STATUS=with " + secret + b"\nREADY=1", os.environ["NOTIFY_SOCKET"])
while not os.path.exists("end"): time.sleep(0.01)
os.write(2, b"Error: bad token " + secret)
sys.exit(1)
"#,
    );
    site.start();
    let status = site.until_ready("bot");
    assert_eq!(status["status_text"], "with ***", "{status}");
    site.until_line("bot", "done");
    let lines = site.lines("bot");
    for want in ["got *** and ***", "split *** joined", "bytes *** done"] {
        assert!(lines.iter().any(|line| line == want), "{want}: {lines:?}");
    }
    site.write("end", "");
    let crash = site.until_crash("bot", |_| true);
    assert!(crash.to_string().contains("bad token ***"), "{crash}");
    let mut all = vec![site.log()];
    for path in [
        "/v1/status",
        "/v1/events?limit=1000",
        "/v1/crashes",
        "/v1/instances/bot",
        "/v1/definitions",
    ] {
        all.push(site.get(path).to_string());
    }
    for text in all {
        assert!(!text.contains(SECRET) && !text.contains("other-pass-phrase"), "{text}");
    }
    // Nor on the disk; the environment file is the operator's own.
    for folder in ["logs", "state", "run"] {
        let found = Command::new("grep")
            .args(["-rlaF", "-e", SECRET, "-e", "other-pass-phrase"])
            .arg(site.path(folder))
            .output();
        assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "", "in {folder}");
    }
}

/// Unmounts.
struct Mount(std::path::PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

/// SUP-24: a full disk: the bot lives and is not blocked, it is told what was dropped, and it recovers.
#[test]
fn sup_24_a_full_disk_stops_no_bot() {
    let site = Site::new(
        "[instance.bot]\ncommand = [\"python3\", \"bot.py\"]\nlogs = { rotate_size = \"100MB\" }\n[instance.quiet]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    fs::create_dir(site.path("logs")).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(site.path("logs"))
        .status();
    if !is_root() || !mount.is_ok_and(|status| status.success()) {
        eprintln!("cannot mount a small tmpfs: not tested");
        return;
    }
    let mount = Mount(site.path("logs"));
    site.write(
        "bot.py",
        "import os\nn = 0\nwhile True:\n    n += 1\n    os.write(1, b'%d ' % n + b'y' * 200 + b'\\n')\n    if n % 100 == 0: open('at.new', 'w').write(str(n)); os.rename('at.new', 'at')\n    if n > 30000:\n        import time; time.sleep(0.01)\n",
    );
    let mut site = site;
    site.start();
    let reason = site.until_event("", "logs.dropping");
    assert!(reason.contains("bot") && reason.contains("No space left"), "{reason}");
    let at = site.number("at");
    until("the bot writes on", || site.number("at") >= at + 200);
    let before = site.bot("bot");
    assert_eq!(site.status("bot")["restarts"], 0);
    // A daemon that is killed in this state comes back to it.
    site.kill();
    site.start();
    assert_eq!(site.bot("bot"), before);
    let grown = Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(site.path("logs"))
        .status()
        .unwrap();
    assert!(grown.success());
    let over = site.until_event("", "logs.recovered");
    assert!(over.contains("were dropped"), "{over}");
    site.until_line("bot", "dropped");
    let last = site.number("at");
    until("new lines are kept", || {
        site.get("/livez");
        let (_, text) = site.try_ask("GET", "/v1/logs?target=bot&lines=1", None).unwrap();
        let line: serde_json::Value =
            serde_json::from_str(text.lines().last().unwrap_or("null")).unwrap();
        line["line"]
            .as_str()
            .and_then(|line| line.split(' ').next()?.parse().ok())
            .is_some_and(|n: i32| n > last)
    });
    assert_eq!(site.bot("bot"), before, "it never died");
    drop(site);
    drop(mount);
}
