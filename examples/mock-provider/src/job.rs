//! One request: what is asked, by whom, and what a script does to it.

use std::{sync::Arc, time::Duration};

use crate::{
    body::{Answer, Manner},
    flavour::{Flavour, Issued, Owner, Refusal},
    flow::DeviceCodes,
    grants::Refused,
    knobs::{Endpoint, Hold, Reply, Step},
    ledger::{Ending, Outcome, RequestId},
    state::{State, Who},
};

/// How a client says who it is.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pub(crate) id: Option<String>,
    pub(crate) secret: Option<String>,
    pub(crate) basic: bool,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    Refresh {
        token: String,
    },
    Code {
        code: String,
        redirect_uri: Option<String>,
        verifier: Option<String>,
    },
    DevicePoll {
        code: String,
    },
    App {
        scopes: Arc<[String]>,
    },
    Validate {
        token: String,
    },
    /// As RFC 7662 has it: a dead token is no error.
    Introspect {
        token: String,
    },
    Revoke {
        token: String,
    },
    Api {
        token: String,
    },
    DeviceStart {
        scopes: Arc<[String]>,
    },
    /// It cannot be understood.
    Nothing(Refusal),
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) endpoint: Endpoint,
    pub(crate) flavour: Flavour,
    pub(crate) claim: Claim,
    pub(crate) asked: Asked,
    /// Where this server is, for answers with a link.
    pub(crate) base: Arc<str>,
}

/// A request that has arrived, and what is to happen to it.
#[derive(Debug)]
pub(crate) struct Plan {
    request: RequestId,
    step: Step,
    limited: bool,
    pub(crate) before: Duration,
    pub(crate) after: Duration,
    pub(crate) hold: Option<Hold>,
}

impl Plan {
    /// Nothing of it takes time.
    pub(crate) fn is_instant(&self) -> bool {
        self.before.is_zero() && self.after.is_zero() && self.hold.is_none()
    }
}

/// What a request that was carried out gives.
#[derive(Debug)]
pub(crate) enum Done {
    Tokens(Issued),
    Valid(Owner),
    User(Owner, (u32, u32)),
    Revoked,
    Device(DeviceCodes),
}

impl State {
    /// Notes that it has come, and decides what happens to it.
    pub(crate) fn plan(&mut self, job: &Job) -> Plan {
        let token = match &job.asked {
            Asked::Refresh { token }
            | Asked::Validate { token }
            | Asked::Introspect { token }
            | Asked::Revoke { token }
            | Asked::Api { token } => self.find(token),
            _ => None,
        };
        let client = job.claim.id.as_deref().and_then(|id| self.client(id));
        let owner = token.map(|at| self.owner(self.tokens[at as usize].grant));
        let who = owner.unwrap_or(Who { client, account: None });
        let request = self.arrived(job.endpoint, token);
        let on = job.endpoint;
        let step = self.next_step(who, on).or_else(|| {
            let fault = self.knob(who, |knobs| knobs.fault.filter(|fault| fault.on == on))?;
            let share = self.knob(who, |knobs| knobs.fault_share).unwrap_or(1.0);
            self.by_chance(share).then_some(fault)
        });
        let step = step.unwrap_or_default();
        let exchange = on == Endpoint::Token;
        let wait = |own: Option<u64>, set: Option<u64>| {
            Duration::from_millis(own.or(set.filter(|_| exchange)).unwrap_or(0))
        };
        Plan {
            request,
            step,
            limited: exchange && !self.within_rate(who),
            before: wait(step.delay_before_ms, self.knob(who, |knobs| knobs.delay_before_ms)),
            after: wait(step.delay_after_ms, self.knob(who, |knobs| knobs.delay_after_ms)),
            hold: step.hold.or(self.knob(who, |knobs| knobs.hold).filter(|_| exchange)),
        }
    }

    /// Carries it out, unless the plan says otherwise; the ledger knows what came of it.
    pub(crate) fn perform(&mut self, job: &Job, plan: &Plan) -> Result<Done, Refusal> {
        let done = if plan.limited {
            Err((Refusal::TooMany { retry_after_s: 1 }, Outcome::RateLimited))
        } else if plan.step.commits() {
            self.carry_out(job, plan.step.answer)
        } else {
            Err((Refusal::InvalidGrant, Outcome::Refused))
        };
        let (done, outcome) = match done {
            Ok(done) => {
                let outcome = match done {
                    Done::Tokens(_) | Done::Device(_) => Outcome::Committed,
                    Done::Valid(_) | Done::User(..) => Outcome::Valid,
                    Done::Revoked => Outcome::Revoked,
                };
                (Ok(done), outcome)
            }
            Err((refusal, outcome)) => (Err(refusal), outcome),
        };
        self.came_to(plan.request, outcome);
        done
    }

