//! Liveness: finding out that an instance is stuck (SUP-9). The watchdog arrives by itself and is not here.

use std::{
    path::Path,
    pin::Pin,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{Live, LiveCheck, ready};

/// Largest heartbeat file that is looked into.
const LARGEST: u64 = 64 << 10;

struct Check<'a> {
    live: &'a Live,
    due: Instant,
    failures: u32,
}

/// The watch over an instance's checks, if it has some: most have none, and pay for nothing.
pub(super) type Watch<'a> = Option<Pin<Box<dyn Future<Output = String> + Send + 'a>>>;

/// Begins to watch.
pub(super) fn watch<'a>(
    checks: &'a [Live],
    launched: SystemTime,
    beat: &'a AtomicI64,
) -> Watch<'a> {
    let polled = checks.iter().any(|live| !matches!(live.check, LiveCheck::Watchdog { .. }));
    polled.then(|| Box::pin(poll(checks, launched, beat)) as _)
}

/// Resolves with a reason once a check has failed too often; never without a watch. Goes on where it was when it is
/// called again.
pub(super) async fn failing(watch: &mut Watch<'_>) -> String {
    match watch {
        Some(watch) => watch.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Resolves with a reason once one of `checks` has failed as often in a row as it may; never without checks.
async fn poll(checks: &[Live], launched: SystemTime, beat: &AtomicI64) -> String {
    let now = Instant::now();
    let polled = |live: &&Live| !matches!(live.check, LiveCheck::Watchdog { .. });
    let mut checks: Vec<Check<'_>> = checks
        .iter()
        .filter(polled)
        .map(|live| Check { live, due: now + interval(&live.check), failures: 0 })
        .collect();
    loop {
        let Some(next) = checks.iter_mut().min_by_key(|check| check.due) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(next.due).await;
        let outcome = run(&next.live.check, launched, beat).await;
        next.due = Instant::now() + interval(&next.live.check);
        match outcome {
            Ok(()) => next.failures = 0,
            Err(why) => {
                next.failures += 1;
                if next.failures >= next.live.failures.get() {
                    let times = if next.failures > 1 {
                        format!(", {} times in a row", next.failures)
                    } else {
                        String::new()
                    };
                    return format!("liveness: {why}{times}");
                }
            }
        }
    }
}

fn interval(check: &LiveCheck) -> Duration {
    match check {
        LiveCheck::Watchdog { every }
        | LiveCheck::Http { every, .. }
        | LiveCheck::Tcp { every, .. } => *every,
        // Often enough that the age at which it is found is at most a quarter over the limit.
        LiveCheck::Heartbeat { max_age, .. } => {
            (*max_age / 4).clamp(Duration::from_millis(100), Duration::from_secs(15))
        }
    }
}

async fn run(check: &LiveCheck, launched: SystemTime, beat: &AtomicI64) -> Result<(), String> {
    match check {
        LiveCheck::Watchdog { .. } => Ok(()),
        LiveCheck::Http { url, timeout, .. } => ready::http(url, *timeout).await,
        LiveCheck::Tcp { address, timeout, .. } => ready::tcp(address, *timeout).await,
        LiveCheck::Heartbeat { path, max_age } => {
            let now = SystemTime::now();
            // Said on its socket: as good as written.
            let said = u64::try_from(beat.load(Ordering::Relaxed)).unwrap_or(0);
            let said = SystemTime::UNIX_EPOCH + Duration::from_micros(said);
            if said >= launched && age(said, now) <= *max_age {
                return Ok(());
            }
            heartbeat(path, *max_age, launched, now)
        }
    }
}

/// The file is young enough, and does not say otherwise. A process that has just started gets `max_age` to write it.
fn heartbeat(
    path: &Path,
    max_age: Duration,
    launched: SystemTime,
    now: SystemTime,
) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().display();
    let file = match std::fs::metadata(path) {
        Ok(file) => file,
        Err(_) if age(launched, now) < max_age => return Ok(()),
        Err(error) => return Err(format!("heartbeat {name}: {error}")),
    };
    let written = file.modified().unwrap_or(launched);
    let age = age(written.max(launched), now);
    if age > max_age {
        return Err(format!(
            "heartbeat {name} is {}s old, more than {}s",
            age.as_secs(),
            max_age.as_secs()
        ));
    }
    if file.len() == 0 || file.len() > LARGEST || written < launched {
        return Ok(());
    }
    // Half-written JSON is no failure: the next look will see it whole or too old.
    let Ok(text) = std::fs::read(path) else { return Ok(()) };
    match serde_json::from_slice::<serde_json::Value>(&text) {
        Ok(value) if value.get("ok").and_then(serde_json::Value::as_bool) == Some(false) => {
            Err(format!("heartbeat {name} says that it is not ok"))
        }
        _ => Ok(()),
    }
}

/// How long ago `then` was. A clock that was set back makes things look new, never old.
fn age(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sup_9_a_heartbeat_is_judged_by_age_and_by_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heartbeat.json");
        let max = Duration::from_secs(90);
        let launched = SystemTime::now();
        let later = |secs| launched + Duration::from_secs(secs);
        assert!(
            heartbeat(&path, max, launched, later(60)).is_ok(),
            "it has time to write the first"
        );
        assert!(heartbeat(&path, max, launched, later(120)).is_err());
        std::fs::write(&path, "").unwrap();
        assert!(heartbeat(&path, max, launched, later(60)).is_ok());
        let why = heartbeat(&path, max, launched, later(200)).unwrap_err();
        assert!(why.contains("is 200s old") || why.contains("is 199s old"), "{why}");
        std::fs::write(&path, r#"{"ok": false}"#).unwrap();
        assert!(heartbeat(&path, max, launched - Duration::from_secs(1), later(1)).is_err());
        std::fs::write(&path, r#"{"ok": tr"#).unwrap();
        assert!(heartbeat(&path, max, launched - Duration::from_secs(1), later(1)).is_ok());
    }
}
