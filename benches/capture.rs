//! What it costs to capture output: 64 MiB of lines of 100 bytes through a pipe into rotated files, in each format.
//! With `KISSOPS_CAPTURE_DIR` set, instead: captures one pipe on standard input until its end, and tells wall and CPU
//! time; `KISSOPS_CAPTURE_FORMAT` is raw, text or json, `KISSOPS_CAPTURE_SECRETS` a number.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use kissops_core::{
    ByteSize,
    id::{InstanceName, RunId},
    logs::{Capture, CaptureOptions, LogFormat, LogPolicy, Output, pipes},
    redact::Redactor,
};
use tokio::runtime::Runtime;

const BYTES: usize = 64 << 20;

fn redactor(secrets: usize) -> Arc<Redactor> {
    let redactor = Redactor::new();
    let made =
        (0..secrets).map(|n| format!("oauth:{:x}q{n}7zk", (n + 3) * 0x1234_5678_9abc).into());
    if let Err(e) = redactor.learn(made) {
        eprintln!("{}", e.chain());
    }
    Arc::new(redactor)
}

fn policy(format: LogFormat) -> Arc<LogPolicy> {
    let rotate_size = ByteSize(10_000_000);
    Arc::new(LogPolicy { format, rotate_size, keep: 60, compress: false, ..LogPolicy::default() })
}

/// Captures what comes through `stdout` until its end.
fn capture(
    runtime: &Runtime,
    dir: &Path,
    stdout: std::os::fd::OwnedFd,
    format: LogFormat,
    secrets: usize,
) -> kissops_core::Result<()> {
    let capture = Capture::start(CaptureOptions::new(dir, redactor(secrets)))?;
    let (instance, run) = (InstanceName::new("flood")?, RunId(1));
    let policy = policy(format);
    capture.attach(Output { instance, run, stdout, stderr: None, policy, watch: None })?;
    runtime.block_on(capture.drained(run));
    capture.close();
    Ok(())
}

fn flood(mut out: File) {
    let block: Vec<u8> =
        (0..16_384).flat_map(|n| format!("{n:012} {}\n", "x".repeat(86)).into_bytes()).collect();
    for part in block.chunks(65_536).cycle().take(BYTES / 65_536) {
        if out.write_all(part).is_err() {
            return;
        }
    }
}

fn formats(c: &mut Criterion, runtime: &Runtime) {
    let mut group = c.benchmark_group("capture");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(10);
    for (name, format, secrets) in [
        ("raw", LogFormat::Raw, 0),
        ("text", LogFormat::Text, 0),
        ("text, ten secrets", LogFormat::Text, 10),
        ("json, ten secrets", LogFormat::Json, 10),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let begin = Instant::now();
                for _ in 0..rounds {
                    let Ok(dir) = tempfile::tempdir() else { return Duration::ZERO };
                    let Ok(pipes) = pipes(LogFormat::Raw) else { return Duration::ZERO };
                    drop(pipes.child_stderr);
                    let writer = std::thread::spawn(|| flood(File::from(pipes.child_stdout)));
                    let done = capture(runtime, dir.path(), pipes.stdout, format, secrets);
                    if done.is_err() || writer.join().is_err() {
                        return Duration::ZERO;
                    }
                }
                begin.elapsed()
            });
        });
    }
    group.finish();
}

/// Seconds of CPU time of this process, ended threads included: user and system, from `/proc/self/stat` (proc(5),
/// fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    if let Some(dir) = std::env::var_os("KISSOPS_CAPTURE_DIR") {
        let format = match std::env::var("KISSOPS_CAPTURE_FORMAT").as_deref() {
            Ok("raw") => LogFormat::Raw,
            Ok("json") => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let secrets = std::env::var("KISSOPS_CAPTURE_SECRETS").ok().and_then(|n| n.parse().ok());
        let Ok(stdout) = std::io::stdin().as_fd().try_clone_to_owned() else { return };
        let begin = Instant::now();
        let done = capture(&runtime, Path::new(&dir), stdout, format, secrets.unwrap_or(0));
        println!("{done:?} wall {:.3} cpu {:.3}", begin.elapsed().as_secs_f64(), cpu_seconds());
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    formats(&mut criterion, &runtime);
    criterion.final_summary();
}
