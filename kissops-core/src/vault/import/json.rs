//! Grants as a list in JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Skipped, file::read_private, when};
use crate::{
    Error, Result, Timestamp,
    id::InstanceName,
    store::{GrantFlow, GrantKey},
    vault::{NewTokens, TokenSet},
};

/// The largest file, in bytes: some hundred thousand grants.
const LARGEST: u64 = 256 << 20;

const FIELDS: [&str; 8] = [
    "provider",
    "account",
    "access_token",
    "refresh_token",
    "expires_at",
    "refresh_expires_at",
    "scopes",
    "instances",
];

/// Reads grants from a file of mode 600 that belongs to the user of this program: a list of
/// `{"provider", "account", "access_token", "refresh_token", "expires_at", "scopes"}`, of which the last three may be
/// missing. Times are RFC 3339 or seconds since 1970. Beside the grants are those that cannot be read, by their place in
/// the list, from 1.
///
/// Blocks for as long as the disk does.
///
/// # Errors
/// - [`NotFound`](Error::NotFound) if there is no such file.
/// - [`Denied`](Error::Denied) for a file that others may read or that is another's, with what mends it.
/// - [`InvalidConfig`](Error::InvalidConfig) if it is no list in JSON; shows nothing of what is in it.
pub fn read_json(path: &Path) -> Result<(Vec<NewTokens>, Vec<Skipped>)> {
    let text = read_private(path, LARGEST)?;
    let items: Vec<&RawValue> = serde_json::from_str(&text).map_err(|err| {
        // The message itself may quote what is there.
        let at = format!("{}:{}:{}", path.display(), err.line(), err.column());
        Error::invalid(
            at,
            "must be a list in JSON: [{\"provider\", \"account\", \"access_token\", …}, …]",
        )
    })?;
    let (mut good, mut skipped) = (Vec::with_capacity(items.len()), Vec::new());
    for (number, item) in (1..).zip(items) {
        let place = format!("item {number}");
        match Item::of(item) {
            Err(reason) => skipped.push(Skipped::new(&place, reason)),
            Ok(item) => match item.tokens() {
                Ok(new) => good.push(new),
                Err(reason) => {
                    let account = item.text("account").ok().flatten();
                    let reason = format!("{place}: {reason}");
                    skipped.push(Skipped::new(&account.unwrap_or(place), reason));
                }
            },
        }
    }
    Ok((good, skipped))
}

/// The fields as they stand there.
struct Item<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Item<'a> {
    fn of(raw: &'a RawValue) -> Result<Self, &'static str> {
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(raw.get()).map_err(|_| "is no object")?;
        // A field that is misspelt would be lost without a word.
        if fields.keys().any(|name| !FIELDS.contains(&name.as_str())) {
            return Err(
                "has another field than provider, account, access_token, refresh_token, expires_at, refresh_expires_at, scopes and instances",
            );
        }
        Ok(Self(fields))
    }

    fn tokens(&self) -> Result<NewTokens, String> {
        let key = GrantKey {
            provider: self.text("provider")?.ok_or("provider is missing")?,
            account: self.text("account")?.ok_or("account is missing")?,
        };
        let names: Option<BTreeSet<String>> = self.value("instances", "a list of names")?;
        let names = names.map(|names| names.iter().map(|name| InstanceName::new(name)).collect());
        let instances = names.transpose().map_err(|err: Error| err.to_string())?;
        let tokens = TokenSet {
            access: self.secret("access_token")?.ok_or("access_token is missing")?,
            refresh: self.secret("refresh_token")?,
            access_expires_at: self.time("expires_at")?,
            refresh_expires_at: self.time("refresh_expires_at")?,
            idle_expires_at: None,
            scopes: self.scopes()?,
        };
        Ok(NewTokens { key, flow: GrantFlow::Imported, tokens, instances })
    }

    /// A field; `None` if it is missing or null.
    fn value<T: DeserializeOwned>(&self, name: &str, what: &str) -> Result<Option<T>, String> {
        let Some(raw) = self.0.get(name) else { return Ok(None) };
        // Whatever is wrong, its message may quote it.
        serde_json::from_str(raw.get()).map_err(|_| format!("{name} must be {what}"))
    }

    fn text(&self, name: &str) -> Result<Option<String>, String> {
        let text: Option<String> = self.value(name, "a text")?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn secret(&self, name: &str) -> Result<Option<SecretString>, String> {
        let secret: Option<SecretString> = self.value(name, "a text")?;
        Ok(secret.filter(|secret| !secrecy::ExposeSecret::expose_secret(secret).is_empty()))
    }

    fn time(&self, name: &str) -> Result<Option<Timestamp>, String> {
        let Some(raw) = self.0.get(name).filter(|raw| raw.get() != "null") else { return Ok(None) };
        let text = serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
        when::of_text(&text).map_err(|rule| format!("{name} {rule}"))
    }

    fn scopes(&self) -> Result<Option<BTreeSet<String>>, String> {
        match self.value::<String>("scopes", "a list") {
            Ok(text) => Ok(text.map(|text| super::words(&text))),
            Err(_) => self.value("scopes", "a list of texts"),
        }
    }
}
