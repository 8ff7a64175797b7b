//! What is written down between two lives of the program: so that a demo that was stopped goes on with the same tokens.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{
    control::ControlError,
    mint::Minter,
    state::{Counts, Grant, State, Token},
};

/// Accounts, grants, tokens. Clients, knobs and the ledger's requests are not in it.
#[derive(Deserialize, Serialize)]
struct Kept {
    /// With it every token can be computed, so whoever keeps this keeps it private.
    seed: u64,
    accounts: Vec<String>,
    grants: Vec<KeptGrant>,
    tokens: Vec<Token>,
}

#[derive(Deserialize, Serialize)]
struct KeptGrant {
    client: String,
    account: Option<u32>,
    scopes: Vec<String>,
    refresh: Option<u32>,
    access: Vec<u32>,
}

impl State {
    pub(crate) fn keep(&self) -> Result<String, ControlError> {
        let grant = |grant: &Grant| KeptGrant {
            client: self.clients[grant.client as usize].id.clone(),
            account: grant.account,
            scopes: grant.scopes.to_vec(),
            refresh: grant.refresh,
            access: grant.access.iter().copied().collect(),
        };
        let kept = Kept {
            seed: self.minter.seed(),
            accounts: self.accounts.iter().map(|account| account.name.clone()).collect(),
            grants: self.grants.iter().map(grant).collect(),
            tokens: self.tokens.clone(),
        };
        serde_json::to_string(&kept).map_err(|err| ControlError(err.to_string()))
    }

    /// Goes on from there; nothing of the present remains but the clients and what is set.
    pub(crate) fn recall(&mut self, text: &str) -> Result<(), ControlError> {
        let kept: Kept = serde_json::from_str(text).map_err(|err| ControlError(err.to_string()))?;
        let (tokens, accounts) = (kept.tokens.len(), kept.accounts.len());
        let known = |grant: &KeptGrant| {
            let mut numbers = grant.refresh.iter().chain(&grant.access);
            numbers.all(|at| (*at as usize) < tokens)
                && grant.account.is_none_or(|at| (at as usize) < accounts)
        };
        let grants = kept.grants.len();
        if !kept.grants.iter().all(known)
            || kept.tokens.iter().any(|token| token.grant as usize >= grants)
        {
            return Err(ControlError("it refers to what is not in it".to_owned()));
        }
        let mut found = Vec::with_capacity(grants);
        for grant in kept.grants {
            let client = self.client(&grant.client);
            found.push(Grant {
                client: client.ok_or_else(|| {
                    ControlError(format!("there is no client `{}`", grant.client))
                })?,
                account: grant.account,
                scopes: grant.scopes.into(),
                refresh: grant.refresh,
                access: VecDeque::from(grant.access),
                counts: Counts::default(),
                minute: (0, 0),
            });
        }
        (self.accounts, self.names) = Default::default();
        for name in &kept.accounts {
            self.account(name);
        }
        (self.grants, self.tokens, self.minter) = (found, kept.tokens, Minter::new(kept.seed));
        for (at, grant) in (0..).zip(&self.grants) {
            if let Some(account) = grant.account {
                self.accounts[account as usize].grants.push(at);
            }
        }
        self.ledger = self.ledger.next_epoch();
        Ok(())
    }
}
