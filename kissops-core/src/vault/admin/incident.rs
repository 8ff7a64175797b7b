//! When tokens are in wrong hands: revoke them, shred them, stop who uses them, and say what is left to do (VLT-14).

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::{Caller, GrantFilter, RevokeRequest, RevokeResult, VaultAdmin};
#[cfg(feature = "control")]
use crate::store::{Desired, InstanceRecord};
use crate::{
    Error, Result, clock,
    id::InstanceName,
    store::{EventKind, GrantKey, NewEvent},
};

/// Whose tokens are in wrong hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct IncidentRequest {
    /// The provider's profile.
    pub provider: String,
    /// Only this account's; all of the provider where it is left out.
    #[serde(default)]
    pub account: Option<String>,
    /// For the record.
    #[serde(default)]
    pub reason: String,
}

/// What was done, and what is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct IncidentReport {
    /// Everything was revoked at the provider, and every instance stopped.
    pub ok: bool,
    /// Each grant, by account. Their tokens are gone here, whatever the provider said.
    pub revoked: Vec<RevokeResult>,
    /// The instances that had one of them, and have been stopped.
    #[cfg_attr(feature = "control", schema(value_type = Vec<String>))]
    pub stopped: BTreeSet<InstanceName>,
    /// What a person has to do now, in this order.
    pub by_hand: Vec<String>,
}

/// So many revocations are under way at once.
const AT_ONCE: usize = 8;

impl VaultAdmin {
    /// Revokes and shreds the grants, and gives the instances that had them. The instances are the caller's to stop: with
    /// [`IncidentReport::stop_failed`] where that fails.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) where there is no such grant. What fails later is in the report: one grant does not
    /// keep the others from being revoked.
    pub async fn incident(
        &self,
        caller: &Caller,
        request: IncidentRequest,
    ) -> Result<IncidentReport> {
        let target = match &request.account {
            Some(account) => format!("grant {}/{account}", request.provider),
            None => format!("provider {}", request.provider),
        };
        let (admin, by) = (self.clone(), caller.clone());
        self.change(caller, "incident.revoke", target, async move {
            admin.revoke_all(&by, request).await
        })
        .await
    }

    async fn revoke_all(
        &self,
        caller: &Caller,
        request: IncidentRequest,
    ) -> Result<IncidentReport> {
        let found = self.concerned(&request).await?;
        let reason = match request.reason.as_str() {
            "" => "an incident".to_owned(),
            reason => format!("an incident: {reason}"),
        };
        let instances = found.iter().flat_map(|(_, instances)| instances).cloned().collect();
        let each = found.into_iter().map(|(key, _)| {
            let reason = reason.clone();
            async move {
                let done = self.revoke(caller, key.clone(), RevokeRequest { reason }).await;
                done.unwrap_or_else(|err| RevokeResult {
                    provider: key.provider,
                    account: key.account,
                    ok: false,
                    error: Some(format!("its tokens are still here: {}", err.chain())),
                })
            }
        });
        let mut revoked: Vec<RevokeResult> =
            stream::iter(each).buffer_unordered(AT_ONCE).collect().await;
        revoked.sort_by(|one, two| one.account.cmp(&two.account));
        let by_hand = self.by_hand(&request.provider, &revoked);
        let report = IncidentReport {
            ok: revoked.iter().all(|one| one.ok),
            revoked,
            stopped: instances,
            by_hand,
        };
        self.note(&request, &report).await;
        Ok(report)
    }

    /// The grants and the instances that have them.
    async fn concerned(
        &self,
        request: &IncidentRequest,
    ) -> Result<Vec<(GrantKey, BTreeSet<InstanceName>)>> {
        let key = |provider: String, account: String| GrantKey { provider, account };
        if let Some(account) = &request.account {
            let grant = self.grant(&key(request.provider.clone(), account.clone())).await?;
            return Ok(vec![(key(grant.provider, grant.account), grant.instances)]);
        }
        let mut found = Vec::new();
        let mut filter =
            GrantFilter { provider: Some(request.provider.clone()), ..GrantFilter::default() };
        loop {
            let page = self.grants(filter.clone()).await?;
            // One that has been given up before has no tokens any more.
            let live = page.grants.into_iter().filter(|grant| grant.state != "revoked");
            found.extend(live.map(|grant| (key(grant.provider, grant.account), grant.instances)));
            match page.next {
                Some(next) => filter.after = Some(next),
                None if found.is_empty() => {
                    let what = format!("grant of `{}` that has tokens", request.provider);
                    return Err(Error::NotFound { what });
                }
                None => return Ok(found),
            }
        }
    }

