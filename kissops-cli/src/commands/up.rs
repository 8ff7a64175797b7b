//! `kissops up`: the daemon in the foreground, and what the fleet does.

mod daemon;

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use kissops_core::{
    config::{self, Environment},
    control::{Event, Events, Status},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};

use self::daemon::Daemon;
use super::{
    check, events,
    top::{View, draw},
};
use crate::{
    args::Up,
    client::{Client, EventStream},
    context::{Context, out, print_json},
    exit::{Exit, Failure},
    render::screen::{Input, Key, Screen},
    settings,
};

const EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: &Context, args: &Up) -> Result<Exit, Failure> {
    let file = settings::file(context)?;
    if let Err(errors) = config::load(&file, &Environment::of_process()) {
        if context.json {
            return Err(settings::failure(&errors));
        }
        check::say(&errors.render())?;
        return Err(Failure::Said(Exit::Config));
    }
    let client = Client::new(context)?;
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let live = terminal && !context.json && !context.quiet;
    let mut session = Session { context, client, daemon: None, leave_running: args.leave_running };
    if session.client.is_up().await? {
        let status = session.client.status(&[]).await?;
        context.say(&format!(
            "a daemon already runs for this state (pid {}); this only shows it, and leaves it running",
            status.fleet.pid
        ));
    } else {
        let mut daemon = Daemon::start(&file, live)?;
        daemon.wait_until_up(&session.client).await?;
        session.daemon = Some(daemon);
    }
    if live { session.show().await } else { session.tell().await }
}

/// A daemon, ours or one that ran already, and how it is looked at.
struct Session<'a> {
    context: &'a Context,
    client: Client,
    daemon: Option<Daemon>,
    leave_running: bool,
}

impl Session<'_> {
    /// The live view, until `q` or Ctrl-C; then until our daemon has ended.
    async fn show(&mut self) -> Result<Exit, Failure> {
        let mut status = self.client.status(&[]).await?;
        let mut screen = Screen::open()?;
        let mut view = View::default();
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut below = None;
        let mut stopping = false;
        let ended = loop {
            draw(&mut screen, &mut view, &status, below.as_deref(), self.context)?;
            tokio::select! {
                ended = daemon::ended(&mut self.daemon) => break Some(ended),
                input = screen.input() => match input {
                    Input::Key(Key::Quit) | Input::Ended if self.daemon.is_none() => break None,
                    // The second time: the daemon goes on stopping by itself.
                    Input::Key(Key::Quit) | Input::Ended if stopping => break None,
                    Input::Key(Key::Quit) | Input::Ended => {
                        stopping = true;
                        below = Some("stopping".to_owned());
                        self.stop().await;
                    }
                    Input::Key(key) => view.press(key),
                    Input::Resized => {}
                },
                _ = every.tick() => match self.client.status(&[]).await {
                    Ok(fresh) => {
                        below = stopping.then(|| waiting_for(&fresh));
                        status = fresh;
                    }
                    Err(Failure::Told { message, .. }) if !stopping => below = Some(message),
                    Err(_) => {}
                },
            }
        };
        drop(screen);
        self.farewell(ended, stopping)
    }

    /// One line an event, until a signal; then until our daemon has ended. For people, its log tells that already.
    async fn tell(&mut self) -> Result<Exit, Failure> {
        let mut signals = Signals::new()?;
        let page: Events = self.client.get("/v1/events?limit=1").await?;
        let last = page.events.last().map(|event| event.id.clone());
        let last = last.unwrap_or_else(|| "0".to_owned());
        let mut stream = Some(EventStream::open(&self.client, &[], Some(&last)).await?);
        let mut every = tokio::time::interval(EVERY);
        let mut stopping = false;
        let mut said = String::new();
        let logged = self.daemon.is_some() && !self.context.json;
        loop {
            tokio::select! {
                ended = daemon::ended(&mut self.daemon) => return self.farewell(Some(ended), stopping),
                event = next(&mut stream) => match event {
                    Some(_) if logged => {}
                    Some(event) => self.print(&event)?,
                    None if self.daemon.is_none() => {
                        self.context.say("the daemon went away");
                        return Ok(Exit::Unreachable);
                    }
                    None => stream = None,
                },
                _ = every.tick(), if stopping => {
                    if let Ok(status) = self.client.status(&[]).await {
                        let text = waiting_for(&status);
                        if text != said {
                            self.context.say(&text);
                            said = text;
                        }
                    }
                },
                () = signals.any() => {
                    if stopping || self.daemon.is_none() {
                        return self.farewell(None, stopping);
                    }
                    stopping = true;
                    self.stop().await;
                },
            }
        }
    }

    fn print(&self, event: &Event) -> Result<(), Failure> {
        if self.context.json {
            return print_json(event);
        }
        let mut out = out();
        writeln!(out, "{}", events::line(event, self.context.style()))?;
        Ok(out.flush()?)
    }

    /// Asks our daemon to end; by a signal if it does not answer.
    async fn stop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.stop(&self.client, self.leave_running).await;
        }
    }

    /// The last word: how our daemon ended, or that it goes on.
    fn farewell(
        &mut self,
        ended: Option<io::Result<std::process::ExitStatus>>,
        stopping: bool,
    ) -> Result<Exit, Failure> {
        let Some(ended) = ended else {
            if stopping {
                self.context.say("the daemon goes on stopping by itself: kissops status");
            }
            return Ok(Exit::Ok);
        };
        let status = ended.map_err(kissops_core::Error::io("wait for kissopsd"))?;
        if stopping && status.success() {
            self.context.say(if self.leave_running {
                "the daemon has ended; the instances go on, and kissops up takes them over"
            } else {
                "the daemon has ended, and all instances with it"
            });
            return Ok(Exit::Ok);
        }
        if status.success() {
            self.context.say(
                "the daemon was asked to end by somebody else, and did; kissops up starts it again",
            );
            return Ok(Exit::Ok);
        }
        Err(match self.daemon.take() {
            Some(daemon) => daemon.failure(status),
            None => Failure::new("daemon_ended", format!("kissopsd ended: {status}"), ""),
        })
    }
}

/// The signals that ask us to end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn next(stream: &mut Option<EventStream>) -> Option<Event> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// What a stop waits for: the instances that still have a process.
fn waiting_for(status: &Status) -> String {
    const NAMED: usize = 5;
    let alive: Vec<&str> = status
        .instances
        .iter()
        .filter(|instance| instance.pid.is_some())
        .map(|instance| instance.name.as_str())
        .collect();
    let named = alive.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match alive.len() {
        0 => "stopping: every instance is down".to_owned(),
        count if count <= NAMED => format!("stopping: waits for {named}"),
        count => format!("stopping: waits for {named} and {} more", count - NAMED),
    }
}
