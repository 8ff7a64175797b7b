//! Instances wait for their grants: stopped when one needs a new authorization, back when that is there (VLT-8).
//!
//! What counts is how the grants are, not what was told of them: an event only makes us look at once. So nothing is missed
//! by a slow reader or a restart, and a vault that is sealed does not hide how its grants are.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::{sync::broadcast::error::RecvError, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{TokenVault, VaultEvent, VaultEventKind, refresh::decide::is_degrading};
use crate::{
    Result,
    store::{GrantKey, GrantQuery, GrantState, GrantStateName, GrantStatus, GrantStore},
    supervisor::{Definition, StateName, Supervisor, TokenPolicy},
};

/// How often everything is looked at without an event.
const LOOK: Duration = Duration::from_secs(30);
/// How many grants are read at once.
const PAGE: u32 = 500;
/// The states in which an instance may have to wait.
const BAD: [GrantStateName; 5] = [
    GrantStateName::NeedsReauth,
    GrantStateName::Revoked,
    GrantStateName::Pending,
    GrantStateName::Degraded,
    GrantStateName::Ambiguous,
];

/// Decides which instances wait for a new authorization, by the state of their grants and their `token_policy`.
#[derive(Clone)]
pub struct Reauth {
    grants: Arc<dyn GrantStore>,
}

impl fmt::Debug for Reauth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reauth").finish_non_exhaustive()
    }
}

impl Reauth {
    /// Reads the grants of that store.
    #[must_use]
    pub fn new(grants: Arc<dyn GrantStore>) -> Self {
        Self { grants }
    }

    /// Why an instance of that definition has to wait, for people; `None` if it need not.
    ///
    /// # Errors
    /// Those of the store: it is not known then.
    pub async fn obstacle(&self, definition: &Definition) -> Result<Option<String>> {
        if definition.token_policy == TokenPolicy::Run {
            return Ok(None);
        }
        for key in &definition.tokens {
            let why = match self.grants.grant(key).await? {
                Some(record) => verdict(key, &record.status, definition.token_policy),
                None => Some(unauthorized(key)),
            };
            if why.is_some() {
                return Ok(why);
            }
        }
        Ok(None)
    }

    /// Holds and releases the instances of `supervisor` until `ending` is cancelled.
    pub async fn watch(
        self,
        supervisor: Supervisor,
        vault: Arc<dyn TokenVault>,
        ending: CancellationToken,
    ) {
        let mut events = vault.events();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = true;
        loop {
            let event = tokio::select! {
                () = ending.cancelled() => return,
                _ = look.tick() => None,
                event = events.recv(), if open => match event {
                    Ok(event) => Some(event),
                    // What was missed is seen by the look.
                    Err(RecvError::Lagged(_)) => None,
                    Err(RecvError::Closed) => { open = false; continue }
                },
            };
            if event.as_ref().is_some_and(|event| !matters(event)) {
                continue;
            }
            if let Err(error) = self.look(&supervisor).await {
                tracing::warn!(error = %error.chain(), "cannot look at the grants of the fleet");
            }
        }
    }

    /// Looks at all instances once.
    ///
    /// # Errors
    /// Those of the store; the rest of the fleet stays as it is.
    pub async fn look(&self, supervisor: &Supervisor) -> Result<()> {
        let bad = self.bad().await?;
        for name in supervisor.names() {
            let Ok(definition) = supervisor.definition(&name) else { continue };
            if definition.tokens.is_empty() {
                continue;
            }
            let Ok(status) = supervisor.instance(&name) else { continue };
            let waits = status.state == StateName::NeedsReauth;
            let is_down = matches!(status.state, StateName::Stopped | StateName::Failed);
            let policy = definition.token_policy;
            let mut of_bad = definition.tokens.iter().filter_map(|key| Some((key, bad.get(key)?)));
            let why = of_bad.find_map(|(key, status)| verdict(key, status, policy));
            match why {
                // It may be gone meanwhile, here and below.
                Some(why) if !(is_down || waits && status.reason == why) => {
                    let _ = supervisor.hold_for_reauth(&name, &why);
                }
                // With a look at each, for one that is not there is in no list.
                None if waits && self.obstacle(&definition).await?.is_none() => {
                    let _ = supervisor.release_reauth(&name);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every grant that is not well. They are few.
    async fn bad(&self) -> Result<BTreeMap<GrantKey, GrantStatus>> {
        let mut bad = BTreeMap::new();
        for state in BAD {
            let mut after = None;
            loop {
                let query =
                    GrantQuery { state: Some(state), after, limit: PAGE, ..GrantQuery::default() };
                let page = self.grants.grants(query).await?;
                after = page.last().map(|record| record.grant.id);
                let last = page.len() < PAGE as usize;
                bad.extend(page.into_iter().map(|record| (record.grant.key, record.status)));
                if last {
                    break;
                }
            }
        }
        Ok(bad)
    }
}

/// Whether an event may change what an instance has to wait for.
fn matters(event: &VaultEvent) -> bool {
    matches!(
        event.kind,
        VaultEventKind::Authorized
            | VaultEventKind::Degraded
            | VaultEventKind::Recovered
            | VaultEventKind::NeedsReauth
            | VaultEventKind::Adopted
            | VaultEventKind::Revoked
    )
}

/// Why an instance of that policy waits for that grant.
fn verdict(key: &GrantKey, status: &GrantStatus, policy: TokenPolicy) -> Option<String> {
    let said = |reason: &str| {
        let colon = if reason.is_empty() { "" } else { ": " };
        Some(format!("{key} needs a new authorization{colon}{reason}; {}", authorize(key)))
    };
    let cannot = || Some(format!("{key} cannot be refreshed, and its policy is strict"));
    let rounds = status.failure.map_or(0, |failure| failure.count);
    match (policy, &status.state) {
        (TokenPolicy::Run, _) => None,
        (_, GrantState::NeedsReauth { reason, .. } | GrantState::Revoked { reason, .. }) => {
            said(reason)
        }
        (_, GrantState::Pending { .. }) => Some(unauthorized(key)),
        (TokenPolicy::Strict, GrantState::Degraded { .. }) => cannot(),
        // Silence for as many rounds is the same to who depends on it.
        (TokenPolicy::Strict, GrantState::Ambiguous { .. }) if is_degrading(rounds) => cannot(),
        _ => None,
    }
}

fn unauthorized(key: &GrantKey) -> String {
    format!("{key} was not authorized yet; {}", authorize(key))
}

fn authorize(key: &GrantKey) -> String {
    format!("kissops token authorize {} {}", key.provider, key.account)
}
