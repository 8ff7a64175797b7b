//! A daemon that follows a script: answers by path, over a real unix socket.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

/// What is answered to requests whose line begins with `start`.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) start: &'static str,
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(start: &'static str, body: &Value) -> Self {
        Self { start, status: 200, kind: "application/json", body: body.to_string() }
    }
}

/// Serves until it is dropped. An answer is used up unless it is the last one for its path.
pub(crate) struct Scripted {
    folder: TempDir,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Scripted {
    pub(crate) fn new(answers: Vec<Answer>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        // It ends with the process: a listener has no other way to be told.
        thread::spawn(move || {
            let mut answers = answers;
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let _ = serve(stream, &mut answers, &seen);
            }
        });
        Self { folder, asked }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Request lines and bodies so far.
    pub(crate) fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: UnixStream,
    answers: &mut Vec<Answer>,
    seen: &Mutex<Vec<(String, String)>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let line = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
    seen.lock().unwrap().push((line.clone(), String::from_utf8(body).unwrap_or_default()));
    let matching: Vec<usize> =
        (0..answers.len()).filter(|at| line.starts_with(answers[*at].start)).collect();
    let answer = match matching[..] {
        [] => Answer { start: "", status: 500, kind: "text/plain", body: String::new() },
        [only] => answers[only].clone(),
        [first, ..] => answers.remove(first),
    };
    // No length: the end of the connection ends the body, as with a daemon that goes away.
    write!(
        reader.get_mut(),
        "HTTP/1.1 {} Script\r\ncontent-type: {}\r\nconnection: close\r\n\r\n{}",
        answer.status,
        answer.kind,
        answer.body
    )
}
