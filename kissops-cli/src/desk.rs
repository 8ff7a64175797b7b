//! Where the vault is asked: the daemon if one answers, else the store itself, in this process.

use std::{os::unix::fs::DirBuilderExt as _, sync::Arc};

use kissops_core::{
    Error,
    config::{self, Config, Environment},
    control::LocalVault,
    redact::Redactor,
    store,
    vault::{Assembly, Tenant},
};
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};

use crate::{client::Client, context::Context, exit::Failure, settings};

/// A daemon, or the store that it would have. Both answer the same requests.
pub(crate) enum Desk {
    /// The daemon.
    Daemon(Client),
    /// The store, and its vault.
    Local(Box<(LocalVault, Assembly)>),
}

impl Desk {
    /// Asks the daemon whether it is there. One that was named by `--socket` must be.
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        let client = Client::new(context)?;
        if context.socket.is_some() || client.is_up().await? {
            return Ok(Self::Daemon(client));
        }
        // Without a file that names a store there is only the daemon to be asked.
        let file = settings::file(context).map_err(|_| client.absent())?;
        let config = config::load(&file, &Environment::of_process())
            .map_err(|errors| settings::failure(&errors))?;
        context.say(&format!("no daemon answers; working on {}", config.store.url));
        Self::at_store(&config).await
    }

    async fn at_store(config: &Config) -> Result<Self, Failure> {
        let folder = &config.daemon.state_dir;
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(Error::io(format!("make the folder {}", folder.display())))?;
        let store = store::open(&config.store.url, config.store.options()).await?;
        let redactor = Arc::new(Redactor::new());
        let assembly = Assembly::open(config, store, redactor, Tenant::Guest).await?;
        let local = LocalVault::with_definitions(assembly.admin(), &config.instances);
        Ok(Self::Local(Box::new((local, assembly))))
    }

    /// Nobody goes on with what was begun once this program has ended.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Ends what is still under way here.
    pub(crate) async fn close(self) {
        if let Self::Local(both) = self {
            let (local, assembly) = *both;
            local.close().await;
            assembly.vault.close().await;
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.ask(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.ask(Method::DELETE, path, None::<&()>).await
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, Failure> {
        match self {
            // What waits for a provider has its limit on the other side.
            Self::Daemon(client) => client.send(method, path, body, None).await,
            Self::Local(both) => {
                let body =
                    body.map(serde_json::to_vec).transpose().map_err(|err| unreadable(&err))?;
                let answer = both.0.call(method, path, body).await?;
                serde_json::from_slice(answer_or_null(&answer)).map_err(|err| unreadable(&err))
            }
        }
    }
}

/// An answer without a body is one of `()`.
pub(crate) fn answer_or_null(answer: &[u8]) -> &[u8] {
    if answer.is_empty() { b"null" } else { answer }
}

fn unreadable(err: &serde_json::Error) -> Failure {
    Failure::new("protocol", format!("an answer cannot be read: {err}"), "please report it")
}
