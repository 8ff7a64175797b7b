//! What a sealed text belongs to.

use std::fmt;

use super::super::{cipher::Binding, exchange::Ticket};
use crate::store::{
    DataKeyId, GrantId, GrantKey, GrantRecord, Landing, NewGrant, SecretId, SecretRecord, TokenId,
    TokenKind,
};

/// Of which grant a token or an answer is. All of it is bound: none of it changes in a grant's life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrantIdentity {
    /// The grant's number.
    pub id: GrantId,
    /// Provider and account.
    pub key: GrantKey,
    /// The configured client that it belongs to.
    pub client: String,
}

impl From<&NewGrant> for GrantIdentity {
    fn from(grant: &NewGrant) -> Self {
        Self { id: grant.id, key: grant.key.clone(), client: grant.client.clone() }
    }
}

impl From<&GrantRecord> for GrantIdentity {
    fn from(record: &GrantRecord) -> Self {
        Self::from(&record.grant)
    }
}

/// Where a sealed text has its place: it opens in this one only. `Display` names it.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// A token of a grant.
    Token {
        /// The grant.
        grant: &'a GrantIdentity,
        /// Which of its tokens.
        id: TokenId,
    },
    /// An answer of a provider as it came.
    Answer {
        /// The grant.
        grant: &'a GrantIdentity,
        /// By which exchange.
        ticket: Ticket,
        /// The HTTP status.
        status: u16,
    },
    /// A value of a secret.
    Secret {
        /// The secret's number.
        id: SecretId,
        /// Its name.
        name: &'a str,
        /// Which of its values.
        version: u64,
    },
}

impl<'a> Place<'a> {
    /// The place of an answer that a store has.
    #[must_use]
    pub fn of_landing(grant: &'a GrantIdentity, landing: &Landing) -> Self {
        let Landing { grant: id, generation, attempt, status, .. } = *landing;
        Self::Answer { grant, ticket: Ticket { grant: id, generation, attempt }, status }
    }

    /// The place of a secret's value as it is now.
    #[must_use]
    pub fn of_secret(record: &'a SecretRecord) -> Self {
        Self::Secret { id: record.secret.id, name: &record.secret.name, version: record.version }
    }

    pub(super) fn binding(&self, key: DataKeyId) -> Binding {
        let of_grant = |purpose: &str, grant: &GrantIdentity| {
            Binding::of(purpose)
                .text(&grant.key.provider)
                .text(&grant.key.account)
                .text(&grant.client)
                .number(grant.id.0)
        };
        let bound = match self {
            Self::Token { grant, id } => of_grant("token", grant)
                .number(id.grant.0)
                .text(kind_word(id.kind))
                .number(id.generation.0),
            Self::Answer { grant, ticket, status } => of_grant("answer", grant)
                .number(ticket.grant.0)
                .number(ticket.generation.0)
                .number(ticket.attempt)
                .number(*status),
            Self::Secret { id, name, version } => {
                Binding::of("secret").number(id.0).text(name).number(*version)
            }
        };
        bound.number(key.0)
    }
}

fn kind_word(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Access => "access",
        TokenKind::Refresh => "refresh",
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { grant, id } => {
                let kind = kind_word(id.kind);
                write!(f, "the {kind} token of generation {} of {}", id.generation.0, grant.key)
            }
            Self::Answer { grant, ticket, .. } => {
                let Ticket { generation, attempt, .. } = ticket;
                write!(f, "answer {attempt} to generation {} of {}", generation.0, grant.key)
            }
            Self::Secret { name, version, .. } => {
                write!(f, "version {version} of secret `{name}`")
            }
        }
    }
}
