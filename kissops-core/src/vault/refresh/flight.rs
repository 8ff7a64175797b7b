//! Single flight: however many ask for a grant, one works on it, and all of them get what comes of that.
//!
//! What is asked for is not "a refresh" but "a pair after this one". So whoever asks late, having seen the old pair, gets
//! the new one instead of another.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    Error,
    store::{Generation, GrantId},
    vault::AccessToken,
};

/// What somebody wants of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A pair after this one.
    After(Generation),
    /// To know whether the pair is good; if not, a pair after it.
    Check(Generation),
}

/// All that is wanted of a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// A pair after this one.
    pub(crate) after: Option<Generation>,
    /// To know whether this pair is good.
    pub(crate) check: Option<Generation>,
    /// A refresh now, as a witness of how the provider is doing.
    pub(crate) witness: bool,
    /// To go on with what somebody has left behind.
    pub(crate) left_behind: bool,
}

/// What nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A refresh now, as a witness of how the provider is doing.
    Witness,
    /// To go on with what somebody has left behind.
    LeftBehind,
}

impl Wants {
    pub(crate) fn is_empty(&self) -> bool {
        self.after.is_none() && self.check.is_none()
    }
}

/// What came of it, for each who asked.
pub(crate) type Fate = Result<AccessToken, Refusal>;

/// An [`Error`] that can be handed out more than once.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    NotFound { what: String },
    Unavailable { what: String, why: String },
    WrongState { what: String, state: String, help: String },
    Closed,
}

impl From<&Error> for Refusal {
    fn from(err: &Error) -> Self {
        match err {
            Error::NotFound { what } => Self::NotFound { what: what.clone() },
            Error::WrongState { what, state, help } => {
                Self::WrongState { what: what.clone(), state: state.clone(), help: help.clone() }
            }
            Error::Closed { .. } => Self::Closed,
            other => Self::Unavailable { what: "the vault".into(), why: other.chain() },
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound { what } => Self::NotFound { what },
            Refusal::Unavailable { what, why } => Self::Unavailable { what, source: why.into() },
            Refusal::WrongState { what, state, help } => Self::WrongState { what, state, help },
            Refusal::Closed => Self::Closed { what: "the vault" },
        }
    }
}

#[derive(Debug)]
struct Flight {
    provider: Arc<str>,
    waiters: Vec<(Want, oneshot::Sender<Fate>)>,
    witness: bool,
    left_behind: bool,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: Mutex<HashMap<GrantId, Flight>>,
}

impl Flights {
    /// Waits for what is wanted. Whoever drops the receiver takes nothing from the others.
    pub(crate) fn join(&self, id: GrantId, provider: &str, want: Want) -> oneshot::Receiver<Fate> {
        let (reply, fate) = oneshot::channel();
        Self::flight(&mut self.lock(), id, provider).waiters.push((want, reply));
        fate
    }

    /// Has something done that nobody waits for.
    pub(crate) fn call(&self, id: GrantId, provider: &str, call: Call) {
        let mut flights = self.lock();
        let flight = Self::flight(&mut flights, id, provider);
        match call {
            Call::Witness => flight.witness = true,
            Call::LeftBehind => flight.left_behind = true,
        }
    }

    /// What is wanted of a grant by now.
    pub(crate) fn wants(&self, id: GrantId) -> Wants {
        let flights = self.lock();
        let Some(flight) = flights.get(&id) else { return Wants::default() };
        let mut wants =
            Wants { witness: flight.witness, left_behind: flight.left_behind, ..Wants::default() };
        for (want, _) in &flight.waiters {
            match want {
                Want::After(generation) => wants.after = wants.after.max(Some(*generation)),
                Want::Check(generation) => wants.check = wants.check.max(Some(*generation)),
            }
        }
        wants
    }

    /// A grant was seen to: `fate` is for those whose wish is among `wants`. Says whether others came meanwhile.
    pub(crate) fn land(&self, id: GrantId, wants: &Wants, fate: &Fate) -> bool {
        let mut flights = self.lock();
        let Some(flight) = flights.get_mut(&id) else { return false };
        flight.witness &= !wants.witness;
        flight.left_behind &= !wants.left_behind;
        let heard = |want: &Want| match want {
            Want::After(generation) => wants.after >= Some(*generation),
            Want::Check(generation) => wants.check >= Some(*generation),
        };
        let (told, left) =
            std::mem::take(&mut flight.waiters).into_iter().partition(|(want, _)| heard(want));
        flight.waiters = left;
        let more = !flight.waiters.is_empty() || flight.witness || flight.left_behind;
        if !more {
            flights.remove(&id);
        }
        drop(flights);
        let told: Vec<(Want, oneshot::Sender<Fate>)> = told;
        for (_, reply) in told {
            // Whoever asked may be gone.
            let _ = reply.send(fate.clone());
        }
        more
    }

    /// Nobody is to wait for a provider of which nothing is to be expected (`None`: for any), unless `is_seen_to`.
    pub(crate) fn refuse(
        &self,
        provider: Option<&str>,
        refusal: &Refusal,
        is_seen_to: impl Fn(GrantId) -> bool,
    ) {
        let mut told = vec![];
        self.lock().retain(|id, flight| {
            if provider.is_some_and(|name| *flight.provider != *name) || is_seen_to(*id) {
                return true;
            }
            told.append(&mut flight.waiters);
            flight.witness || flight.left_behind
        });
        for (_, reply) in told {
            let _ = reply.send(Err(refusal.clone()));
        }
    }

    fn flight<'a>(
        flights: &'a mut MutexGuard<'_, HashMap<GrantId, Flight>>,
        id: GrantId,
        provider: &str,
    ) -> &'a mut Flight {
        let new = || Flight {
            provider: provider.into(),
            waiters: Vec::new(),
            witness: false,
            left_behind: false,
        };
        flights.entry(id).or_insert_with(new)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GrantId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
