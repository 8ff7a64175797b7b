//! stub
use crate::{Result};
use super::Credentials;
pub(crate) struct User { pub(crate) credentials: Credentials }
impl User { pub(crate) fn variables(&self) -> Vec<(&'static str, String)> { vec![] } }
pub(crate) fn resolve(_: Option<&str>, _: Option<&str>) -> Result<Option<User>> { Ok(None) }
