//! Sending, and what comes back: kept as it came, then read.

use std::time::Duration;

use super::{
    super::{breaker::Said, decide::Before, engine::Checkpoint, session::Right},
    Step, Visit, ticket,
};
use crate::{
    Error, Result,
    store::{GrantRecord, Landing, RefreshPhase, RefreshRecord},
    vault::{Answer, ExchangeJob, Exchanged, RawAnswer, RotationClass, TokenRequest, TokenSet},
};

/// Between two tries to keep an answer while the store is away.
const LANDING_RETRY: Duration = Duration::from_millis(500);

/// An answer that was read, and what belongs to it.
pub(super) struct Read {
    answer: Answer,
    raw: RawAnswer,
}

impl Visit<'_> {
    /// Sends what is recorded as sent.
    pub(super) async fn exchange(
        &self,
        record: GrantRecord,
        intent: RefreshRecord,
        request: TokenRequest,
        right: &Right,
        before: Before,
    ) -> Result<Step> {
        let engine = self.engine;
        let limit = self.upstream.limits().exchange_limit;
        let send_before = right.until.saturating_sub(limit + engine.session.margin());
        let job = ExchangeJob { ticket: ticket(&intent), request, limit, send_before };
        let asked = Some(engine.time.elapsed());
        match engine.exchanger.exchange(job).await {
            Exchanged::Answered(raw) => {
                let raw = self.land(&intent, raw).await?;
                let Some(raw) = raw else { return Ok(Step::Again(Duration::ZERO)) };
                let intent = RefreshRecord { phase: RefreshPhase::Landed, ..intent };
                let read = Read { answer: self.upstream.read(&raw), raw };
                let read = match intent.attempt {
                    1 => read,
                    _ => self.stored_answer(&record).await?.unwrap_or(read),
                };
                self.digest(record, intent, read, before, asked).await
            }
            Exchanged::NotSent(err) => self.not_sent(record, intent, &err, asked).await,
            Exchanged::Unanswered(err) => {
                self.unanswered(record, intent, &err.chain(), asked).await
            }
        }
    }

    /// Keeps an answer as it came, whatever it takes: it may hold the only token there is. `None`: nobody waits for it any
    /// more, since the grant was authorized anew or given up meanwhile.
    pub(super) async fn land(
        &self,
        intent: &RefreshRecord,
        raw: RawAnswer,
    ) -> Result<Option<RawAnswer>> {
        let engine = self.engine;
        let id = intent.refresh.grant;
        engine.pass(Checkpoint::Answered, id);
        let mut told = false;
        loop {
            match engine.keyring.sealing(|| self.land_once(intent, &raw)).await {
                Ok(()) => break,
                Err(Error::Conflict { .. }) => {
                    tracing::warn!(grant = id.0, "an answer came for a refresh that is over");
                    return Ok(None);
                }
                Err(err) => {
                    if !told {
                        tracing::error!(grant = id.0, error = %err.chain(),
                            "an answer cannot be stored; it is kept in memory until it can: do not end this process");
                        told = true;
                    }
                    engine.time.sleep_until(engine.time.elapsed() + LANDING_RETRY).await;
                }
            }
        }
        engine.pass(Checkpoint::Landed, id);
        engine.exchanger.settled(ticket(intent)).await;
        Ok(Some(raw))
    }

    async fn land_once(&self, intent: &RefreshRecord, raw: &RawAnswer) -> Result<()> {
        let body = self.seal_answer(ticket(intent), raw).await?;
        let landing = Landing {
            grant: intent.refresh.grant,
            generation: intent.refresh.generation,
            attempt: intent.attempt,
            status: raw.status,
            body,
            at: raw.at,
        };
        self.engine.store.land(landing).await
    }

    /// What an answer says is done. It is stored, so this can be done again.
    pub(super) async fn digest(
        &self,
        record: GrantRecord,
        intent: RefreshRecord,
        read: Read,
        before: Before,
        asked: Option<Duration>,
    ) -> Result<Step> {
        let Read { answer, raw } = read;
        match answer {
            Answer::Tokens(tokens) => {
                let record = self.commit_or_adopt(&record, tokens, &raw).await?;
                self.hear(&record, asked, Said::Success);
                Ok(Step::Well(Box::new(record)))
            }
            Answer::Retry { after, detail } => {
                self.hear(&record, asked, Said::Trouble);
                let verdict = self.case(&record).retryable(after, &detail);
                let record = self.end(&record, &intent, verdict).await?;
                Ok(Step::Refused(Box::new(record), self.unavailable(detail)))
            }
            Answer::Terminal { detail } => {
                self.hear(&record, asked, Said::Refusal);
                let verdict = self.case(&record).refused(&detail, before);
                let record = self.end(&record, &intent, verdict).await?;
                Ok(Step::Changed(Box::new(record)))
            }
            Answer::Misconfigured { detail } => {
                self.hear(&record, asked, Said::ClientRefused);
                let verdict = self.case(&record).misconfigured();
                let record = self.end(&record, &intent, verdict).await?;
                Ok(Step::Refused(Box::new(record), self.unavailable(detail)))
            }
            Answer::Unclear { detail } => {
                self.hear(&record, asked, Said::Trouble);
                let verdict = self.case(&record).unanswered(&detail);
                let record = if self.rotation == RotationClass::Reusable {
                    self.end(&record, &intent, verdict).await?
                } else {
                    // The answer stays: a corrected profile may find the tokens in it.
                    self.keep(record, verdict).await?
                };
                Ok(Step::Refused(Box::new(record), self.unavailable(detail)))
            }
        }
    }

    /// Commits, or finds that it was done: by an earlier try whose answer from the store was lost, or by another process.
    async fn commit_or_adopt(
        &self,
        record: &GrantRecord,
        tokens: TokenSet,
        raw: &RawAnswer,
    ) -> Result<GrantRecord> {
        match self.commit(record, tokens, raw.sent_at).await {
            Err(err @ (Error::Conflict { .. } | Error::Uncertain { .. })) => {
                let now = self.engine.store.grant_by_id(record.grant.id).await?;
                now.filter(|now| now.generation > record.generation).ok_or(match err {
                    // It is looked into again, from the answer that is stored.
                    Error::Uncertain { what, source } => Error::Unavailable { what, source },
                    conflict => conflict,
                })
            }
            other => other,
        }
    }

    /// What the answers say that were stored, by this process or one before it; `None`: nothing. An earlier attempt's
    /// answer may have come late, with the tokens for whose sake the latest one is refused.
    pub(super) async fn stored_answer(&self, record: &GrantRecord) -> Result<Option<Read>> {
        let landings = self.engine.store.landings(record.grant.id).await?;
        let of_this = landings.iter().filter(|landing| landing.generation == record.generation);
        let mut latest: Option<Read> = None;
        for landing in of_this.rev() {
            let raw = self.open_landing(landing).await?;
            let read = Read { answer: self.upstream.read(&raw), raw };
            if matches!(read.answer, Answer::Tokens(_)) {
                return Ok(Some(read));
            }
            latest.get_or_insert(read);
        }
        let says_nothing = |read: &Read| {
            matches!(read.answer, Answer::Unclear { .. })
                && self.rotation != RotationClass::Reusable
        };
        Ok(latest.filter(|read| !says_nothing(read)))
    }

    async fn not_sent(
        &self,
        record: GrantRecord,
        intent: RefreshRecord,
        err: &Error,
        asked: Option<Duration>,
    ) -> Result<Step> {
        // Too late to be sent: that says nothing of the provider.
        if err.is_transient() {
            self.hear(&record, asked, Said::Trouble);
        }
        let verdict = self.case(&record).retryable(None, &err.chain());
        let record = self.end(&record, &intent, verdict).await?;
        Ok(Step::Refused(Box::new(record), self.unavailable(err.chain())))
    }

    async fn unanswered(
        &self,
        record: GrantRecord,
        intent: RefreshRecord,
        why: &str,
        asked: Option<Duration>,
    ) -> Result<Step> {
        self.hear(&record, asked, Said::Trouble);
        let verdict = self.case(&record).unanswered(why);
        let record = if self.rotation == RotationClass::Reusable {
            self.end(&record, &intent, verdict).await?
        } else {
            self.engine.store.mark_unanswered(&intent, self.engine.now()).await?;
            self.keep(record, verdict).await?
        };
        Ok(Step::Refused(Box::new(record), self.unavailable(why)))
    }
}
