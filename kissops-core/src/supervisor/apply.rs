//! [`Plan`]: what a change of the fleet's definition would do, as a value that can be printed and then applied.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    Definition, Supervisor,
    cell::{Cell, Control},
    restart::Tally,
    state::State,
    task::Task,
};
use crate::{Result, id::InstanceName, store::Desired};

/// What [`Supervisor::apply`] would do. Names are in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct Plan {
    /// Will be started, if wanted.
    #[cfg_attr(feature = "control", schema(value_type = Vec<String>))]
    pub added: Vec<InstanceName>,
    /// Will be stopped and forgotten.
    #[cfg_attr(feature = "control", schema(value_type = Vec<String>))]
    pub removed: Vec<InstanceName>,
    /// Will be restarted with their new definition, if running.
    #[cfg_attr(feature = "control", schema(value_type = Vec<String>))]
    pub changed: Vec<InstanceName>,
    /// Stay as they are.
    #[cfg_attr(feature = "control", schema(value_type = Vec<String>))]
    pub unchanged: Vec<InstanceName>,
}

impl Supervisor {
    /// What `apply(fleet)` would do. Changes nothing.
    #[must_use]
    pub fn plan(&self, fleet: &[Definition]) -> Plan {
        let mut plan = Plan::default();
        let mut known: BTreeMap<InstanceName, Arc<Cell>> = self
            .shared
            .cells()
            .into_iter()
            .filter(|cell| !cell.view().ended)
            .map(|cell| (cell.name.clone(), cell))
            .collect();
        for definition in fleet {
            let name = definition.name.clone();
            match known.remove(&name) {
                None => plan.added.push(name),
                Some(cell) if cell.definition().fingerprint() == definition.fingerprint() => {
                    plan.unchanged.push(name);
                }
                Some(_) => plan.changed.push(name),
            }
        }
        plan.removed = known.into_keys().collect();
        for names in [&mut plan.added, &mut plan.changed, &mut plan.unchanged] {
            names.sort();
        }
        plan
    }

    /// Makes the fleet what `fleet` says, touching only what differs (SUP-15). Instances that are new are started
    /// unless their `autostart` is off; those that are gone are stopped; answers when all have taken it up.
    ///
    /// # Errors
    /// [`Unavailable`](crate::Error::Unavailable) if the store does not take the records of new instances: nothing has
    /// changed then.
    pub async fn apply(&self, fleet: Vec<Definition>) -> Result<Plan> {
        let plan = self.plan(&fleet);
        let fleet: BTreeMap<InstanceName, Arc<Definition>> = fleet
            .into_iter()
            .map(|definition| (definition.name.clone(), Arc::new(definition)))
            .collect();
        let mut fresh = Vec::new();
        for definition in plan.added.iter().filter_map(|name| fleet.get(name)) {
            let desired = desired_at_first(definition);
            let cell = Arc::new(Cell::new(Arc::clone(definition), desired));
            self.shared.store.put_instance(cell.record()).await?;
            fresh.push(cell);
        }
        for cell in plan.removed.iter().filter_map(|name| self.shared.cell(name)) {
            cell.mailbox.send(Control::Remove);
        }
        let fresh: Vec<(Arc<Cell>, State)> =
            fresh.into_iter().map(|cell| (Arc::clone(&cell), first_state(&cell))).collect();
        for (cell, _) in &fresh {
            self.shared.insert(Arc::clone(cell));
        }
        let kept: Vec<(Arc<Cell>, Arc<Definition>)> = plan
            .changed
            .iter()
            .chain(&plan.unchanged)
            .filter_map(|name| Some((self.shared.cell(name)?, Arc::clone(fleet.get(name)?))))
            .collect();
        for (cell, definition) in &kept {
            cell.redefine(Arc::clone(definition));
        }
        // With the new definitions, before anything starts or stops by them.
        self.shared.link();
        for (cell, state) in fresh {
            self.own(cell, state, Tally::default());
        }
        let taken = kept.into_iter().map(|(cell, definition)| async move {
            let (ack, taken) = oneshot::channel();
            cell.mailbox.send(Control::Define(Arc::clone(&definition), ack));
            (taken.await.is_err() && self.shared.cell(&cell.name).is_none()).then_some(definition)
        });
        let gone = futures_util::future::join_all(taken).await;
        for definition in gone.into_iter().flatten() {
            self.replace(definition).await?;
        }
        Ok(plan)
    }

    /// Adds an instance again that an earlier change had removed, and whose task has ended just now.
    async fn replace(&self, definition: Arc<Definition>) -> Result<()> {
        let desired = desired_at_first(&definition);
        let cell = Arc::new(Cell::new(definition, desired));
        // By the journal, which forgets the old record before.
        self.shared.journal.save(&cell).await?;
        let state = first_state(&cell);
        self.shared.insert(Arc::clone(&cell));
        self.shared.link();
        self.own(cell, state, Tally::default());
        Ok(())
    }

    /// Gives an instance to a task of its own.
    pub(super) fn own(&self, cell: Arc<Cell>, state: State, tally: Tally) {
        self.shared.tasks.spawn(Task::new(cell, Arc::clone(&self.shared), tally).run(state));
    }
}

/// What is wanted of an instance of which there is no record.
pub(super) fn desired_at_first(definition: &Definition) -> Desired {
    if definition.autostart { Desired::Running } else { Desired::Stopped }
}

/// The state of an instance that nobody runs: on its way up if it is wanted. Shown before its task runs, so that
/// others that start with it wait for it.
pub(super) fn first_state(cell: &Arc<Cell>) -> State {
    if cell.view().desired != Desired::Running {
        return State::new();
    }
    let state = State::wanted();
    cell.update(|view| {
        view.state = state.name();
        "starts with the fleet".clone_into(&mut view.reason);
    });
    state
}
