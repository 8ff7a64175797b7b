//! Secrets that are no OAuth grants: bot tokens, webhook URLs, API keys.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Caller, VaultAdmin, expose};
use crate::{
    Error, HumanDuration, Result, Timestamp,
    store::SecretSource,
    vault::{MaxAge, SecretForm, SecretInfo, SecretKind, Secrets},
};

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
    /// What a new one is; `secret` where it is left out.
    #[serde(default)]
    pub kind: Option<String>,
    /// After how long it should be replaced; as before, or as is usual for its kind, where it is left out.
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
    /// `letters`, `hex` or `base64`; letters and digits where it is left out.
    pub form: Option<String>,
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

impl From<SecretInfo> for SecretView {
    fn from(info: SecretInfo) -> Self {
        Self {
            name: info.name,
            kind: info.kind.as_str().to_owned(),
            version: info.version,
            generated: info.source == SecretSource::Generated,
            changed_at: info.set_at,
            max_age: info.max_age.map(HumanDuration),
            due_at: info.due_at,
            alike: info.alike,
        }
    }
}

/// What is not said to be anything else.
const KIND: &str = "secret";

fn kind(word: Option<&str>) -> SecretKind {
    SecretKind::of(word.unwrap_or(KIND))
}

fn age(span: Option<HumanDuration>) -> MaxAge {
    span.map_or(MaxAge::Keep, |span| MaxAge::After(span.0))
}

fn form(word: Option<&str>) -> Result<SecretForm> {
    let Some(word) = word else { return Ok(SecretForm::Letters) };
    SecretForm::parse(word)
        .ok_or_else(|| Error::invalid("the form of a secret", "must be letters, hex or base64"))
}

impl VaultAdmin {
    /// All secrets, by name, without their values.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState) while the vault is sealed.
    pub async fn secrets(&self) -> Result<SecretList> {
        let all = self.keeper()?.list().await?;
        Ok(SecretList { secrets: all.into_iter().map(SecretView::from).collect() })
    }

    /// Keeps a secret, or a new value of one that is there.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) for a name or a value that cannot be.
    pub async fn set_secret(
        &self,
        caller: &Caller,
        name: String,
        request: SetSecret,
    ) -> Result<SecretView> {
        let keeper = self.keeper()?;
        self.change(caller, "secret.set", target(&name), async move {
            let SetSecret { value, kind: word, max_age } = request;
            let kept = keeper.set(&name, kind(word.as_deref()), &value, age(max_age)).await?;
            Ok(kept.into())
        })
        .await
    }

    /// Makes a secret at random, under a name that is free.
    ///
    /// # Errors
    /// [`Conflict`](Error::Conflict) if the name is taken.
    pub async fn generate_secret(
        &self,
        caller: &Caller,
        name: String,
        request: GenerateSecret,
    ) -> Result<SecretView> {
        let keeper = self.keeper()?;
        let form = form(request.form.as_deref())?;
        self.change(caller, "secret.generate", target(&name), async move {
            let GenerateSecret { kind: word, max_age, .. } = request;
            let made = keeper.generate(&name, kind(word.as_deref()), form, age(max_age)).await?;
            Ok(made.into())
        })
        .await
    }

    /// Replaces a secret that was made at random by another such.
    ///
    /// # Errors
    /// [`WrongState`](Error::WrongState) for one that was given: only who gave it can make another.
    pub async fn rotate_secret(&self, caller: &Caller, name: String) -> Result<SecretView> {
        let keeper = self.keeper()?;
        self.change(caller, "secret.rotate", target(&name), async move {
            Ok(keeper.rotate(&name, SecretForm::Letters).await?.into())
        })
        .await
    }

    /// Sets after how long a secret should be replaced.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn set_secret_age(
        &self,
        caller: &Caller,
        name: String,
        request: SecretAge,
    ) -> Result<SecretView> {
        let keeper = self.keeper()?;
        self.change(caller, "secret.age", target(&name), async move {
            keeper.set_age(&name, request.max_age.map(|span| span.0)).await?;
            Ok(keeper.info(&name).await?.into())
        })
        .await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound).
    pub async fn remove_secret(&self, caller: &Caller, name: String) -> Result<()> {
        let keeper = self.keeper()?;
        self.change(
            caller,
            "secret.remove",
            target(&name),
            async move { keeper.remove(&name).await },
        )
        .await
    }

    /// A secret in clear text, once it is recorded who sees it.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound), and those of the audit.
    pub async fn reveal_secret(&self, caller: &Caller, name: &str) -> Result<RevealedSecret> {
        let keeper = self.keeper()?;
        let found = async {
            let value = keeper.get(name).await?;
            Ok((value, keeper.info(name).await?.version))
        };
        let target = target(name);
        let (value, version) =
            self.ledger().reveal(caller, "secret.reveal", &target, found.await).await?;
        Ok(RevealedSecret { name: name.to_owned(), version, value })
    }

    fn keeper(&self) -> Result<Secrets> {
        Secrets::new(self.keyring()?.clone())
    }
}

/// What an audit entry calls a secret. What was typed as a name may be a secret, typed in the wrong place.
fn target(name: &str) -> String {
    const LONGEST: usize = 64;
    let is_name = name.len() <= LONGEST
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if is_name { format!("secret {name}") } else { "secret of an odd name".to_owned() }
}
