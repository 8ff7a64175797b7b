//! Which instances have which tokens: those whose definitions say so, beside what an operator has bound.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    fleet::Fleet,
    id::InstanceName,
    store::GrantKey,
    vault::admin::{Grant, IncidentReport},
};

/// The instances of each grant that a definition names.
#[derive(Debug, Default)]
pub(super) struct Bindings(BTreeMap<GrantKey, BTreeSet<InstanceName>>);

impl Bindings {
    /// Of a fleet as it is defined now; none where no daemon runs.
    pub(super) fn of(fleet: Option<&Fleet>) -> Self {
        let mut all: BTreeMap<GrantKey, BTreeSet<InstanceName>> = BTreeMap::new();
        let Some(supervisor) = fleet.map(Fleet::supervisor) else { return Self(all) };
        for name in supervisor.names() {
            // It may be gone since.
            let Ok(definition) = supervisor.definition(&name) else { continue };
            for key in definition.tokens.iter().chain(definition.token_env.values()) {
                all.entry(key.clone()).or_default().insert(name.clone());
            }
        }
        Self(all)
    }

    /// The grants of an instance.
    pub(super) fn grants_of(&self, instance: &str) -> Vec<&GrantKey> {
        let has = |names: &BTreeSet<InstanceName>| names.iter().any(|n| n.as_str() == instance);
        self.0.iter().filter(|(_, names)| has(names)).map(|(key, _)| key).collect()
    }

    pub(super) fn complete(&self, grant: &mut Grant) {
        let key = GrantKey { provider: grant.provider.clone(), account: grant.account.clone() };
        grant.instances.extend(self.0.get(&key).into_iter().flatten().cloned());
    }

    /// Whoever had one of the revoked tokens is to be stopped.
    pub(super) fn complete_report(&self, report: &mut IncidentReport) {
        for one in &report.revoked {
            let key = GrantKey { provider: one.provider.clone(), account: one.account.clone() };
            report.stopped.extend(self.0.get(&key).into_iter().flatten().cloned());
        }
    }
}
