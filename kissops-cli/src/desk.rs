//! Where the vault is asked: the daemon if one answers, else the store itself, in this process.

use kissops_core::control::LocalVault;
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};

use crate::{client::Client, context::Context, exit::Failure};

/// A daemon, or the store that it would have. Both answer the same requests.
pub(crate) enum Desk {
    /// The daemon.
    Daemon(Client),
    /// The store.
    Local(LocalVault),
}

impl Desk {
    /// Asks the daemon whether it is there. One that was named by `--socket` must be.
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        let client = Client::new(context)?;
        if context.socket.is_some() || client.is_up().await? {
            return Ok(Self::Daemon(client));
        }
        Err(client.absent())
    }

    /// Nobody goes on with what was begun once this program has ended.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Ends what is still under way here.
    pub(crate) async fn close(self) {
        if let Self::Local(vault) = self {
            vault.close().await;
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
            Self::Local(vault) => {
                let body =
                    body.map(serde_json::to_vec).transpose().map_err(|err| unreadable(&err))?;
                let answer = vault.call(method, path, body).await?;
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
