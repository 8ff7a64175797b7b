//! Restarting many without being down (SUP-14).

use super::{Goal, StateName, Supervisor};
use crate::{Error, Result, id::InstanceName};

/// How a set is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolling {
    /// So many at once, at least one.
    pub batch: usize,
    /// The next batch waits until this one is ready, and does not begin if one of it is not.
    pub wait_ready: bool,
}

impl Supervisor {
    /// Restarts instances batch by batch, in the order given. With `wait_ready`, an instance that does not come up ends
    /// the roll: the rest keeps its old process, and is reported as not restarted.
    ///
    /// # Cancel safety
    /// Dropping the future ends the roll after the batch that is under way.
    pub async fn rolling_restart(
        &self,
        names: &[InstanceName],
        rolling: Rolling,
    ) -> Vec<(InstanceName, Result<()>)> {
        let mut results = Vec::with_capacity(names.len());
        let mut broken: Option<InstanceName> = None;
        for batch in names.chunks(rolling.batch.max(1)) {
            if let Some(first) = &broken {
                let untouched = |name: &InstanceName| {
                    let what = format!("the restart of `{name}`");
                    (
                        name.clone(),
                        Err(Error::WrongState {
                            what,
                            state: "left out".into(),
                            help: format!("`{first}` did not come up; look at its logs first"),
                        }),
                    )
                };
                results.extend(batch.iter().map(untouched));
                continue;
            }
            let restarts = batch.iter().map(|name| async {
                (name.clone(), self.restart_one(name, rolling.wait_ready).await)
            });
            for (name, result) in futures_util::future::join_all(restarts).await {
                if result.is_err() && rolling.wait_ready && broken.is_none() {
                    broken = Some(name.clone());
                }
                results.push((name, result));
            }
        }
        results
    }

    async fn restart_one(&self, name: &InstanceName, wait_ready: bool) -> Result<()> {
        self.restart(name).await?;
        if !wait_ready {
            return Ok(());
        }
        let status = self.settled(name, Goal::Up).await?;
        if status.state == StateName::Running || self.cell(name)?.view().succeeded {
            return Ok(());
        }
        let what = format!("instance `{name}`");
        Err(Error::WrongState { what, state: status.state.to_string(), help: status.reason })
    }
}
