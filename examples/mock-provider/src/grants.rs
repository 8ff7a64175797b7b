//! The life of a grant: issued, refreshed, killed.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    flavour::{Flavour, Issued, Owner, Refusal},
    knobs::{Kill, Reply, Rotation},
    ledger::Outcome,
    state::{Death, Grant, Kind, NEVER, State, Token, Who, index},
};

/// A refusal, and what the ledger says of it.
pub(crate) type Refused = (Refusal, Outcome);

const LARGEST_EXPIRY: u64 = 1 << 50;

impl State {
    pub(crate) fn is_live(&self, number: u32) -> bool {
        let token = &self.tokens[number as usize];
        token.dead.is_none() && self.clock.now() < token.expires_at
    }

    /// What becomes of refresh tokens of `who`.
    pub(crate) fn rotation(&self, who: Who) -> Rotation {
        let public = who.client.is_some_and(|at| self.clients[at as usize].secret.is_none());
        let usual = if public { Rotation::OneTime } else { Rotation::Reusable };
        self.knob(who, |knobs| knobs.rotation).unwrap_or(usual)
    }

    /// A new authorization, without tokens yet.
    pub(crate) fn authorize(
        &mut self,
        client: u32,
        account: Option<u32>,
        scopes: Arc<[String]>,
    ) -> u32 {
        let grant = index(self.grants.len());
        self.grants.push(Grant {
            client,
            account,
            scopes,
            refresh: None,
            access: VecDeque::new(),
            counts: crate::state::Counts::default(),
            minute: (0, 0),
        });
        if let Some(at) = account {
            self.accounts[at as usize].grants.push(grant);
        }
        grant
    }

    fn mint(&mut self, grant: u32, kind: Kind, expires_at: i64) -> u32 {
        let style = self.knob(self.owner(grant), |knobs| knobs.token_style).unwrap_or_default();
        let issued_at = self.clock.now();
        self.tokens.push(Token {
            grant,
            kind,
            style,
            dead: None,
            presented: 0,
            committed: 0,
            issued_at,
            ended_at: NEVER,
            expires_at,
        });
        index(self.tokens.len() - 1)
    }

    /// Microseconds since the epoch, so many milliseconds from now.
    pub(crate) fn after_ms(&self, wait_ms: u64) -> i64 {
        let micros = i64::try_from(wait_ms.min(LARGEST_EXPIRY)).unwrap_or_default();
        self.clock.now().saturating_add(micros.saturating_mul(1000))
    }

    /// An access token; the oldest beyond the limit dies.
    pub(crate) fn mint_access(&mut self, grant: u32, lifetime_ms: u64) -> u32 {
        let who = self.owner(grant);
        let limit = self.knob(who, |knobs| knobs.access_limit).unwrap_or(50) as usize;
        let expires_at = self.after_ms(lifetime_ms);
        let access = self.mint(grant, Kind::Access, expires_at);
        let live = &mut self.grants[grant as usize].access;
        live.push_back(access);
        while self.grants[grant as usize].access.len() > limit.max(1) {
            if let Some(oldest) = self.grants[grant as usize].access.pop_front() {
                self.end(oldest, Death::Evicted);
            }
        }
        access
    }

    pub(crate) fn mint_refresh(&mut self, grant: u32) -> u32 {
        let life = self.knob(self.owner(grant), |knobs| knobs.refresh_lifetime_ms);
        let expires_at = life.map_or(NEVER, |life| self.after_ms(life));
        let refresh = self.mint(grant, Kind::Refresh, expires_at);
        self.grants[grant as usize].refresh = Some(refresh);
        refresh
    }

    /// The life of the next access token.
    pub(crate) fn lifetime_ms(&self, who: Who, flavour: Flavour) -> u64 {
        self.knob(who, |knobs| knobs.lifetime_ms).unwrap_or(flavour.lifetime_ms())
    }

    fn end(&mut self, number: u32, why: Death) {
        let now = self.clock.now();
        let token = &mut self.tokens[number as usize];
        if token.dead.is_none() {
            (token.dead, token.ended_at) = (Some(why), now);
        }
    }

