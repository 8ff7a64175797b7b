//! The right to refresh: one lease for each life of a process, whose fencing token every guarded write shows.
//!
//! One lease for all grants instead of one for each: a refresh costs three writes instead of seven, and a process that
//! stalls loses all of its rights at once. Which grant is being refreshed is said by the row of its intent; whose that is
//! by the fence in it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    Error, Result,
    id::IdMaker,
    store::{Fence, HolderId, Lease, LeaseName, Store},
    vault::{VaultTime, estate::Estate},
};

/// How long a session lasts unless it is renewed.
pub(crate) const LASTS: Duration = Duration::from_mins(1);
/// Long enough to have it; whoever fences off a dead session needs no more than its token.
const TAKEN_FOR: Duration = Duration::from_secs(1);

const TAKEN_OVER: &str =
    "the vault's session was taken over: this process has stalled for too long";

/// The right to refresh, until a moment of the boot clock.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    pub(crate) fence: Fence,
    pub(crate) until: Duration,
}

/// Whose an intent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This session's.
    Own,
    /// Another's, which may still be at work for so long.
    Other(Duration),
    /// Nobody's: whoever began it cannot write anything more.
    Nobody,
}

#[derive(Debug)]
pub(crate) struct Session {
    store: Arc<dyn Store>,
    time: Arc<dyn VaultTime>,
    lasts: Duration,
    /// Where the next life of this program finds what this one held.
    estate: Option<Estate>,
    held: Mutex<Option<(Lease, Duration)>>,
    /// Whoever asks for a lease has it; others wait for what comes of that.
    asking: tokio::sync::Mutex<IdMaker>,
}

impl Session {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        time: Arc<dyn VaultTime>,
        lasts: Duration,
        estate: Option<Estate>,
        ids: IdMaker,
    ) -> Self {
        let asking = tokio::sync::Mutex::new(ids);
        Self { store, time, lasts, estate, held: Mutex::default(), asking }
    }

    /// How often it is renewed.
    pub(crate) fn renewed_every(&self) -> Duration {
        self.lasts / 4
    }

    /// Between the end of the longest request and the end of the right to have sent it.
    pub(crate) fn margin(&self) -> Duration {
        self.lasts / 12
    }

    /// The right, for at least `span` from now; renewed or taken anew where it has to be.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn lasting(&self, span: Duration) -> Result<Right> {
        if let Some(right) = self.right(span) {
            return Ok(right);
        }
        let mut ids = self.asking.lock().await;
        if let Some(right) = self.right(span) {
            return Ok(right);
        }
        self.ask(&mut ids).await?;
        self.right(span).ok_or_else(|| Error::Timeout {
            what: "renewing the vault's session".into(),
            limit: self.lasts,
        })
    }

    /// Renews the right before it runs out.
    ///
    /// # Errors
    /// Those of the store; the right may still last for a while then.
    pub(crate) async fn renew(&self) -> Result<()> {
        let mut ids = self.asking.lock().await;
        self.ask(&mut ids).await
    }

    /// Gives the right back: nothing may be under way any more.
    pub(crate) async fn end(&self) -> Result<()> {
        let _asking = self.asking.lock().await;
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        match held {
            Some((lease, _)) => self.store.release_lease(&lease).await,
            None => Ok(()),
        }
    }

    /// Whose the fence is. A session that ran out is fenced off here: from then on it can commit nothing, even if its
    /// process was only asleep.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn owner(&self, fence: &Fence) -> Result<Owner> {
        let own = |held: &Option<(Lease, Duration)>| {
            held.as_ref()
                .is_some_and(|(lease, _)| lease.name == fence.name && lease.token == fence.token)
        };
        if own(&self.held.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Owner::Own);
        }
        let Some(lease) = self.store.lease(&fence.name).await? else { return Ok(Owner::Nobody) };
        if lease.token != fence.token || lease.holder.is_none() {
            return Ok(Owner::Nobody);
        }
        if !lease.remaining.is_zero() {
            return Ok(Owner::Other(lease.remaining));
        }
        let holder = HolderId(self.asking.lock().await.next(self.time.now()));
        match self.store.acquire_lease(&fence.name, holder, TAKEN_FOR).await {
            Ok(taken) => {
                // Others may look after what it left as well: each of its refreshes goes to one of them.
                self.store.release_lease(&taken).await?;
                Ok(Owner::Nobody)
            }
            Err(Error::Conflict { .. }) => Ok(Owner::Other(TAKEN_FOR)),
            Err(err) => Err(err),
        }
    }

    /// Finds out whether a refused write means that the session is another's. A store that is away says nothing.
    pub(crate) async fn verify(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((known, _)) = held else { return };
        let lost = match self.store.lease(&known.name).await {
            Ok(Some(lease)) => lease.token != known.token || lease.holder != Some(known.holder),
            Ok(None) => true,
            Err(_) => false,
        };
        if lost {
            tracing::warn!(lease = %known.name, "{TAKEN_OVER}");
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody may have got another one meanwhile.
            if held.as_ref().is_some_and(|(lease, _)| lease.name == known.name) {
                *held = None;
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn lease_for_tests(&self) -> Lease {
        self.held.lock().unwrap().clone().unwrap().0
    }

    fn right(&self, span: Duration) -> Option<Right> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (lease, until) = held.as_ref()?;
        (*until >= self.time.elapsed() + span)
            .then(|| Right { fence: lease.fence(), until: *until })
    }

    async fn ask(&self, ids: &mut IdMaker) -> Result<()> {
        // From before asking: however long the answer takes, nobody else gets it before this.
        let until = self.time.elapsed() + self.lasts;
        let known = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((lease, _)) = known {
            match self.store.renew_lease(&lease, self.lasts).await {
                Ok(lease) => return self.keep(lease, until),
                Err(Error::Conflict { .. }) => {
                    tracing::warn!(lease = %lease.name, "{TAKEN_OVER}");
                    *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Err(err) => return Err(err),
            }
        }
        // A name of its own each time: nobody has to wait until an older one runs out.
        let holder = HolderId(ids.next(self.time.now()));
        let name = LeaseName::new(format!("vault/{}", holder.0));
        let until = self.time.elapsed() + self.lasts;
        let lease = self.store.acquire_lease(&name, holder, self.lasts).await?;
        if let Some(estate) = &self.estate {
            estate.note(&lease);
        }
        self.keep(lease, until)
    }

    #[expect(clippy::unnecessary_wraps, reason = "it ends the calls that it stands in")]
    fn keep(&self, lease: Lease, until: Duration) -> Result<()> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((lease, until));
        Ok(())
    }
}
