//! What everything shares that speaks to a Postgres server: how its URL is read, and what its errors mean.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

#[cfg(feature = "sqlite")]
pub(crate) use self::digest::Digest;
pub(crate) use self::place::{Place, broke_connection, chain, code, is_about_data};
use crate::Result;

#[cfg(feature = "sqlite")]
mod digest;
mod place;
pub(crate) mod url;

const CONNECT: Duration = Duration::from_secs(10);

/// A name as SQL, whatever it is.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// One connection outside of any pool, whose statements may take as long as they need. `what` it is that is there
/// ("the store") stands in its errors.
pub(crate) async fn connect(
    what: &'static str,
    url: &SecretString,
) -> Result<(PgConnection, Place)> {
    let options = url::parse(url.expose_secret(), Duration::ZERO)?;
    let place = Place::new(what, &options);
    match timeout(CONNECT, PgConnection::connect_with(&options)).await {
        Ok(Ok(conn)) => Ok((conn, place)),
        Ok(Err(err)) => Err(place.explain_sql(err)),
        Err(_) => Err(place.silent(CONNECT)),
    }
}