    fn end_access(&mut self, grant: u32, why: Death) {
        for number in std::mem::take(&mut self.grants[grant as usize].access) {
            self.end(number, why);
        }
    }

    /// Nothing of the grant is good any more.
    pub(crate) fn end_grant(&mut self, grant: u32, why: Death) {
        self.end_access(grant, why);
        if let Some(refresh) = self.grants[grant as usize].refresh {
            self.end(refresh, why);
        }
    }

    /// The account withdraws what it has allowed, to that client or to all.
    pub(crate) fn disconnect(&mut self, account: u32, client: Option<u32>, why: Death) -> u32 {
        let mut ended = 0;
        for grant in self.accounts[account as usize].grants.clone() {
            if client.is_none_or(|client| self.grants[grant as usize].client == client) {
                self.end_grant(grant, why);
                ended += 1;
            }
        }
        ended
    }

    fn replayed(&mut self, grant: u32) {
        let (client, account) =
            (self.grants[grant as usize].client, self.grants[grant as usize].account);
        let who = Who { client: Some(client), account };
        self.grants[grant as usize].counts.replays += 1;
        self.ledger.counts.replays += 1;
        if self.rotation(who) != Rotation::OneTime {
            return;
        }
        let kill = self.knob(who, |knobs| knobs.kill).unwrap_or_default();
        match account {
            Some(account) if kill == Kill::User => {
                self.disconnect(account, Some(client), Death::Killed);
            }
            _ => self.end_grant(grant, Death::Killed),
        }
        self.grants[grant as usize].counts.families_killed += 1;
        self.ledger.counts.families_killed += 1;
    }

    /// A refresh token is exchanged.
    pub(crate) fn refresh(
        &mut self,
        number: Option<u32>,
        client: u32,
        flavour: Flavour,
        answer: Reply,
    ) -> Result<Issued, Refused> {
        let number = number.filter(|at| self.tokens[*at as usize].kind == Kind::Refresh);
        let number = number.ok_or((Refusal::InvalidGrant, Outcome::Unknown))?;
        let Token { grant, dead, expires_at, .. } = self.tokens[number as usize];
        let who = self.owner(grant);
        if who.client != Some(client) {
            return Err((Refusal::InvalidGrant, Outcome::WrongClient));
        }
        if self.in_storm(who.account).is_some() {
            return Err((Refusal::InvalidGrant, Outcome::Refused));
        }
        if dead == Some(Death::Used) {
            self.replayed(grant);
            return Err((Refusal::InvalidGrant, Outcome::Replayed));
        }
        if dead.is_some() || expires_at <= self.clock.now() {
            return Err((Refusal::InvalidGrant, Outcome::Dead));
        }
        self.tokens[number as usize].committed += 1;
        self.grants[grant as usize].counts.committed += 1;
        self.ledger.counts.committed += 1;
        let rotates = self.rotation(who) != Rotation::Reusable;
        // What a provider does not tell has not changed.
        let stays = !rotates || answer == Reply::MissingRefreshToken;
        if self.knob(who, |knobs| knobs.refresh_kills_access).unwrap_or(rotates) {
            self.end_access(grant, Death::Replaced);
        }
        if !stays {
            self.end(number, Death::Used);
            self.mint_refresh(grant);
        }
        let lifetime = self.lifetime_ms(who, flavour);
        let access = self.mint_access(grant, lifetime);
        let told =
            answer != Reply::MissingRefreshToken && (!stays || flavour.repeats_refresh_token());
        Ok(self.issued(access, told))
    }

    /// The first tokens of a grant. An app's own has no refresh token.
    pub(crate) fn first_tokens(&mut self, grant: u32, flavour: Flavour) -> Issued {
        let who = self.owner(grant);
        if who.account.is_some() {
            self.mint_refresh(grant);
        }
        let lifetime = self.lifetime_ms(who, flavour);
        let access = self.mint_access(grant, lifetime);
        self.issued(access, true)
    }

