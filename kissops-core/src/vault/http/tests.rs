//! Servers that misbehave, written to the byte.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::store::{Generation, GrantId};

/// For localhost, signed by itself, valid until 2120. Its key protects nothing.
const CERTIFICATE: &[u8] = include_bytes!("../../../tests/data/tls/localhost.pem");
const KEY: &[u8] = include_bytes!("../../../tests/data/tls/localhost.key");

/// Every whole request that arrived, by its body, and how often.
type Ledger = Arc<Mutex<BTreeMap<String, u32>>>;

struct Server {
    address: SocketAddr,
    ledger: Ledger,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Runs `script` for each connection, which it is told the number of.
    async fn new<F, S>(script: S) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
        S: Fn(u32, TcpStream, Ledger) -> F + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Ledger::default();
        let shared = Arc::clone(&ledger);
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                number += 1;
                tokio::spawn(script(number, stream, Arc::clone(&shared)));
            }
        });
        Self { address, ledger, task }
    }

    /// Reads one request of each connection and answers with these bytes, then closes.
    async fn answering(answer: &'static str) -> Self {
        Self::new(move |_, mut stream, ledger| async move {
            read_request(&mut stream, &ledger).await?;
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        })
        .await
    }

    async fn exchange(&self) -> Exchanged {
        exchange(&format!("http://{}/token", self.address), "one", LONG).await
    }

    fn arrived(&self) -> u32 {
        self.ledger.lock().unwrap().values().sum()
    }
}

/// Reads headers and as much body as they announce; `false` at the end of the connection.
async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    ledger: &Ledger,
) -> std::io::Result<bool> {
    let mut text = Vec::new();
    let end = loop {
        if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let mut some = [0; 1024];
        match stream.read(&mut some).await? {
            0 => return Ok(false),
            n => text.extend(&some[..n]),
        }
    };
    let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    let mut body = text.split_off(end);
    let have = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[have..]).await?;
    *ledger.lock().unwrap().entry(String::from_utf8(body).unwrap()).or_default() += 1;
    Ok(true)
}

const LONG: Duration = Duration::from_secs(20);
const SECRET: &str = "r3fresh+&= secret";

fn job(url: &str, id: &str, limit: Duration) -> ExchangeJob {
    ExchangeJob {
        ticket: Ticket { grant: GrantId(1), generation: Generation(1), attempt: 1 },
        request: TokenRequest {
            url: url.to_owned(),
            headers: vec![("authorization".to_owned(), "Basic c2VjcmV0".into())],
            form: vec![("id".to_owned(), id.into()), ("refresh_token".to_owned(), SECRET.into())],
            insecure: false,
        },
        limit,
        send_before: clock::since_boot() + LONG,
    }
}

async fn exchange(url: &str, id: &str, limit: Duration) -> Exchanged {
    let exchanger = HttpExchanger::new(Http::new().unwrap());
    let outcome = exchanger.exchange(job(url, id, limit)).await;
    assert_quiet(&outcome);
    outcome
}

