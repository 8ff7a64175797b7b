//! Rows of a table that hold Fernet tokens.

use std::{collections::BTreeSet, path::PathBuf};

use rusqlite::{Row, types::ValueRef};
use secrecy::SecretString;

use super::{
    CHUNK, Skipped,
    table::{Foreign, listed, quoted},
    when,
};
use crate::{
    Error, Result, Timestamp,
    store::{GrantFlow, GrantKey},
    vault::{FernetKeys, NewTokens, TokenSet},
};

/// A cell that is longer holds no token.
const LONGEST: usize = 64 << 10;

/// Where a predecessor has its tokens.
#[derive(Clone, Debug)]
pub struct FernetTable {
    /// The `SQLite` file.
    pub file: PathBuf,
    /// The table or view.
    pub table: String,
    /// Which columns hold what.
    pub columns: FernetColumns,
    /// Of which provider the grants are.
    pub provider: String,
}

/// The names of columns. In those of tokens are Fernet tokens, as text or as bytes; the others hold plain values.
#[derive(Clone, Debug)]
pub struct FernetColumns {
    /// Whose grant.
    pub account: String,
    /// The access token.
    pub access: String,
    /// The refresh token.
    pub refresh: Option<String>,
    /// When the access token expires: seconds or milliseconds since 1970, or a date and time (UTC unless it says
    /// otherwise). Nothing or 0 where it is not known.
    pub expires: Option<String>,
    /// What the account has allowed: an array in JSON, or words between blanks or commas.
    pub scopes: Option<String>,
    /// Who that is by number: a row without an account is known by this.
    pub user_id: Option<String>,
}

/// What was read of a thousand rows.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) good: Vec<NewTokens>,
    pub(super) skipped: Vec<Skipped>,
}

/// Reads what a predecessor has kept as Fernet tokens in a table, for [`Importer::grants`](super::Importer::grants) or
/// whoever else takes it over. `each` gets the grants of at most a thousand rows with those that do not verify, and says
/// whether to go on.
///
/// The file is only read, and nothing is put beside it. Blocks for as long as the disk does.
///
/// # Errors
/// - [`NotFound`](Error::NotFound) for a file, table or column that is not there.
/// - [`WrongState`](Error::WrongState) for a file with a log that only a program that writes can take up.
/// - [`Conflict`](Error::Conflict) if the file was changed meanwhile: read it again.
pub fn read_fernet(
    source: &FernetTable,
    keys: &FernetKeys,
    mut each: impl FnMut(Vec<NewTokens>, Vec<Skipped>) -> bool,
) -> Result<()> {
    read(source, keys, |Chunk { good, skipped }| each(good, skipped))
}

/// Reads all rows, and hands them out by chunks until that is refused.
pub(super) fn read(
    source: &FernetTable,
    keys: &FernetKeys,
    mut each: impl FnMut(Chunk) -> bool,
) -> Result<()> {
    let foreign = Foreign::open(&source.file)?;
    let sql = select(source, &foreign.columns(&source.table)?)?;
    let mut statement = foreign.db.prepare(&sql).map_err(|err| foreign.failed(&err))?;
    let mut rows = statement.raw_query();
    let mut chunk = Chunk::default();
    for number in 1_u64.. {
        let Some(row) = rows.next().map_err(|err| foreign.failed(&err))? else { break };
        match of_row(source, keys, row, number).map_err(|err| foreign.failed(&err))? {
            Ok(new) => chunk.good.push(new),
            Err(skipped) => chunk.skipped.push(skipped),
        }
        if chunk.good.len() + chunk.skipped.len() == CHUNK && !each(std::mem::take(&mut chunk)) {
            return Ok(());
        }
    }
    // What follows concerns all of it, also if this is refused.
    each(chunk);
    foreign.unchanged()
}

