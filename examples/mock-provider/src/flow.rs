//! Authorization by a person: device codes, and authorization codes with PKCE.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::{
    flavour::{Flavour, Issued, Refusal},
    grants::Refused,
    ledger::Outcome,
    state::{Death, State, Who},
};

/// What a person has said to a device code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    None,
    Approved { account: String },
    Denied,
}

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) user_code: String,
    client: u32,
    scopes: Arc<[String]>,
    expires_at: i64,
    interval_s: u64,
    approve_at: Option<i64>,
    asked_at: i64,
    verdict: Verdict,
}

#[derive(Debug)]
struct Code {
    client: u32,
    account: String,
    scopes: Arc<[String]>,
    redirect_uri: String,
    challenge: Option<Challenge>,
    expires_at: i64,
    /// The grant that it was exchanged for.
    used: Option<u32>,
}

/// What PKCE asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Plain(String),
    S256(String),
}

impl Challenge {
    fn is_met_by(&self, verifier: &str) -> bool {
        match self {
            Self::Plain(text) => text == verifier,
            Self::S256(text) => {
                *text == URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Flows {
    serial: u64,
    devices: HashMap<String, Device>,
    codes: HashMap<String, Code>,
}

/// A device code as it is handed out.
#[derive(Debug)]
pub(crate) struct DeviceCodes {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
    pub(crate) expires_in_s: u64,
    pub(crate) interval_s: u64,
}

/// What an authorization request asks for.
#[derive(Debug)]
pub(crate) struct CodeRequest {
    pub(crate) account: String,
    pub(crate) scopes: Arc<[String]>,
    pub(crate) redirect_uri: String,
    pub(crate) challenge: Option<Challenge>,
}

const UNKNOWN: Refused = (Refusal::InvalidGrant, Outcome::Unknown);

impl State {
    fn next_code(&mut self, length: usize) -> String {
        self.flows.serial += 1;
        self.minter.code(self.flows.serial, length)
    }

    pub(crate) fn start_device(&mut self, client: u32, scopes: Arc<[String]>) -> DeviceCodes {
        let who = Who { client: Some(client), account: None };
        let interval_s = self.knob(who, |knobs| knobs.device_interval_s).unwrap_or(5);
        let expires_in_s = self.knob(who, |knobs| knobs.device_lifetime_s).unwrap_or(1800);
        let approve = self.knob(who, |knobs| knobs.device_approve_ms);
        let device_code = self.next_code(40);
        let user_code = self.next_code(8).to_uppercase();
        let device = Device {
            user_code: user_code.clone(),
            client,
            scopes,
            expires_at: self.after_ms(expires_in_s.saturating_mul(1000)),
            interval_s,
            approve_at: approve.map(|wait| self.after_ms(wait)),
            asked_at: 0,
            verdict: Verdict::None,
        };
        self.flows.devices.insert(device_code.clone(), device);
        DeviceCodes { device_code, user_code, expires_in_s, interval_s }
    }

    /// Says what a person has said; false if there is no such code.
    pub(crate) fn judge_device(&mut self, user_code: &str, verdict: &Verdict) -> bool {
        let mut devices = self.flows.devices.values_mut();
        let found = devices.find(|device| device.user_code.eq_ignore_ascii_case(user_code));
        found.map(|device| device.verdict = verdict.clone()).is_some()
    }

    pub(crate) fn ask_device(
        &mut self,
        code: &str,
        client: u32,
        flavour: Flavour,
    ) -> Result<Issued, Refused> {
        let now = self.clock.now();
        let name = self.clients[client as usize].id.clone();
        let device = self.flows.devices.get_mut(code).filter(|device| device.client == client);
        let device = device.ok_or((Refusal::ExpiredCode, Outcome::Unknown))?;
        let asked_at = std::mem::replace(&mut device.asked_at, now);
        let verdict = match device.approve_at {
            Some(at) if at <= now && device.verdict == Verdict::None => {
                Verdict::Approved { account: name }
            }
            _ => device.verdict.clone(),
        };
        if device.expires_at <= now {
            return Err((Refusal::ExpiredCode, Outcome::Dead));
        }
        let interval =
            i64::try_from(device.interval_s).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        // Two seconds of RFC 8628's five would be rude; a clock's tick less is not.
        let too_soon = now.saturating_sub(asked_at) < interval.saturating_sub(100_000);
        match verdict {
            Verdict::None if too_soon => Err((Refusal::SlowDown, Outcome::RateLimited)),
            Verdict::None => Err((Refusal::Pending, Outcome::Pending)),
            Verdict::Denied => Err((Refusal::Denied, Outcome::Refused)),
            Verdict::Approved { account } => {
                let scopes = Arc::clone(&device.scopes);
                self.flows.devices.remove(code);
                let account = self.account(&account);
                let grant = self.authorize(client, Some(account), scopes);
                Ok(self.first_tokens(grant, flavour))
            }
        }
    }

    pub(crate) fn give_code(&mut self, client: u32, request: CodeRequest) -> String {
        let code = self.next_code(30);
        let CodeRequest { account, scopes, redirect_uri, challenge } = request;
        let expires_at = self.after_ms(60_000);
        let kept =
            Code { client, account, scopes, redirect_uri, challenge, expires_at, used: None };
        self.flows.codes.insert(code.clone(), kept);
        code
    }

    pub(crate) fn redeem_code(
        &mut self,
        code: &str,
        redirect_uri: Option<&str>,
        verifier: Option<&str>,
        client: u32,
        flavour: Flavour,
    ) -> Result<Issued, Refused> {
        let now = self.clock.now();
        let kept =
            self.flows.codes.get(code).filter(|kept| kept.client == client).ok_or(UNKNOWN)?;
        if let Some(grant) = kept.used {
            // RFC 6749, 4.1.2: what was issued for it should be revoked.
            self.end_grant(grant, Death::Killed);
            return Err((Refusal::InvalidGrant, Outcome::Replayed));
        }
        let proven = match (&kept.challenge, verifier) {
            (Some(challenge), Some(verifier)) => challenge.is_met_by(verifier),
            (None, None) => true,
            _ => false,
        };
        if kept.expires_at <= now || !proven || redirect_uri != Some(&kept.redirect_uri) {
            return Err((Refusal::InvalidGrant, Outcome::Dead));
        }
        let (account, scopes) = (kept.account.clone(), Arc::clone(&kept.scopes));
        let account = self.account(&account);
        let grant = self.authorize(client, Some(account), scopes);
        if let Some(kept) = self.flows.codes.get_mut(code) {
            kept.used = Some(grant);
        }
        Ok(self.first_tokens(grant, flavour))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_met_by_its_verifier_alone() {
        // RFC 7636, appendix B.
        let challenge = Challenge::S256("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".to_owned());
        assert!(challenge.is_met_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
        assert!(!challenge.is_met_by("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"));
        assert!(Challenge::Plain("same".to_owned()).is_met_by("same"));
    }
}
