//! Grants as columns, and back.

use super::super::{Damage, Row, Value, document, values};
use crate::{
    Result, Timestamp,
    id::InstanceName,
    store::{
        FailureClass, Generation, GrantExpiry, GrantFailure, GrantFlow, GrantId, GrantKey,
        GrantRecord, GrantState, GrantStateName, GrantStatus, GrantVersion, NewGrant, TokenKind,
    },
};

pub(super) const COLUMNS: &str = "id, provider, account, client, flow, scopes, version, generation, state, state_since, state_until, state_reason, failure_class, failure_count, failure_votes, failure_at, access_expires_at, refresh_expires_at, idle_expires_at, next_refresh_at, next_validate_at, created_at, updated_at, refreshed_at";

/// The status, from parameter 3 of [`status_values`] on.
const STATUS: [&str; 10] = [
    "state",
    "state_since",
    "state_until",
    "state_reason",
    "failure_class",
    "failure_count",
    "failure_votes",
    "failure_at",
    "next_refresh_at",
    "next_validate_at",
];
const CHANGED: &str = "version = version + 1, updated_at = ?2";

/// A change of the status, with [`status_values`] as its parameters: ?1 is the grant, ?2 the time.
pub(in super::super) fn status() -> String {
    let set = STATUS.iter().zip(3..).map(|(column, n)| format!("{column} = ?{n}, "));
    set.chain([CHANGED.to_owned()]).collect()
}

/// The same where `condition` holds; elsewhere the status stays.
pub(in super::super) fn status_if(condition: &str) -> String {
    let set = STATUS.iter().zip(3..).map(|(column, n)| {
        format!("{column} = CASE WHEN {condition} THEN ?{n} ELSE {column} END, ")
    });
    set.chain([CHANGED.to_owned()]).collect()
}

/// The first twelve parameters of a statement with [`status`].
pub(in super::super) fn status_values(
    id: GrantId,
    at: Timestamp,
    status: &GrantStatus,
) -> Vec<Value> {
    let (until, reason) = match &status.state {
        GrantState::Pending { .. } | GrantState::Active { .. } | GrantState::Degraded { .. } => {
            (None, None)
        }
        GrantState::Ambiguous { settles_at, .. } => (Some(*settles_at), None),
        GrantState::Suspect { reason, .. }
        | GrantState::Fenced { reason, .. }
        | GrantState::Revoked { reason, .. } => (None, Some(reason.as_str())),
        GrantState::NeedsReauth { reason, keep_until, .. } => {
            (Some(*keep_until), Some(reason.as_str()))
        }
    };
    let failure = status.failure.as_ref();
    values![
        id.0,
        at,
        status.state.name().as_str(),
        status.state.since(),
        until,
        reason,
        failure.map(|failure| failure_word(failure.class)),
        failure.map(|failure| failure.count),
        failure.map(|failure| failure.votes),
        failure.map(|failure| failure.at),
        status.next_refresh_at,
        status.next_validate_at
    ]
}

/// Adds grants, up to VALUES: [`status_values`], then when it was changed, when its tokens came, provider, account, client,
/// flow, scopes, what ends when, version, generation.
pub(super) fn insert_authorized() -> String {
    format!(
        "INSERT INTO grants (id, created_at, {}, updated_at, refreshed_at, provider, account, client, flow, scopes,
             access_expires_at, refresh_expires_at, idle_expires_at, version, generation) VALUES",
        STATUS.join(", ")
    )
}

/// A grant without its instances, and one of these.
pub(super) fn grant(row: &mut Row) -> Result<(GrantRecord, Option<InstanceName>), Damage> {
    let grant = NewGrant {
        id: GrantId(row.get(0)?),
        key: GrantKey { provider: row.get(1)?, account: row.get(2)? },
        client: row.get(3)?,
        flow: flow(row, 4)?,
        scopes: document(row, 5)?,
        instances: [].into(),
        created_at: row.get(21)?,
    };
    let record = GrantRecord {
        grant,
        version: GrantVersion(row.get(6)?),
        generation: Generation(row.get(7)?),
        status: GrantStatus {
            state: state(row, 8)?,
            failure: failure(row, 12)?,
            next_refresh_at: row.get(19)?,
            next_validate_at: row.get(20)?,
        },
        expiry: GrantExpiry { access: row.get(16)?, refresh: row.get(17)?, idle: row.get(18)? },
        updated_at: row.get(22)?,
        refreshed_at: row.get(23)?,
    };
    Ok((record, row.get(24)?))
}

