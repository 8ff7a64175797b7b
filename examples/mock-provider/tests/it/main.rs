//! The provider as its clients meet it: over real connections.

#![expect(clippy::unwrap_used, reason = "the functions around the tests are tests, too")]

mod api;
mod flows;
mod program;

mod refresh;
mod replies;

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use kissops_mock_provider::{
    CLIENT_ID, CLIENT_SECRET, ImportRow, Knobs, MockProvider, NewAccounts, Rotation, Scope,
};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

/// What came back on a connection of its own.
#[derive(Debug)]
struct Got {
    /// 0: nothing came.
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    fn text(&self, member: &str) -> String {
        let json = self.json();
        json[member].as_str().unwrap_or_else(|| panic!("no {member} in {json}")).to_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        let start = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    }
}

/// Sends a request as it is, reads until the end of the connection.
fn send(to: SocketAddr, text: &str) -> Got {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut all = Vec::new();
    // A connection that is cut may end in an error; what had come is what counts.
    let _ = stream.read_to_end(&mut all);
    let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Got { status: 0, head: String::new(), body: all };
    };
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Got { status, head, body: all[end + 4..].to_vec() }
}

fn request(to: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> Got {
    let mut text = format!("{line} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let _ = write!(text, "content-length: {}\r\n\r\n{body}", body.len());
    send(to, &text)
}

fn post(mock: &MockProvider, path: &str, form: &[(&str, &str)]) -> Got {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    request(mock.address(), &format!("POST {path}"), &kind, &body)
}

fn get(mock: &MockProvider, path: &str, authorization: &str) -> Got {
    request(mock.address(), &format!("GET {path}"), &[("authorization", authorization)], "")
}

fn validate(mock: &MockProvider, access: &str) -> Got {
    get(mock, "/oauth2/validate", &format!("OAuth {access}"))
}

fn refresh_at(mock: &MockProvider, path: &str, refresh: &str) -> Got {
    post(
        mock,
        path,
        &[
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("client_secret", CLIENT_SECRET),
            ("refresh_token", refresh),
        ],
    )
}

fn refresh(mock: &MockProvider, refresh: &str) -> Got {
    refresh_at(mock, "/oauth2/token", refresh)
}

async fn start() -> MockProvider {
    MockProvider::start().await.unwrap()
}

/// One account, and what its refresh tokens are like.
async fn with(rotation: Rotation) -> (MockProvider, ImportRow) {
    let mock = start().await;
    let knobs = Knobs { rotation: Some(rotation), ..Knobs::default() };
    mock.set(&Scope::All, knobs).unwrap();
    let row = account(&mock, "ann");
    (mock, row)
}

fn account(mock: &MockProvider, name: &str) -> ImportRow {
    mock.add_accounts(&NewAccounts::named(name)).unwrap().remove(0)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < DEADLINE, "{what} took too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}
