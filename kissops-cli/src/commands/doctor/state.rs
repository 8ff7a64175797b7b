//! The store and the vault: reachable, of the right version, open, and waiting for nobody.

use kissops_core::{
    clock,
    config::Config,
    control::Verdict,
    store::{self, StoreUrl},
    vault::admin::{SecretList, VaultStatus},
};

use super::Finding;
use crate::{client::Client, exit::Failure, render::human};

/// The database answers, and its schema is one that this program reads.
pub(super) async fn store(url: &StoreUrl) -> Finding {
    const NAME: &str = "store";
    let newest = store::newest_schema_version();
    match store::schema_version(url).await {
        Ok(None) => Finding::pass(NAME, format!("{url} is made at the first start")),
        Ok(Some(version)) if version == newest => {
            Finding::pass(NAME, format!("{url} answers, schema {version}"))
        }
        Ok(Some(version)) if version < newest => {
            let message = format!("{url} has schema {version}, this program's is {newest}");
            let help = "the next start of kissopsd brings it up to date, and keeps a copy";
            Finding::new(NAME, Verdict::Warn, message, help)
        }
        Ok(Some(version)) => {
            let message = format!("{url} has schema {version}, newer than this program's {newest}");
            Finding::new(NAME, Verdict::Fail, message, "install the newer kissops")
        }
        Err(err) => match Failure::from(err) {
            Failure::Told { message, help, .. } => {
                Finding::new(NAME, Verdict::Fail, message, &help)
            }
            _ => Finding::new(NAME, Verdict::Fail, format!("{url} cannot be asked"), ""),
        },
    }
}

/// The vault's key, where the file has a vault: there, readable, closed to others.
pub(super) fn key(config: &Config) -> Option<Finding> {
    const NAME: &str = "vault key";
    if !config.vault.configured {
        return None;
    }
    Some(match config.vault.keys(&config.environment) {
        Ok(keys) => Finding::pass(NAME, format!("{} can be read", keys.current.id().0)),
        Err(err) => match Failure::from(err) {
            Failure::Told { message, help, .. } => {
                Finding::new(NAME, Verdict::Fail, message, &help)
            }
            _ => Finding::new(NAME, Verdict::Fail, "it cannot be read", ""),
        },
    })
}

/// What the daemon says of its vault.
pub(super) async fn vault(client: &Client) -> Vec<Finding> {
    const NAME: &str = "vault";
    let status: VaultStatus = match client.get("/v1/vault").await {
        Ok(status) => status,
        // A daemon without a vault has nothing that could be wrong with it.
        Err(failure) if failure.is("wrong_state") || failure.is("no_such_route") => {
            return Vec::new();
        }
        Err(Failure::Told { message, help, .. }) => {
            return vec![Finding::new(NAME, Verdict::Fail, message, &help)];
        }
        Err(_) => return Vec::new(),
    };
    let mut findings = vec![opened(&status)];
    findings.extend(old_keys(&status));
    findings.extend(waiting(&status));
    if let Ok(list) = client.get::<SecretList>("/v1/secrets").await {
        findings.extend(overdue(&list));
    }
    findings
}

fn opened(status: &VaultStatus) -> Finding {
    let used = status.secrets > 0 || !status.grants.is_empty();
    if status.state == "open" {
        let key = status.key.as_deref().unwrap_or("-");
        return Finding::pass("vault", format!("open, key {key}"));
    }
    let why = status.why.as_deref().unwrap_or_default();
    let message = format!("{}: {why}", status.state);
    // Who keeps nothing in it needs no key.
    let verdict = if used { Verdict::Fail } else { Verdict::Pass };
    let help = "kissops vault key makes a key; [vault] key names it; then restart the daemon";
    Finding::new("vault", verdict, message, if used { help } else { "" })
}

fn old_keys(status: &VaultStatus) -> Option<Finding> {
    let current = status.key.as_ref()?;
    let old = status.data_keys.iter().filter(|key| key.key != *current).count();
    let message = human::count(old, "data key is", "data keys are") + " still under another key";
    let help = "kissops vault rotate, and keep the old key in [vault] previous until it is done";
    (old > 0).then(|| Finding::new("vault keys", Verdict::Warn, message, help))
}

fn waiting(status: &VaultStatus) -> Option<Finding> {
    let of = |state: &str| status.grants.get(state).copied().unwrap_or(0);
    let hands = [
        ("needs_reauth", of("needs_reauth")),
        ("fenced", of("fenced")),
        ("degraded", of("degraded")),
    ];
    let all: u64 = status.grants.values().sum();
    let told: Vec<String> = hands
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    if told.is_empty() {
        return (all > 0).then(|| {
            Finding::pass("grants", human::count(all, "grant", "grants") + ", none needs a hand")
        });
    }
    let verdict = if of("needs_reauth") > 0 { Verdict::Fail } else { Verdict::Warn };
    let message = format!("of {all}: {}", told.join(", "));
    let help = "kissops token list shows which, and the command that mends each";
    Some(Finding::new("grants", verdict, message, help))
}

fn overdue(list: &SecretList) -> Option<Finding> {
    let now = clock::now();
    let late = list.secrets.iter().filter(|secret| secret.due_at.is_some_and(|at| at <= now));
    let names: Vec<&str> = late.map(|secret| secret.name.as_str()).collect();
    let message = format!("overdue to be replaced: {}", names.join(", "));
    let help = "kissops secret set NAME, or kissops secret rotate NAME for one made here";
    (!names.is_empty()).then(|| Finding::new("secrets", Verdict::Warn, message, help))
}