/// No outcome shows what was sent.
fn assert_quiet(outcome: &Exchanged) {
    let shown = match outcome {
        Exchanged::NotSent(err) | Exchanged::Unanswered(err) => format!("{err:?} {}", err.chain()),
        Exchanged::Answered(answer) => format!("{answer:?}"),
    };
    for secret in ["r3fresh", "c2VjcmV0"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

fn answer(outcome: Exchanged) -> RawAnswer {
    match outcome {
        Exchanged::Answered(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_unanswered(outcome: &Exchanged, server: &Server) {
    assert!(matches!(outcome, Exchanged::Unanswered(_)), "{outcome:?}");
    assert_eq!(server.arrived(), 1);
}

#[tokio::test]
async fn vlt_8_an_answer_comes_as_it_was_sent() {
    let text = "HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nsorry";
    let server = Server::answering(text).await;
    let answer = answer(server.exchange().await);
    assert_eq!((answer.status, answer.retry_after.as_deref()), (429, Some("7")));
    assert_eq!(answer.body.expose_secret(), b"sorry");
    assert!(answer.sent_at <= answer.at);
    let wanted = "id=one&refresh_token=r3fresh%2B%26%3D+secret";
    assert_eq!(*server.ledger.lock().unwrap(), BTreeMap::from([(wanted.to_owned(), 1)]));
}

#[tokio::test]
async fn vlt_8_what_nobody_accepts_was_not_sent() {
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = format!("http://{}/token", taken.local_addr().unwrap());
    let unknown = "https://kissops.invalid/token";
    let clear = "http://id.example.org/token";
    for url in [&refused, unknown, clear, "nonsense"] {
        let outcome = exchange(url, "one", LONG).await;
        assert!(matches!(outcome, Exchanged::NotSent(_)), "{url}: {outcome:?}");
    }
}

#[tokio::test]
async fn vlt_8_a_connection_closed_at_once_is_never_an_answer() {
    let server = Server::new(|_, stream, _| async move {
        drop(stream);
        Ok(())
    })
    .await;
    let outcome = server.exchange().await;
    assert!(!matches!(outcome, Exchanged::Answered(_)), "{outcome:?}");
}

#[tokio::test]
async fn vlt_8_what_was_sent_and_not_answered_whole_is_in_doubt() {
    for cut in [
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\": \"ab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"acc\r\n",
        "nonsense\r\n\r\n",
    ] {
        let server = Server::answering(cut).await;
        assert_unanswered(&server.exchange().await, &server);
    }
}

#[tokio::test]
async fn vlt_10_a_whole_document_in_a_cut_answer_is_not_thrown_away() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\": \"ab\"}";
    let server = Server::answering(text).await;
    let answer = answer(server.exchange().await);
    assert_eq!(answer.body.expose_secret(), b"{\"access_token\": \"ab\"}");
}

#[tokio::test]
async fn vlt_8_slow_answers_count_against_the_limit() {
    for begin in ["", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"] {
        let server = Server::new(move |_, mut stream, ledger| async move {
            read_request(&mut stream, &ledger).await?;
            stream.write_all(begin.as_bytes()).await?;
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if !begin.is_empty() {
                    stream.write_all(b" ").await?;
                }
            }
        })
        .await;
        let url = format!("http://{}/token", server.address);
        let outcome = exchange(&url, "one", Duration::from_millis(300)).await;
        assert_unanswered(&outcome, &server);
    }
}

#[tokio::test]
async fn vlt_5_an_endless_answer_is_cut() {
    let server = Server::new(|_, mut stream, ledger| async move {
        read_request(&mut stream, &ledger).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'x'; 4096]).await?;
        }
    })
    .await;
    assert_eq!(answer(server.exchange().await).body.expose_secret().len(), RawAnswer::LARGEST);
}

#[tokio::test]
async fn vlt_5_a_redirect_is_an_answer() {
    let other = Server::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let location = other.address;
    let server = Server::new(move |_, mut stream, ledger| async move {
        read_request(&mut stream, &ledger).await?;
        let text = format!("HTTP/1.1 307 Go\r\nLocation: http://{location}/token\r\n\r\n");
        stream.write_all(text.as_bytes()).await
    })
    .await;
    assert_eq!(answer(server.exchange().await).status, 307);
    assert_eq!((server.arrived(), other.arrived()), (1, 0));
}

/// Connections that live for one to three requests and end in every way there is.
async fn moody(number: u32, mut stream: TcpStream, ledger: Ledger) -> std::io::Result<()> {
    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    for _ in 0..number % 3 {
        if !read_request(&mut stream, &ledger).await? {
            return Ok(());
        }
        stream.write_all(GOOD).await?;
    }
    match number % 5 {
        0 => Ok(()),
        1 => stream.shutdown().await,
        2 => read_request(&mut stream, &ledger).await.map(drop),
        3 => stream.read_u8().await.map(drop),
        _ => stream.set_zero_linger(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vlt_10_nothing_is_ever_sent_twice_and_not_sent_is_certain() {
    let server = Server::new(moody).await;
    let exchanger = Arc::new(HttpExchanger::new(Http::new().unwrap()));
    let url = format!("http://{}/token", server.address);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (exchanger, url) = (Arc::clone(&exchanger), url.clone());
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            for n in 0..100 {
                let id = format!("{task}-{n}");
                // Some are given up within a few instructions of being sent.
                let limit = if n % 4 == 0 { Duration::from_micros(40 * n) } else { LONG };
                outcomes.push((id.clone(), exchanger.exchange(job(&url, &id, limit)).await));
            }
            outcomes
        });
    }
    let outcomes: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let ledger = server.ledger.lock().unwrap().clone();
    let (mut answered, mut doubtful, mut not_sent) = (0, 0, 0);
    for (id, outcome) in &outcomes {
        let arrived = ledger.iter().find(|(body, _)| body.starts_with(&format!("id={id}&")));
        let arrived = arrived.map_or(0, |(_, count)| *count);
        match outcome {
            Exchanged::Answered(_) => {
                answered += 1;
                assert_eq!(arrived, 1, "{id}");
            }
            Exchanged::Unanswered(_) => {
                doubtful += 1;
                assert!(arrived <= 1, "{id}: {arrived}");
            }
            Exchanged::NotSent(err) => {
                not_sent += 1;
                assert_eq!(arrived, 0, "{id}: {}", err.chain());
            }
        }
    }
    assert!(answered > 50 && doubtful > 50, "{answered} {doubtful} {not_sent}");
}