pub(super) fn state_name(row: &mut Row, at: usize) -> Result<GrantStateName, Damage> {
    let word: String = row.get(at)?;
    GrantStateName::parse(&word)
        .ok_or_else(|| Damage::new(at, format!("`{word}` is no state of a grant")))
}

/// Four columns from `at` on: state, since, until, reason.
fn state(row: &mut Row, at: usize) -> Result<GrantState, Damage> {
    let since = row.get(at + 1)?;
    Ok(match state_name(row, at)? {
        GrantStateName::Pending => GrantState::Pending { since },
        GrantStateName::Active => GrantState::Active { since },
        GrantStateName::Degraded => GrantState::Degraded { since },
        GrantStateName::Ambiguous => GrantState::Ambiguous { since, settles_at: row.get(at + 2)? },
        GrantStateName::Suspect => GrantState::Suspect { since, reason: row.get(at + 3)? },
        GrantStateName::Fenced => GrantState::Fenced { since, reason: row.get(at + 3)? },
        GrantStateName::NeedsReauth => GrantState::NeedsReauth {
            since,
            keep_until: row.get(at + 2)?,
            reason: row.get(at + 3)?,
        },
        GrantStateName::Revoked => GrantState::Revoked { since, reason: row.get(at + 3)? },
    })
}

/// Four columns from `at` on: class, count, votes, time.
fn failure(row: &mut Row, at: usize) -> Result<Option<GrantFailure>, Damage> {
    let Some(word) = row.get::<Option<String>>(at)? else { return Ok(None) };
    let class = [
        FailureClass::Retryable,
        FailureClass::Ambiguous,
        FailureClass::Terminal,
        FailureClass::Misconfigured,
    ]
    .into_iter()
    .find(|class| failure_word(*class) == word)
    .ok_or_else(|| Damage::new(at, format!("`{word}` is no class of failures")))?;
    let (count, votes) = (row.get(at + 1)?, row.get(at + 2)?);
    Ok(Some(GrantFailure { class, count, votes, at: row.get(at + 3)? }))
}

fn failure_word(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Retryable => "retryable",
        FailureClass::Ambiguous => "ambiguous",
        FailureClass::Terminal => "terminal",
        FailureClass::Misconfigured => "misconfigured",
    }
}

pub(super) fn flow_word(flow: GrantFlow) -> &'static str {
    match flow {
        GrantFlow::AuthorizationCode => "authorization_code",
        GrantFlow::DeviceCode => "device_code",
        GrantFlow::ClientCredentials => "client_credentials",
        GrantFlow::Imported => "imported",
    }
}

fn flow(row: &mut Row, at: usize) -> Result<GrantFlow, Damage> {
    let word: String = row.get(at)?;
    [
        GrantFlow::AuthorizationCode,
        GrantFlow::DeviceCode,
        GrantFlow::ClientCredentials,
        GrantFlow::Imported,
    ]
    .into_iter()
    .find(|flow| flow_word(*flow) == word)
    .ok_or_else(|| Damage::new(at, format!("`{word}` is no flow")))
}

pub(in super::super) fn kind_word(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Access => "access",
        TokenKind::Refresh => "refresh",
    }
}

pub(in super::super) fn token_kind(row: &mut Row, at: usize) -> Result<TokenKind, Damage> {
    match &*row.get::<String>(at)? {
        "access" => Ok(TokenKind::Access),
        "refresh" => Ok(TokenKind::Refresh),
        other => Err(Damage::new(at, format!("`{other}` is no kind of token"))),
    }
}
