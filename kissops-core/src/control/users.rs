//! Which instances use which grants, as their definitions say (VLT-13).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    fleet::Fleet,
    id::InstanceName,
    store::GrantKey,
    supervisor::Definition,
    vault::admin::{Grant, IncidentReport},
};

/// The instances by grant. A grant may have been bound to others as well, which the store knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Users(BTreeMap<GrantKey, BTreeSet<InstanceName>>);

impl Users {
    /// As the fleet is now.
    pub(super) fn of_fleet(fleet: &Fleet) -> Self {
        let supervisor = fleet.supervisor();
        let mut users = Self::default();
        // One that was removed meanwhile uses nothing.
        for definition in
            supervisor.names().iter().filter_map(|name| supervisor.definition(name).ok())
        {
            users.add(&definition);
        }
        users
    }

    pub(super) fn of_definitions<'a>(all: impl IntoIterator<Item = &'a Definition>) -> Self {
        let mut users = Self::default();
        all.into_iter().for_each(|definition| users.add(definition));
        users
    }

    fn add(&mut self, definition: &Definition) {
        for key in &definition.tokens {
            self.0.entry(key.clone()).or_default().insert(definition.name.clone());
        }
    }

    /// The grants that an instance uses.
    pub(super) fn grants_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a GrantKey> {
        self.0
            .iter()
            .filter(move |(_, users)| users.iter().any(|user| user.as_str() == name))
            .map(|(key, _)| key)
    }

    /// The grant with those who use it.
    pub(super) fn join(&self, mut grant: Grant) -> Grant {
        let key = GrantKey { provider: grant.provider, account: grant.account };
        grant.instances.extend(self.0.get(&key).into_iter().flatten().cloned());
        Grant { provider: key.provider, account: key.account, ..grant }
    }

    /// Those who used what was revoked are to be stopped.
    pub(super) fn to_be_stopped(&self, report: &mut IncidentReport) {
        for one in &report.revoked {
            let key = GrantKey { provider: one.provider.clone(), account: one.account.clone() };
            report.stopped.extend(self.0.get(&key).into_iter().flatten().cloned());
        }
    }
}
