//! The slow beat: samples of every tree, memory limits where no cgroup enforces them, housekeeping.
use std::sync::Arc;
use super::shared::Shared;
pub(super) async fn watch(shared: Arc<Shared>) { let _ = shared; }
