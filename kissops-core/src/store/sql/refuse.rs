//! What a step of a batch answers where it finds nothing to change, see [`Batch::must`](super::Batch::must).

use crate::Error;

/// There is none, or none any more.
pub(super) fn missing(what: impl Into<String>) -> impl Fn() -> Error + Send + Sync + 'static {
    let what = what.into();
    move || Error::NotFound { what: what.clone() }
}

/// It is not as it was when the caller read it.
pub(super) fn changed(what: impl Into<String>) -> impl Fn() -> Error + Send + Sync + 'static {
    held(what, "somebody who has changed or removed it meanwhile")
}

/// There is one already.
pub(super) fn taken(what: impl Into<String>) -> impl Fn() -> Error + Send + Sync + 'static {
    held(what, "the one that is there already")
}

/// Somebody else has it.
pub(super) fn held(
    what: impl Into<String>,
    holder: impl Into<String>,
) -> impl Fn() -> Error + Send + Sync + 'static {
    let (what, holder) = (what.into(), holder.into());
    move || Error::Conflict { what: what.clone(), holder: holder.clone() }
}
