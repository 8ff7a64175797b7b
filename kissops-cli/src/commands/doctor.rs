//! `kissops doctor`.

use crate::{
    context::Context,
    exit::{Exit, Failure},
};

pub(crate) async fn run(_: &Context) -> Result<Exit, Failure> {
    Err(Failure::usage("not wired", ""))
}