    fn carry_out(&mut self, job: &Job, answer: Reply) -> Result<Done, Refused> {
        let flavour = job.flavour;
        match &job.asked {
            Asked::Nothing(refusal) => Err((*refusal, Outcome::BadRequest)),
            Asked::Validate { token } => Ok(Done::Valid(self.check(self.find(token))?)),
            Asked::Introspect { token } => {
                self.authentic_client(job)?;
                Ok(Done::Valid(self.check(self.find(token))?))
            }
            Asked::Api { token } => {
                let number = self.find(token);
                let owner = self.check(number)?;
                let (limit, left) = number.map_or((0, Ok(0)), |number| self.take_point(number));
                let limited =
                    |wait| (Refusal::TooMany { retry_after_s: wait }, Outcome::RateLimited);
                Ok(Done::User(owner, (limit, left.map_err(limited)?)))
            }
            Asked::Revoke { token } => {
                let number = self.find(token);
                let client = match (flavour, number) {
                    // Who has a token of Google's may give it up.
                    (Flavour::Google, Some(at)) => {
                        self.grants[self.tokens[at as usize].grant as usize].client
                    }
                    (Flavour::Google, None) => {
                        return Err((Refusal::InvalidToken, Outcome::Unknown));
                    }
                    (Flavour::Twitch, _) => self.known_client(job)?,
                    _ => self.authentic_client(job)?,
                };
                self.revoke(number, client, flavour)?;
                Ok(Done::Revoked)
            }
            Asked::DeviceStart { scopes } => {
                let client = self.known_client(job)?;
                Ok(Done::Device(self.start_device(client, Arc::clone(scopes))))
            }
            Asked::Refresh { token } => {
                let client = self.authentic_client(job)?;
                let number = self.find(token);
                self.refresh(number, client, flavour, answer).map(Done::Tokens)
            }
            Asked::Code { code, redirect_uri, verifier } => {
                let client = self.authentic_client(job)?;
                let (uri, verifier) = (redirect_uri.as_deref(), verifier.as_deref());
                self.redeem_code(code, uri, verifier, client, flavour).map(Done::Tokens)
            }
            Asked::DevicePoll { code } => {
                // Twitch asks for no secret here, only at the refresh.
                let client = match flavour {
                    Flavour::Twitch => self.known_client(job)?,
                    _ => self.authentic_client(job)?,
                };
                self.ask_device(code, client, flavour).map(Done::Tokens)
            }
            Asked::App { scopes } => {
                let client = self.authentic_client(job)?;
                if self.clients[client as usize].secret.is_none() {
                    return Err((Refusal::MissingSecret, Outcome::WrongClient));
                }
                let grant = self.authorize(client, None, Arc::clone(scopes));
                Ok(Done::Tokens(self.first_tokens(grant, flavour)))
            }
        }
    }

    fn known_client(&self, job: &Job) -> Result<u32, Refused> {
        let id = job.claim.id.as_deref();
        id.and_then(|id| self.client(id)).ok_or((Refusal::UnknownClient, Outcome::WrongClient))
    }

    /// A client that has its secret, or has none to have.
    fn authentic_client(&self, job: &Job) -> Result<u32, Refused> {
        let at = self.known_client(job)?;
        let client = &self.clients[at as usize];
        let refuse = |refusal| Err((refusal, Outcome::WrongClient));
        let (basic, body) = job.flavour.takes_secret_in();
        if client.tuning.knobs.misconfigured.or(self.everywhere.knobs.misconfigured) == Some(true) {
            return refuse(Refusal::BadSecret);
        }
        match (&client.secret, &job.claim.secret) {
            (None, _) => Ok(at),
            (Some(_), None) => refuse(Refusal::MissingSecret),
            (Some(own), Some(said)) if own != said => refuse(Refusal::BadSecret),
            _ if job.claim.basic && !basic || !job.claim.basic && !body => {
                refuse(Refusal::BadSecret)
            }
            _ => Ok(at),
        }
    }

    /// What is sent back, if anything is.
    pub(crate) fn answer(
        &mut self,
        job: &Job,
        plan: &Plan,
        done: Result<Done, Refusal>,
    ) -> Option<Answer> {
        let answer = shape(job, &plan.step, done);
        let (ending, status) = match &answer {
            None => (Ending::Dropped, 0),
            Some(answer) if answer.manner == Manner::Half => (Ending::Dropped, answer.status),
            Some(answer) => (Ending::Answered, answer.status),
        };
        self.ended(plan.request, ending, status);
        let date = || {
            let now = jiff::Timestamp::from_microsecond(self.clock.now()).unwrap_or_default();
            jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now)
        };
        match answer {
            // A provider whose clock is wrong says so.
            Some(answer) if !self.clock.is_true() => match date() {
                Ok(date) => Some(answer.with("date", date)),
                Err(_) => Some(answer),
            },
            answer => answer,
        }
    }

    /// Whoever asked had gone before the answer.
    pub(crate) fn abandoned(&mut self, plan: &Plan) {
        self.ended(plan.request, Ending::Abandoned, 0);
    }
}

