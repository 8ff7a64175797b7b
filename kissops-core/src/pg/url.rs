//! From a URL to the options of a connection.

use std::{net::IpAddr, str::FromStr as _, time::Duration};

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{Error, Result};

/// How long a transaction may wait for its next statement. A machine that is cut off inside one keeps all others from what
/// that has locked, the mark of ids above all; those wait for the time-out of a statement, which is longer.
const IDLE_INSIDE: Duration = Duration::from_secs(5);

/// What `text` says, with this program's settings. The text is in no error: it may hold a password.
pub(crate) fn parse(text: &str, statement_timeout: Duration) -> Result<PgConnectOptions> {
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        return Err(wrong());
    }
    // It would log a parameter that it does not know with its value: a password behind a misspelt key.
    let silence = tracing::subscriber::NoSubscriber::default();
    let mut options =
        tracing::subscriber::with_default(silence, || PgConnectOptions::from_str(text))
            .map_err(|_| wrong())?;
    // libpq's default, `prefer`, lets anybody in between read along.
    let asked = text.split_once('?').map_or("", |(_, query)| query);
    let said = asked.contains("sslmode=")
        || asked.contains("ssl-mode=")
        || std::env::var_os("PGSSLMODE").is_some();
    if !said && !is_local(&options) {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("kissops");
    }
    // Zero is for no limit, as it is for the server.
    let limit = statement_timeout.as_millis().to_string();
    let idle = if statement_timeout.is_zero() { Duration::ZERO } else { IDLE_INSIDE };
    let idle = idle.as_millis().to_string();
    let options = options.options([
        ("statement_timeout", limit.as_str()),
        ("idle_in_transaction_session_timeout", idle.as_str()),
        // What the statements are written for.
        ("default_transaction_isolation", "read committed"),
    ]);
    Ok(options.disable_statement_logging())
}

fn wrong() -> Error {
    Error::invalid(
        "the Postgres URL",
        "must read postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters as %XX",
    )
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> PgSslMode {
        parse(url, Duration::from_secs(1)).unwrap().get_ssl_mode()
    }

    #[test]
    fn tls_is_the_default_off_the_machine() {
        for url in ["postgres://u:p@db.example.org/x", "postgresql://10.0.0.7:6432/x"] {
            assert!(matches!(mode(url), PgSslMode::VerifyFull), "{url}");
        }
        for url in [
            "postgres://localhost/x",
            "postgres://127.0.0.1/x",
            "postgres://u@localhost/x?host=/run/postgresql",
        ] {
            assert!(matches!(mode(url), PgSslMode::Prefer), "{url}");
        }
        let password = mode("postgres://u:sslmode=disable@db.example.org/x");
        assert!(matches!(password, PgSslMode::VerifyFull));
        let asked = mode("postgres://db.example.org/x?sslmode=disable");
        assert!(matches!(asked, PgSslMode::Disable));
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in ["postgres://u:geheim@h:notaport/x", "mysql://u:geheim@h/x", "postgres:geheim"] {
            let err = parse(url, Duration::from_secs(1)).unwrap_err();
            assert!(!err.chain().contains("geheim"), "{}", err.chain());
        }
    }
}
