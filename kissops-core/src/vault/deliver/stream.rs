//! The tokens of an instance as they come, over one connection.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::body::Bytes;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::MissedTickBehavior,
};

use super::{
    Bot, Inner,
    answer::{self, Answer},
};
use crate::{
    Timestamp,
    id::RunId,
    store::{Generation, GrantKey},
    vault::{AccessToken, TokenVault},
};

/// How often a line comes at least, so that each side notices the other's end.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A grant that has no token now is looked at again after this, and then less often …
const PAUSE: Duration = Duration::from_millis(250);
/// … down to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Lines that wait for a bot that does not read them.
const AHEAD: usize = 8;

#[derive(Serialize)]
struct Line<'a> {
    provider: &'a str,
    account: &'a str,
    access_token: &'a str,
    expires_at: Option<Timestamp>,
    generation: u64,
}

/// One stream: for one run of an instance, as long as that lasts.
#[derive(Clone)]
struct Stream {
    inner: Arc<Inner>,
    bot: Arc<Bot>,
    run: RunId,
    vault: Arc<dyn TokenVault>,
    lines: mpsc::Sender<Bytes>,
}

/// Begins with the tokens that there are: whoever comes back has missed none.
pub(super) fn open(
    inner: Arc<Inner>,
    bot: Arc<Bot>,
    run: RunId,
    vault: Arc<dyn TokenVault>,
) -> Answer {
    let (lines, receiver) = mpsc::channel(AHEAD);
    let tasks = inner.tasks.clone();
    tasks.spawn(Stream { inner, bot, run, vault, lines }.serve());
    answer::lines(receiver)
}

impl Stream {
    async fn serve(self) {
        let mut tasks = JoinSet::new();
        let mut followed: BTreeMap<GrantKey, AbortHandle> = BTreeMap::new();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.ending.cancelled() => return,
                () = self.lines.closed() => return,
                _ = beat.tick() => {}
            }
            if !self.is_ours() {
                return;
            }
            let keys = self.inner.tokens_of(&self.bot);
            followed.retain(|key, task| {
                let stays = keys.contains(key);
                if !stays {
                    task.abort();
                }
                stays && !task.is_finished()
            });
            while tasks.try_join_next().is_some() {}
            for key in keys {
                let follow = self.clone().follow(key.clone());
                followed.entry(key).or_insert_with(|| tasks.spawn(follow));
            }
            let heartbeat = Bytes::from_static(b"{\"heartbeat\":true}\n");
            tokio::select! {
                () = self.inner.ending.cancelled() => return,
                sent = self.lines.send(heartbeat) => if sent.is_err() { return },
            }
        }
    }

    /// Sends each token of a grant, until the bot listens no more or may not read it any longer.
    async fn follow(self, key: GrantKey) {
        let (mut after, mut pause) = (Generation(0), PAUSE);
        loop {
            // Why there is none, a bot learns when it asks for it.
            let Ok(token) = self.vault.token_after(&key, after).await else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            };
            (after, pause) = (token.generation, PAUSE);
            // The definition may have changed while we waited; the next heartbeat sorts that out.
            let may_read = self.is_ours() && self.inner.tokens_of(&self.bot).contains(&key);
            if !may_read || self.lines.send(line(&token)).await.is_err() {
                return;
            }
            self.inner.counts.tokens.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The process that asked is still of the instance's present run.
    fn is_ours(&self) -> bool {
        let supervisor = self.inner.supervisor();
        supervisor.is_some_and(|all| all.present_run(&self.bot.name) == Some(self.run))
    }
}

fn line(token: &AccessToken) -> Bytes {
    let line = Line {
        provider: &token.key.provider,
        account: &token.key.account,
        access_token: token.token.expose_secret(),
        expires_at: token.expires_at,
        generation: token.generation.0,
    };
    // Texts and numbers always can be written.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
