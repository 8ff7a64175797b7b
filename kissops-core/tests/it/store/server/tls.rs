//! STO-4: TLS is checked. Certificates are made by `openssl`, which comes with Debian's Postgres.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use kissops_core::{
    Error,
    store::{InstanceStore as _, postgres::PostgresOptions},
};
use tokio::task::block_in_place;

use super::{CANARY, connect, options, run, says};
use crate::postgres::PrivateServer;

fn openssl(folder: &Path, arguments: &str) -> bool {
    let mut openssl = Command::new("openssl");
    let done = openssl.args(arguments.split(' ')).current_dir(folder).output();
    done.is_ok_and(|done| done.status.success())
}

/// An authority, a certificate of it for `localhost`, and one that is signed by itself. `false` without openssl.
fn make_certificates(folder: &Path) -> bool {
    fs::write(folder.join("host.ext"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .unwrap();
    [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout host.key -out host.csr",
        "x509 -req -in host.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile host.ext -out host.crt",
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout self.key -out self.crt",
    ]
    .iter()
    .all(|arguments| openssl(folder, arguments))
}

/// Restarts `server` with a certificate, on a port that was free a moment ago.
fn serve(server: &mut PrivateServer, certificates: &Path, name: &str) -> u16 {
    for (file, suffix) in [("server.crt", "crt"), ("server.key", "key")] {
        let text = fs::read_to_string(certificates.join(format!("{name}.{suffix}"))).unwrap();
        server.write(file, &text);
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = ["ssl=on", "listen_addresses=127.0.0.1", &format!("port={port}")];
    server.set(&settings);
    server.restart();
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_certificate_of_a_known_authority_for_the_host_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut server) = PrivateServer::start() else { return };
    if !block_in_place(|| make_certificates(folder.path())) {
        println!("skipped: there is no openssl");
        return;
    }
    run(&server.url(), &format!("CREATE ROLE bot SUPERUSER LOGIN PASSWORD '{CANARY}'")).await;
    server
        .write("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
    let quick = PostgresOptions { connect_timeout: Duration::from_secs(5), ..options() };
    let known = format!("sslrootcert={}", folder.path().join("ca.crt").display());
    let url = |host: &str, port: u16, query: &str| {
        format!("postgres://bot:{CANARY}@{host}:{port}/postgres?{query}")
    };

    let port = block_in_place(|| serve(&mut server, folder.path(), "self"));
    let err =
        connect(&url("localhost", port, "sslmode=verify-full"), quick.clone()).await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    says(&err, &["no trusted certificate", "sslrootcert"]);

    let port = block_in_place(|| serve(&mut server, folder.path(), "host"));
    let query = format!("sslmode=verify-full&{known}");
    let store = connect(&url("localhost", port, &query), quick.clone()).await.unwrap();
    assert!(store.instances().await.unwrap().is_empty());
    let err = connect(&url("127.0.0.1", port, &query), quick.clone()).await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    says(&err, &["no trusted certificate", "not valid for name"]);
    // Another host's name for a certificate of a known authority is what verify-ca is for.
    let query = format!("sslmode=verify-ca&{known}");
    connect(&url("127.0.0.1", port, &query), quick.clone()).await.unwrap();
    let query = "sslmode=verify-full&sslrootcert=/nowhere/ca.crt";
    let err = connect(&url("localhost", port, query), quick.clone()).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    says(&err, &["sslrootcert"]);
    // Refused by the server: it wants TLS.
    let err = connect(&url("localhost", port, "sslmode=disable"), quick.clone()).await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");

    server.set(&["listen_addresses=127.0.0.1", &format!("port={port}")]);
    block_in_place(|| server.restart());
    let err = connect(&url("localhost", port, "sslmode=verify-full"), quick).await.unwrap_err();
    assert!(matches!(err, Error::Denied { .. }), "{err:?}");
    says(&err, &["server does not support TLS"]);
}
