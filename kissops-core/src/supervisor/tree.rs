//! stub
use std::time::Duration;
use crate::{Result, id::RunId};
use super::cgroup::Cgroup;
#[derive(Debug)] pub(crate) struct Tree;
/// x
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)] pub struct ProcessInfo { pub pid: i32, pub command: String }
impl Tree {
  pub(crate) fn new(_: RunId, _: i32, _: Option<Cgroup>, _: Option<i32>) -> Self { Self }
  pub(crate) fn is_empty(&self) -> bool { true }
  pub(crate) async fn kill(&self, _: Duration) -> Result<usize> { Ok(0) }
  pub(crate) fn contains(&self, _: i32) -> bool { true }
  pub(crate) fn oom_kills(&self) -> u64 { 0 }
  pub(crate) async fn describe(&self) -> Result<Vec<ProcessInfo>> { Ok(vec![]) }
}