    fn issued(&self, access: u32, tell_refresh: bool) -> Issued {
        let grant = &self.grants[self.tokens[access as usize].grant as usize];
        Issued {
            access: self.text(access),
            refresh: grant.refresh.filter(|_| tell_refresh).map(|at| self.text(at)),
            expires_in_s: self.expires_in_s(access),
            scopes: Arc::clone(&grant.scopes),
        }
    }

    fn expires_in_s(&self, number: u32) -> i64 {
        let left = self.tokens[number as usize].expires_at.saturating_sub(self.clock.now());
        // A millisecond that has passed since it was issued takes no second away.
        left.saturating_add(500_000).max(0) / 1_000_000
    }

    /// Whose an access token is, if it is good.
    pub(crate) fn check(&self, number: Option<u32>) -> Result<Owner, Refused> {
        let number = number.filter(|at| self.tokens[*at as usize].kind == Kind::Access);
        let number = number.ok_or((Refusal::InvalidToken, Outcome::Unknown))?;
        let grant = &self.grants[self.tokens[number as usize].grant as usize];
        if self.in_storm(grant.account).is_some_and(|storm| storm.validate) {
            return Err((Refusal::InvalidToken, Outcome::Refused));
        }
        if !self.is_live(number) {
            return Err((Refusal::InvalidToken, Outcome::Dead));
        }
        let account = grant.account.map(|at| &self.accounts[at as usize]);
        Ok(Owner {
            client: self.clients[grant.client as usize].id.clone(),
            account: account.map(|account| (account.name.clone(), account.user_id)),
            scopes: Arc::clone(&grant.scopes),
            expires_in_s: self.expires_in_s(number),
        })
    }

    /// A token is given up by its client. Twitch's refresh tokens survive that of an access token; elsewhere all goes.
    pub(crate) fn revoke(
        &mut self,
        number: Option<u32>,
        client: u32,
        flavour: Flavour,
    ) -> Result<(), Refused> {
        let number = number.filter(|at| self.is_live(*at));
        // RFC 7009: a token that is not known is as good as revoked.
        let unknown = (Refusal::InvalidToken, Outcome::Unknown);
        let number = match (number, flavour) {
            (Some(number), _) => number,
            (None, Flavour::Twitch | Flavour::Google) => return Err(unknown),
            (None, _) => return Ok(()),
        };
        let Token { grant, kind, .. } = self.tokens[number as usize];
        let who = self.owner(grant);
        if who.client != Some(client) {
            return Err((Refusal::InvalidToken, Outcome::WrongClient));
        }
        match (flavour, who.account) {
            (Flavour::Twitch, _) if kind == Kind::Refresh => return Err(unknown),
            (Flavour::Twitch, _) => {
                self.grants[grant as usize].access.retain(|at| *at != number);
                self.end(number, Death::Revoked);
            }
            (Flavour::Discord, Some(account)) => {
                self.disconnect(account, Some(client), Death::Revoked);
            }
            _ => self.end_grant(grant, Death::Revoked),
        }
        Ok(())
    }

    /// Takes a point from the minute's; the limit and what is left of it, or the seconds to wait.
    pub(crate) fn take_point(&mut self, number: u32) -> (u32, Result<u32, u64>) {
        let grant = self.tokens[number as usize].grant;
        let limit = self.knob(self.owner(grant), |knobs| knobs.api_points).unwrap_or(800);
        let now = self.clock.now();
        let minute = &mut self.grants[grant as usize].minute;
        if minute.0 != now / 60_000_000 {
            *minute = (now / 60_000_000, 0);
        }
        if minute.1 >= limit {
            let left = 60 - (now / 1_000_000).rem_euclid(60);
            return (limit, Err(u64::try_from(left).unwrap_or(60)));
        }
        minute.1 += 1;
        (limit, Ok(limit - minute.1))
    }

    /// One more token request of this second is allowed.
    pub(crate) fn within_rate(&mut self, who: Who) -> bool {
        let Some(client) = who.client else { return true };
        let Some(rate) = self.knob(who, |knobs| knobs.token_rate) else { return true };
        let now = self.clock.now() / 1_000_000;
        let second = &mut self.clients[client as usize].second;
        if second.0 != now {
            *second = (now, 0);
        }
        second.1 += 1;
        second.1 <= rate
    }
}