fn shape(job: &Job, step: &Step, done: Result<Done, Refusal>) -> Option<Answer> {
    let flavour = job.flavour;
    let (but, at) = (step.answer, job.endpoint);
    let plain = |status, message| Answer::json(status, flavour.plain_error(status, message));
    let refused = |refusal| {
        let (status, body) = flavour.refusal(refusal, at);
        Answer::json(status, body)
    };
    let later = |answer: Answer| match step.retry_after_s {
        Some(seconds) => answer.with("retry-after", seconds),
        None => answer,
    };
    Some(match but {
        Reply::DropBeforeCommit | Reply::CommitThenDrop => return None,
        Reply::InvalidGrant => refused(Refusal::InvalidGrant),
        Reply::InvalidClient => refused(Refusal::BadSecret),
        Reply::Unauthorized if at == Endpoint::Token => {
            Answer::json(401, flavour.refusal(Refusal::InvalidGrant, at).1.replace("400", "401"))
        }
        Reply::Unauthorized => refused(Refusal::InvalidToken),
        Reply::Forbidden => plain(403, "Forbidden"),
        Reply::NotFound => Answer::html(404, "<html><h1>404 Not Found</h1></html>"),
        Reply::TooManyRequests => later(plain(429, "Too Many Requests")),
        Reply::ServerError => plain(500, "Internal Server Error"),
        Reply::BadGateway => {
            Answer::html(502, "<html>\n<head><title>502 Bad Gateway</title></head>\n</html>\n")
        }
        Reply::Unavailable => later(plain(503, "Service Unavailable")),
        Reply::Redirect => {
            Answer::html(307, "").with("location", format!("{}/elsewhere", job.base))
        }
        Reply::OkWithError => Answer::json(200, flavour.refusal(Refusal::InvalidGrant, at).1),
        Reply::Empty => Answer::json(200, ""),
        Reply::Garbage => Answer::json(200, vec![0xFF, 0x00, b'{', 0xC3, 0x28, b'"']),
        Reply::Huge => Answer::json(200, vec![b' '; 1 << 20]),
        Reply::EmptyAccessToken if done.is_err() => {
            Answer::json(200, flavour.tokens(&nothing_issued(), but))
        }
        _ => {
            let mut answer = match done {
                Ok(done) => success(job, done, but),
                Err(Refusal::TooMany { retry_after_s }) => {
                    refused(Refusal::TooMany { retry_after_s }).with("retry-after", retry_after_s)
                }
                Err(Refusal::InvalidToken) if matches!(job.asked, Asked::Introspect { .. }) => {
                    Answer::json(200, "{\"active\":false}")
                }
                Err(refusal) => refused(refusal),
            };
            answer.manner = match but {
                Reply::HalfBody => Manner::Half,
                Reply::SlowBody => {
                    Manner::Slow(Duration::from_millis(step.slow_ms.unwrap_or(1000)))
                }
                _ => Manner::Whole,
            };
            answer
        }
    })
}

fn nothing_issued() -> Issued {
    Issued { access: String::new(), refresh: None, expires_in_s: 3600, scopes: Arc::new([]) }
}

fn success(job: &Job, done: Done, but: Reply) -> Answer {
    let flavour = job.flavour;
    match done {
        Done::Tokens(issued) => {
            Answer::json(200, flavour.tokens(&issued, but)).with("cache-control", "no-store")
        }
        Done::Valid(owner) => Answer::json(200, flavour.valid(&owner, but)),
        Done::User(owner, (limit, left)) => Answer::json(200, flavour.user(&owner))
            .with("ratelimit-limit", limit)
            .with("ratelimit-remaining", left),
        Done::Revoked => Answer::new(200, "", ""),
        Done::Device(codes) => {
            let DeviceCodes { device_code, user_code, expires_in_s, interval_s } = codes;
            let place = format!("{}/activate", job.base);
            let (uri, whole) = match flavour {
                Flavour::Twitch => ("verification_uri", format!("{place}?user_code={user_code}")),
                Flavour::Google => ("verification_url", place.clone()),
                _ => ("verification_uri", place.clone()),
            };
            let complete = match flavour {
                Flavour::Generic => {
                    format!(",\"verification_uri_complete\":\"{place}?user_code={user_code}\"")
                }
                _ => String::new(),
            };
            Answer::json(
                200,
                format!(
                    "{{\"device_code\":\"{device_code}\",\"user_code\":\"{user_code}\",\"{uri}\":\"{whole}\"{complete},\"expires_in\":{expires_in_s},\"interval\":{interval_s}}}"
                ),
            )
        }
    }
}
