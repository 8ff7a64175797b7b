//! Variables of a `.env` file.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::{Imported, Skipped, file::read_private, when};
use crate::{
    Error, Result,
    config::parse_env,
    id::InstanceName,
    store::{GrantFlow, GrantKey},
    vault::{Keyring, MaxAge, NewTokens, SecretKind, Secrets, TokenSet},
};

/// The largest file, in bytes.
const LARGEST: u64 = 1 << 20;

/// What becomes of the variables of a file. Those that it does not name are left.
#[derive(Clone, Debug, Default)]
pub struct EnvPlan {
    /// These become secrets.
    pub secrets: Vec<EnvSecret>,
    /// These become grants.
    pub grants: Vec<EnvGrant>,
}

/// A variable that becomes a secret.
#[derive(Clone, Debug)]
pub struct EnvSecret {
    /// The variable.
    pub variable: String,
    /// What the secret is called.
    pub name: String,
    /// What it is.
    pub kind: SecretKind,
}

/// Variables that become a grant.
#[derive(Clone, Debug)]
pub struct EnvGrant {
    /// Which grant.
    pub key: GrantKey,
    /// The variable with the access token.
    pub access: String,
    /// The one with the refresh token.
    pub refresh: Option<String>,
    /// The one that says when the access token expires: in seconds since 1970, or as a date and time.
    pub expires: Option<String>,
    /// What the account has allowed, if it is known.
    pub scopes: Option<BTreeSet<String>>,
    /// The instances that it is handed to.
    pub instances: Option<BTreeSet<InstanceName>>,
}

pub(super) type Variables = HashMap<String, SecretString>;

pub(super) fn read(path: &Path) -> Result<Variables> {
    let text = read_private(path, LARGEST)?;
    let lines = parse_env(&text)
        .map_err(|(line, rule)| Error::invalid(format!("{}:{line}", path.display()), rule))?;
    Ok(lines.into_iter().map(|line| (line.key, line.value.into())).collect())
}

/// The grants, and those of which something is missing.
pub(super) fn grants(variables: &Variables, plan: Vec<EnvGrant>) -> (Vec<NewTokens>, Vec<Skipped>) {
    let (mut good, mut skipped) = (Vec::new(), Vec::new());
    for one in plan {
        match tokens(variables, &one) {
            Ok(tokens) => good.push(NewTokens {
                key: one.key,
                flow: GrantFlow::Imported,
                tokens,
                instances: one.instances,
            }),
            Err(reason) => skipped.push(Skipped::new(&one.key.account, reason)),
        }
    }
    (good, skipped)
}

fn tokens(variables: &Variables, plan: &EnvGrant) -> Result<TokenSet, String> {
    let get = |name: &String| variables.get(name).cloned().ok_or_else(|| not_there(name));
    let expires = plan.expires.as_ref().map(|name| {
        let text = get(name)?;
        when::of_text(text.expose_secret()).map_err(|rule| format!("variable {name} {rule}"))
    });
    Ok(TokenSet {
        access: get(&plan.access)?,
        refresh: plan.refresh.as_ref().map(get).transpose()?,
        access_expires_at: expires.transpose()?.flatten(),
        refresh_expires_at: None,
        idle_expires_at: None,
        scopes: plan.scopes.clone(),
    })
}

fn not_there(name: &str) -> String {
    format!("there is no variable {} in the file", name.escape_debug())
}

/// Keeps the secrets that are not there yet.
pub(super) async fn secrets(
    keyring: &Keyring,
    variables: &Variables,
    plan: Vec<EnvSecret>,
    done: &mut Imported,
) -> Result<()> {
    let keeper = Secrets::new(keyring.clone())?;
    for EnvSecret { variable, name, kind } in plan {
        let mut skip = |reason: String| {
            done.skipped.push(Skipped::new(&format!("secret {name}"), reason));
        };
        let Some(value) = variables.get(&variable) else {
            skip(not_there(&variable));
            continue;
        };
        match keeper.get(&name).await {
            Ok(kept) if kept.expose_secret() == value.expose_secret() => done.present += 1,
            Ok(_) => skip("has another value in the vault, which was kept".into()),
            Err(Error::NotFound { .. }) => {
                match keeper.set(&name, kind, value, MaxAge::Keep).await {
                    Ok(_) => done.imported += 1,
                    Err(Error::InvalidConfig { key, rule }) => skip(format!("{key} {rule}")),
                    Err(err) => return Err(err),
                }
            }
            Err(Error::InvalidConfig { key, rule }) => skip(format!("{key} {rule}")),
            Err(err) => return Err(err),
        }
    }
    Ok(())
}
