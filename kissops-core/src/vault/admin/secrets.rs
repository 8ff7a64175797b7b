//! Secrets that are no OAuth grants: bot tokens, webhook URLs, API keys.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::expose;
use crate::{HumanDuration, Timestamp};

/// A secret as it is shown: never its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct SecretView {
    /// What the configuration calls it.
    pub name: String,
    /// What it is: `bot_token`, `webhook_url`, `api_key`, `password`.
    pub kind: String,
    /// Counts its values.
    pub version: u64,
    /// It was made here, at random.
    pub generated: bool,
    /// Since when it has this value.
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub changed_at: Timestamp,
    /// After how long it should be replaced.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub max_age: Option<HumanDuration>,
    /// When that is.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub due_at: Option<Timestamp>,
    /// Other secrets with the same value: each should have one of its own.
    pub alike: Vec<String>,
}

/// All secrets, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct SecretList {
    /// By name.
    pub secrets: Vec<SecretView>,
}

/// A value to be kept. `Debug` shows nothing of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetSecret {
    /// The value.
    #[serde(serialize_with = "expose::one")]
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub value: SecretString,
    /// What it is; as before, or `secret`, where it is left out.
    #[serde(default)]
    pub kind: Option<String>,
    /// After how long it should be replaced; as before where it is left out.
    #[serde(default)]
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub max_age: Option<HumanDuration>,
}

/// A secret to be made at random.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct GenerateSecret {
    /// What it is; `secret` where it is left out.
    pub kind: Option<String>,
    /// After how long it should be replaced.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub max_age: Option<HumanDuration>,
}

/// After how long a secret should be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretAge {
    /// `null`: never.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub max_age: Option<HumanDuration>,
}

/// A secret in clear text. `Debug` shows nothing of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct RevealedSecret {
    /// What the configuration calls it.
    pub name: String,
    /// Which of its values.
    pub version: u64,
    /// The value.
    #[serde(serialize_with = "expose::one")]
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub value: SecretString,
}
