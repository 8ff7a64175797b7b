//! Why rows were not added, and what that means for those who wait.

use crate::{
    Error,
    pg::{Place, broke_connection, chain, code, is_about_data},
};

/// Why rows were not added.
pub(super) struct Missed {
    pub(super) error: Error,
    /// Another attempt may work: it did nothing, or it can be told whether it did.
    pub(super) passes: bool,
    pub(super) about_data: bool,
}

impl Missed {
    pub(super) fn new(place: &Place, err: sqlx::Error) -> Self {
        let passes = broke_connection(&err)
            || code(&err).is_some_and(|code| code.starts_with("40") || code == "53300");
        let about_data = refuses_data(&err);
        Self { error: place.explain_sql(err), passes, about_data }
    }

    pub(super) fn passing(error: Error) -> Self {
        Self { error, passes: true, about_data: false }
    }

    /// Marks are kept for a week. One that added nothing for longer begins a new one.
    pub(super) fn mark_gone(place: &Place, in_doubt: bool) -> Self {
        let error = Error::unavailable(place.to_string())("its row of append_marks is gone");
        Self { error, passes: !in_doubt, about_data: false }
    }
}

/// The same error for each that waited.
pub(super) fn again(error: &Error) -> Error {
    match error {
        Error::Denied { what, help } => Error::Denied { what: what.clone(), help: help.clone() },
        Error::Conflict { what, holder } => {
            Error::Conflict { what: what.clone(), holder: holder.clone() }
        }
        Error::NotFound { what } => Error::NotFound { what: what.clone() },
        Error::InvalidConfig { key, rule } => Error::invalid(key, rule),
        Error::Corrupt { what, detail } => {
            Error::Corrupt { what: what.clone(), detail: detail.clone() }
        }
        Error::Closed { what } => Error::Closed { what },
        Error::Unavailable { what, source } => Error::unavailable(what.clone())(chain(&**source)),
        Error::Uncertain { what, source } => {
            Error::Uncertain { what: what.clone(), source: chain(&**source).into() }
        }
        other => Error::unavailable("the store")(other.chain()),
    }
}

fn refuses_data(err: &sqlx::Error) -> bool {
    code(err).is_some_and(|code| is_about_data(&code)) || matches!(err, sqlx::Error::Encode(_))
}