fn over_tls() -> Http {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE).unwrap()).unwrap();
    Http::with_tls(tls::trusting(roots).unwrap(), None).unwrap()
}

/// A TLS server whose handshake takes `delay`.
async fn tls_server(delay: Duration) -> Server {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::new(move |_, stream, ledger| {
        let acceptor = acceptor.clone();
        async move {
            tokio::time::sleep(delay).await;
            let mut stream = acceptor.accept(stream).await?;
            answer_all(&mut stream, &ledger).await
        }
    })
    .await
}

async fn answer_all(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ledger: &Ledger,
) -> std::io::Result<()> {
    while read_request(stream, ledger).await? {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await?;
        stream.flush().await?;
    }
    Ok(())
}

fn https(server: &Server) -> String {
    format!("https://localhost:{}/token", server.address.port())
}

#[tokio::test]
async fn vlt_5_tls_works_without_a_provider_of_the_process() {
    let server = tls_server(Duration::ZERO).await;
    let outcome = HttpExchanger::new(over_tls()).exchange(job(&https(&server), "a", LONG)).await;
    assert_eq!(answer(outcome).status, 200);
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
    // An authority that is not trusted gets nothing.
    let outcome = exchange(&https(&server), "b", LONG).await;
    assert!(matches!(outcome, Exchanged::NotSent(_)), "{outcome:?}");
    assert_eq!(server.arrived(), 1);
}

#[tokio::test]
async fn vlt_7_the_right_to_send_is_checked_when_the_connection_stands() {
    let server = tls_server(Duration::from_millis(300)).await;
    let mut late = job(&https(&server), "late", LONG);
    late.send_before = clock::since_boot() + Duration::from_millis(50);
    let outcome = HttpExchanger::new(over_tls()).exchange(late).await;
    let Exchanged::NotSent(err) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    assert_eq!(server.arrived(), 0);
}

#[tokio::test]
async fn vlt_8_a_limit_that_ends_before_the_handshake_leaves_nothing_in_doubt() {
    let silent = Server::new(|_, mut stream, _| async move {
        stream.write_all(b"").await?;
        tokio::time::sleep(LONG).await;
        drop(stream);
        Ok(())
    })
    .await;
    let outcome = exchange(&https(&silent), "one", Duration::from_millis(200)).await;
    assert!(matches!(outcome, Exchanged::NotSent(_)), "{outcome:?}");
    let plain = Server::answering("HTTP/1.1 400 No\r\n\r\n").await;
    let outcome = exchange(&https(&plain), "one", Duration::from_millis(500)).await;
    assert!(matches!(outcome, Exchanged::NotSent(_)), "{outcome:?}");
}

#[test]
fn vlt_10_what_was_given_up_does_not_go_out_later() {
    let departure = Departure::default();
    drop(departure.hold());
    assert!(!departure.depart());
    let departure = Departure::default();
    assert_eq!(departure.hold().end(), Held::Back);
    assert!(!departure.depart());
    let departure = Departure::default();
    assert!(departure.depart());
    assert!(!departure.depart());
    assert!(matches!(departure.hold().end(), Held::Sent(_)));
}

#[test]
fn vlt_5_forms_are_encoded() {
    let form = [("a b".to_owned(), "ü%/?~".into()), ("c".to_owned(), "".into())];
    assert_eq!(*encode(&form), *b"a+b=%C3%BC%25%2F%3F%7E&c=");
}