    /// Tells it in the history; the audit holds it already.
    async fn note(&self, request: &IncidentRequest, report: &IncidentReport) {
        let done = report.revoked.iter().filter(|one| one.ok).count();
        let event = NewEvent {
            at: clock::now(),
            instance: None,
            kind: EventKind::Other("incident.revoked".into()),
            reason: format!(
                "{}: {done} of {} grants were revoked at the provider",
                request.provider,
                report.revoked.len()
            ),
        };
        if let Err(err) = self.store().append_events(vec![event]).await {
            tracing::error!(error = %err.chain(), "an incident could not be written down");
        }
    }

    /// Without a daemon: the instances are wanted stopped, as its next start will find.
    #[cfg(feature = "control")]
    pub(crate) async fn want_stopped(&self, report: &mut IncidentReport) -> Result<()> {
        let known = self.store().instances().await?;
        for name in &report.stopped {
            let known = known.iter().find(|record| record.name == *name).cloned();
            let record = known.unwrap_or_else(|| InstanceRecord {
                name: name.clone(),
                desired: Desired::Stopped,
                restarts: 0,
                failed: None,
                updated_at: clock::now(),
            });
            let record =
                InstanceRecord { desired: Desired::Stopped, updated_at: clock::now(), ..record };
            self.store().put_instance(record).await?;
        }
        for name in std::mem::take(&mut report.stopped) {
            report.stop_failed(&name, "no daemon answers; it is not started again by the next one");
        }
        Ok(())
    }
}

impl IncidentReport {
    /// An instance could not be stopped: that is to be done by hand, first of all.
    pub fn stop_failed(&mut self, name: &InstanceName, why: &str) {
        self.ok = false;
        self.stopped.remove(name);
        self.by_hand
            .insert(0, format!("stop {name}, which may still run with a revoked token: {why}"));
    }
}

impl VaultAdmin {
    /// What no program can do.
    fn by_hand(&self, provider: &str, revoked: &[RevokeResult]) -> Vec<String> {
        let configured = self.inner.providers.get(provider).ok();
        let place = configured.as_ref().and_then(|found| found.manage_url()).map_or_else(
            || "at the provider, as the account's owner".to_owned(),
            |url| format!("as the account's owner, at {url}"),
        );
        let mut steps = Vec::new();
        for one in revoked.iter().filter(|one| !one.ok) {
            let why = one.error.as_deref().unwrap_or("it was not confirmed");
            steps.push(format!("revoke {}/{} {place}: {why}", one.provider, one.account));
        }
        steps.push(format!(
            "make a new client secret {}, put it where the configuration looks for it, and run kissops reload",
            console(provider)
        ));
        if provider == "discord" {
            // A bot's token is no OAuth grant, and lives until it is reset there.
            steps.push("reset the bot tokens there, too, then kissops secret set NAME".into());
        }
        steps.push(
            "find out how they came into wrong hands: kissops events, the logs, who can read this machine".into(),
        );
        steps.push(format!(
            "once that is mended, have each account authorized again: kissops token authorize {provider} ACCOUNT"
        ));
        steps
    }
}

/// Where the client's owner makes a new secret.
fn console(provider: &str) -> &'static str {
    match provider {
        "twitch" => "at https://dev.twitch.tv/console",
        "discord" => "at https://discord.com/developers/applications",
        "google" => "at https://console.cloud.google.com/apis/credentials",
        "reddit" => "at https://www.reddit.com/prefs/apps",
        "spotify" => "at https://developer.spotify.com/dashboard",
        _ => "at the provider",
    }
}
