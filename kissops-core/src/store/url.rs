//! Which database, as one line of text; and how to open it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::Store;
#[cfg(feature = "postgres")]
use super::postgres::{PostgresOptions, PostgresStore};
#[cfg(feature = "sqlite")]
use super::sqlite::{SqliteOptions, SqliteStore};
use crate::{Error, Result};

/// Which database. Prints without its password.
#[derive(Clone)]
#[non_exhaustive]
pub enum StoreUrl {
    /// One file: `sqlite:kissops.db`.
    Sqlite(PathBuf),
    /// A server's database: `postgres://user:password@host/database`. Secret, since there may be a password in it.
    Postgres(SecretString),
}

impl StoreUrl {
    /// Reads `sqlite:PATH` or `postgres://…`; a relative path is taken from `folder`.
    ///
    /// ```
    /// use std::path::Path;
    /// use kissops_core::store::StoreUrl;
    /// let url = StoreUrl::parse("sqlite:bots.db", Path::new("/var/lib/bots"))?;
    /// assert_eq!(url.to_string(), "sqlite:/var/lib/bots/bots.db");
    /// let url = StoreUrl::parse("postgres://bots:geheim@db.example.org/bots", Path::new("/"))?;
    /// assert_eq!(url.to_string(), "postgres://bots@db.example.org/bots");
    /// # Ok::<(), kissops_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without the text, which may hold a password.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let odd = path.starts_with(':') || path.contains(['?', '\0']) || path.ends_with('/');
            if path.is_empty() || odd {
                return Err(Error::invalid(
                    "the URL of the store",
                    "must name a file after sqlite:, for example sqlite:kissops.db",
                ));
            }
            return Ok(Self::Sqlite(folder.join(path)));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.into()));
        }
        Err(Error::invalid(
            "the URL of the store",
            "must be sqlite:FILE or postgres://USER:PASSWORD@HOST/DATABASE",
        ))
    }
}

impl StoreUrl {
    /// The password, or as much of the text as may be one.
    pub(crate) fn password(&self) -> Option<SecretString> {
        let Self::Postgres(url) = self else { return None };
        let (_, rest) = url.expose_secret().split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let before = rest.rsplit_once('@').and_then(|(account, _)| account.split_once(':'));
        let password = match before {
            Some((_, password)) => password,
            None => query.split('&').find_map(|pair| pair.strip_prefix("password="))?,
        };
        (!password.is_empty()).then(|| password.into())
    }

    /// Whether a password stands in it.
    pub(crate) fn has_password(&self) -> bool {
        self.password().is_some()
    }
}

impl PartialEq for StoreUrl {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sqlite(one), Self::Sqlite(two)) => one == two,
            (Self::Postgres(one), Self::Postgres(two)) => {
                one.expose_secret() == two.expose_secret()
            }
            _ => false,
        }
    }
}

impl Eq for StoreUrl {}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_secrets(url.expose_secret())),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// Without the password, and without what follows the `?`: a password may stand there too.
fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    let Some((scheme, rest)) = url.split_once("://") else { return "postgres://…".into() };
    // The last @ before the path: an unescaped one in a password must not show what stands before it.
    if let Some((account, host)) = rest.rsplit_once('@') {
        let user = account.split_once(':').map_or(account, |(user, _)| user);
        format!("{scheme}://{user}@{host}")
    } else {
        let host = rest.split('/').next().unwrap_or_default();
        let port = host.rsplit_once(':').map_or("", |(_, port)| port);
        // Not a port: then it may be a password whose @ was forgotten.
        let odd = !port.bytes().all(|byte| byte.is_ascii_digit() || byte == b']');
        if odd { format!("{scheme}://…") } else { format!("{scheme}://{rest}") }
    }
}

/// What the engines can be told, each as far as it concerns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// For `sqlite:`.
    #[cfg(feature = "sqlite")]
    pub sqlite: SqliteOptions,
    /// For `postgres:`.
    #[cfg(feature = "postgres")]
    pub postgres: PostgresOptions,
}

/// Opens the database of `url`, makes it where that is a file that is not there yet, and brings its schema up to date.
///
/// # Errors
/// As [`SqliteStore::open`](super::sqlite::SqliteStore::open) or
/// [`PostgresStore::connect`](super::postgres::PostgresStore::connect); [`Error::InvalidConfig`] for an engine that this
/// build does not have.
pub async fn open(url: &StoreUrl, options: StoreOptions) -> Result<Arc<dyn Store>> {
    match url {
        #[cfg(feature = "sqlite")]
        StoreUrl::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path, options.sqlite)?)),
        #[cfg(feature = "postgres")]
        StoreUrl::Postgres(url) => {
            Ok(Arc::new(PostgresStore::connect(url, options.postgres).await?))
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => {
            let _ = options;
            Err(Error::invalid(
                "the URL of the store",
                "names an engine that this build does not have",
            ))
        }
    }
}

/// The version of the schema that is there; `None` where there is no store: no file or an empty one, or a database
/// without its tables. Changes nothing.
///
/// # Errors
/// As [`open`].
pub async fn schema_version(url: &StoreUrl) -> Result<Option<u32>> {
    match url {
        #[cfg(feature = "sqlite")]
        StoreUrl::Sqlite(path) => super::sqlite::schema_version(path),
        #[cfg(feature = "postgres")]
        StoreUrl::Postgres(url) => super::postgres::schema_version(url).await,
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => Err(Error::invalid(
            "the URL of the store",
            "names an engine that this build does not have",
        )),
    }
}

/// The version of the schema that this program makes and reads.
#[must_use]
pub fn newest_schema_version() -> u32 {
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    return super::migrate::MIGRATIONS.last().map_or(0, |step| step.version);
    #[cfg(not(any(feature = "sqlite", feature = "postgres")))]
    return 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://u:geheim@h/d",
            "postgres://u:ge@geheim@h/d",
            "postgres://h/d?password=geheim&user=u",
            "postgresql://u:geheim@/d?host=/run/postgresql",
            "postgres://u:geheim",
        ] {
            let url = StoreUrl::parse(text, Path::new("/")).unwrap();
            let shown = format!("{url} {url:?}");
            assert!(!shown.contains("geheim"), "{shown}");
        }
        for text in ["postgres:geheim", "mysql://u:geheim@h/d", "geheim", "sqlite:geheim?x"] {
            let err = StoreUrl::parse(text, Path::new("/")).unwrap_err();
            assert!(!err.to_string().contains("geheim"), "{err}");
        }
    }
}
