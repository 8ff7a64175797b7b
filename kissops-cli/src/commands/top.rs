//! `kissops top`.

use std::{io, time::Duration};

use kissops_core::{control::Status, supervisor::InstanceStatus};

use crate::{
    args::Targets,
    client::Client,
    context::Context,
    exit::{Exit, Failure},
    render::{
        instances,
        screen::{Input, Key, Screen},
    },
};

/// How often the fleet is asked.
const EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: &Context, args: &Targets) -> Result<Exit, Failure> {
    let client = Client::new(context)?;
    // Before the screen is taken: an error belongs on an ordinary one.
    let mut status = client.status(&args.targets).await?;
    if context.json {
        return Err(Failure::usage("top has no JSON", "use kissops status --json"));
    }
    let mut screen = Screen::open()?;
    let mut view = View::default();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        draw(&mut screen, &mut view, &status, trouble.as_deref(), context)?;
        tokio::select! {
            input = screen.input() => match input {
                Input::Key(Key::Quit) | Input::Ended => return Ok(Exit::Ok),
                Input::Key(key) => view.press(key),
                Input::Resized => {}
            },
            _ = every.tick() => match client.status(&args.targets).await {
                Ok(fresh) => {
                    status = fresh;
                    trouble = None;
                }
                Err(Failure::Told { message, .. }) => trouble = Some(message),
                Err(failure) => return Err(failure),
            },
        }
    }
}

/// What the rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Name,
    Cpu,
    Memory,
    Restarts,
}

/// Where the eye is.
#[derive(Debug, Default)]
pub(crate) struct View {
    order: Order,
    first: usize,
    /// Rows that fit, as of the last drawing.
    page: usize,
}

impl View {
    pub(crate) fn press(&mut self, key: Key) {
        match key {
            Key::Char('c') => self.order = Order::Cpu,
            Key::Char('m') => self.order = Order::Memory,
            Key::Char('n') => self.order = Order::Name,
            Key::Char('r') => self.order = Order::Restarts,
            Key::Up => self.first = self.first.saturating_sub(1),
            Key::Down => self.first += 1,
            Key::PageUp => self.first = self.first.saturating_sub(self.page.max(1)),
            Key::PageDown => self.first += self.page.max(1),
            Key::Home => self.first = 0,
            Key::End => self.first = usize::MAX,
            Key::Char(_) | Key::Quit => {}
        }
    }

    /// The rows to be shown of `rows` in order, given room for `page` of them.
    fn visible<'a>(
        &mut self,
        instances: &'a [InstanceStatus],
        page: usize,
    ) -> Vec<&'a InstanceStatus> {
        let mut rows: Vec<&InstanceStatus> = instances.iter().collect();
        match self.order {
            Order::Name => {}
            Order::Cpu => rows.sort_by(|a, b| {
                let cpu = |i: &InstanceStatus| i.cpu_percent.unwrap_or(-1.0);
                cpu(b).total_cmp(&cpu(a))
            }),
            Order::Memory => rows.sort_by_key(|i| std::cmp::Reverse(i.rss_bytes)),
            Order::Restarts => rows.sort_by_key(|i| std::cmp::Reverse(i.restarts)),
        }
        self.page = page;
        self.first = self.first.min(rows.len().saturating_sub(page));
        rows.into_iter().skip(self.first).take(page).collect()
    }
}

/// Draws the fleet and one line below it.
pub(crate) fn draw(
    screen: &mut Screen,
    view: &mut View,
    status: &Status,
    trouble: Option<&str>,
    context: &Context,
) -> io::Result<()> {
    let (columns, lines) = screen.size();
    let style = context.style();
    // The headline, the titles and the last line take three.
    let page = lines.saturating_sub(3);
    let rows = view.visible(&status.instances, page);
    let shown = rows.len();
    let mut text = vec![instances::headline(status, style)];
    text.extend(instances::lines(rows, status.fleet.now, columns, style));
    text.resize(lines.saturating_sub(1), String::new());
    text.push(match trouble {
        Some(trouble) => style.red(trouble),
        None => style.dim(&format!(
            "{}-{} of {}   sort: (c)pu (m)emory (n)ame (r)estarts   (q)uit",
            view.first + usize::from(shown > 0),
            view.first + shown,
            status.instances.len()
        )),
    });
    screen.draw(&text)
}