/// The columns, in the order of the fields; NULL for those that are not there.
fn select(source: &FernetTable, there: &[String]) -> Result<String> {
    let FernetColumns { account, access, refresh, expires, scopes, user_id } = &source.columns;
    let wanted = [
        Some(account),
        Some(access),
        refresh.as_ref(),
        expires.as_ref(),
        scopes.as_ref(),
        user_id.as_ref(),
    ];
    let column = |name: Option<&String>| {
        let Some(name) = name else { return Ok("NULL".to_owned()) };
        if there.iter().any(|column| column.eq_ignore_ascii_case(name)) {
            return Ok(quoted(name));
        }
        Err(Error::NotFound {
            what: format!(
                "column `{}` in table `{}`: there is {}",
                name.escape_debug(),
                source.table.escape_debug(),
                listed(there)
            ),
        })
    };
    let columns: Vec<String> = wanted.into_iter().map(column).collect::<Result<_>>()?;
    Ok(format!("SELECT {} FROM {}", columns.join(", "), quoted(&source.table)))
}

fn of_row(
    source: &FernetTable,
    keys: &FernetKeys,
    row: &Row<'_>,
    number: u64,
) -> rusqlite::Result<Result<NewTokens, Skipped>> {
    let mut cells = [ValueRef::Null; 6];
    for (at, cell) in cells.iter_mut().enumerate() {
        *cell = row.get_ref(at)?;
    }
    let [account, access, refresh, expires, scopes, user_id] = cells;
    let account = name(account).or_else(|| name(user_id));
    let new = tokens(keys, [access, refresh, expires, scopes]).and_then(|tokens| {
        let account = account.clone().ok_or("has no account")?;
        let key = GrantKey { provider: source.provider.clone(), account };
        Ok(NewTokens { key, flow: GrantFlow::Imported, tokens, instances: None })
    });
    Ok(new.map_err(|reason| {
        let row = format!("row {number}");
        Skipped::new(&account.filter(|name| is_shown(name)).unwrap_or(row), reason)
    }))
}

/// Whether it may be said. The columns may be mixed up, and a token stand where a name should.
fn is_shown(name: &str) -> bool {
    name.len() <= 64 && !name.starts_with("gAAAA")
}

fn tokens(
    keys: &FernetKeys,
    [access, refresh, expires, scopes]: [ValueRef<'_>; 4],
) -> Result<TokenSet, String> {
    let access = open(keys, access).map_err(|fault| format!("its access token {fault}"))?;
    let refresh = open(keys, refresh).map_err(|fault| format!("its refresh token {fault}"))?;
    let expires = time(expires).map_err(|rule| format!("its expiry {rule}"))?;
    Ok(TokenSet {
        access: access.ok_or("has no access token")?,
        refresh,
        access_expires_at: expires,
        refresh_expires_at: None,
        idle_expires_at: None,
        scopes: scope_set(scopes)?,
    })
}

/// A token, if there is one in the cell.
fn open(keys: &FernetKeys, cell: ValueRef<'_>) -> Result<Option<SecretString>, String> {
    let sealed = match cell {
        ValueRef::Null | ValueRef::Text([]) | ValueRef::Blob([]) => return Ok(None),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Integer(_) | ValueRef::Real(_) => {
            return Err("is a number, and no Fernet token".into());
        }
    };
    if sealed.len() > LONGEST {
        return Err("is too long for a token".into());
    }
    let plain = keys.open(sealed).map_err(|fault| fault.to_string())?;
    let text = std::str::from_utf8(&plain).map_err(|_| "decrypts to what is no text")?;
    Ok(Some(text.into()))
}

fn name(cell: ValueRef<'_>) -> Option<String> {
    match cell {
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.len() <= LONGEST => {
            std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned)
        }
        _ => None,
    }
}

fn time(cell: ValueRef<'_>) -> Result<Option<Timestamp>, &'static str> {
    match cell {
        ValueRef::Null => Ok(None),
        ValueRef::Integer(number) => when::of_int(number),
        ValueRef::Real(number) => when::of_real(number),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            when::of_text(std::str::from_utf8(bytes).unwrap_or("no text"))
        }
    }
}

fn scope_set(cell: ValueRef<'_>) -> Result<Option<BTreeSet<String>>, &'static str> {
    let (ValueRef::Text(bytes) | ValueRef::Blob(bytes)) = cell else { return Ok(None) };
    let text = std::str::from_utf8(bytes).map_err(|_| "its scopes are no text")?.trim();
    if text.starts_with('[') {
        return serde_json::from_str(text).map(Some).map_err(|_| "its scopes are no list in JSON");
    }
    Ok(Some(super::words(text)))
}
