//! The whole terminal, taken for a while and given back whatever happens.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crossterm::{
    QueueableCommand as _, cursor, event,
    terminal::{self, Clear, ClearType},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::exit::Failure;

/// The terminal in raw mode on its second screen. Dropping it gives the terminal back; so does a panic.
pub(crate) struct Screen {
    input: mpsc::Receiver<Input>,
    ends: [Signal; 3],
    reader: Option<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
}

/// How soon the reader of keys notices that it shall end.
const BEAT: Duration = Duration::from_millis(200);

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// `q`, Escape or Ctrl-C.
    Quit,
}

/// What happened at the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Key(Key),
    Resized,
    /// A signal asks us to end.
    Ended,
}

impl Screen {
    pub(crate) fn open() -> Result<Self, Failure> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            let help = "without a terminal use kissops status, or kissops events -f";
            return Err(Failure::usage("this needs a terminal", help));
        }
        give_back_on_panic();
        let ends = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::interrupt())?,
        ];
        terminal::enable_raw_mode()?;
        let closing = Arc::new(AtomicBool::new(false));
        let (keys, input) = mpsc::channel(16);
        let seen = Arc::clone(&closing);
        // From here on the terminal is given back by `drop`, also where a step below fails.
        let mut screen = Self { input, ends, reader: None, closing };
        let reader = thread::Builder::new().name("keys".to_owned());
        screen.reader = Some(reader.spawn(move || read(&keys, &seen))?);
        let mut out = io::stdout();
        out.queue(terminal::EnterAlternateScreen)?
            .queue(terminal::DisableLineWrap)?
            .queue(cursor::Hide)?
            .flush()?;
        Ok(screen)
    }

    /// Columns and lines.
    #[expect(clippy::unused_self, reason = "a screen's size is asked of a screen")]
    pub(crate) fn size(&self) -> (usize, usize) {
        let (columns, lines) = terminal::size().unwrap_or((80, 24));
        (usize::from(columns.max(20)), usize::from(lines.max(5)))
    }

    /// Shows `lines` from the top; none may be wider than the screen.
    #[expect(clippy::unused_self, reason = "drawing takes an open screen")]
    pub(crate) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let mut out = io::BufWriter::with_capacity(32 << 10, io::stdout().lock());
        // Overwriting instead of clearing: no flicker.
        for (row, line) in lines.iter().enumerate() {
            let row = u16::try_from(row).unwrap_or(u16::MAX);
            out.queue(cursor::MoveTo(0, row))?;
            out.write_all(line.as_bytes())?;
            out.queue(Clear(ClearType::UntilNewLine))?;
        }
        out.flush()
    }

    /// Waits for the next key, a new size, or the end.
    ///
    /// # Cancel safety
    /// Nothing is lost: what is not asked for stays where it is.
    pub(crate) async fn input(&mut self) -> Input {
        let [terminate, hangup, interrupt] = &mut self.ends;
        tokio::select! {
            input = self.input.recv() => input.unwrap_or(Input::Ended),
            _ = terminate.recv() => Input::Ended,
            _ = hangup.recv() => Input::Ended,
            _ = interrupt.recv() => Input::Ended,
        }
    }
}

/// Reads keys until the screen closes; a thread, because the terminal library's read blocks.
fn read(keys: &mpsc::Sender<Input>, closing: &AtomicBool) {
    while !closing.load(Ordering::Relaxed) {
        let input = match event::poll(BEAT) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(err) => Err(err),
        };
        let input = match input {
            Ok(event::Event::Key(key)) => meaning(key).map(Input::Key),
            Ok(event::Event::Resize(..)) => Some(Input::Resized),
            Ok(_) => None,
            Err(_) => Some(Input::Ended),
        };
        let Some(input) = input else { continue };
        if keys.blocking_send(input).is_err() || input == Input::Ended {
            return;
        }
    }
}

fn meaning(key: event::KeyEvent) -> Option<Key> {
    use event::{KeyCode, KeyModifiers};
    if key.kind == event::KeyEventKind::Release {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('k') | KeyCode::Up => Key::Up,
        KeyCode::Char('j') | KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown | KeyCode::Char(' ') => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Char(c) => Key::Char(c),
        _ => return None,
    })
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // A reader that waits for room in the channel has to see that nobody will make any.
        self.input.close();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        give_back();
    }
}

/// Best effort: there is nobody to tell.
fn give_back() {
    let mut out = io::stdout();
    let _ = out
        .queue(cursor::Show)
        .and_then(|out| out.queue(terminal::EnableLineWrap))
        .and_then(|out| out.queue(terminal::LeaveAlternateScreen));
    let _ = out.flush();
    let _ = terminal::disable_raw_mode();
}

fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
    });
}
