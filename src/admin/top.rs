//! `pathloom top`: what a running proxy sees and does, in a terminal: where requests go and why, the links of its mesh, and
//! what fails for which reason; what each generation changed, both arms of a trial, the ladder and the model.
//!
//! A thread asks the admin port (`/routing`, `/graph`, `/metrics`) every `--every`; the thread with the terminal draws what
//! came last and waits for keys, so that a slow answer holds up no key. A proxy that cannot be reached when the command
//! begins is an error; one that goes away later is said so above its last answer, and asked again. Where there is no
//! terminal (a pipe, a script), or with `--once`, one frame is printed as text, as wide as the terminal or 120 characters.
//!
//! `sheet` and `state` make rows of answers, `kinds` says which sheets there are, `view` draws them; none knows a terminal, so
//! tests draw without one.

mod kinds;
mod sheet;
mod state;
mod view;

use super::client::{self, AskError};
use super::columns;
use http::StatusCode;
use kinds::Sheet;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;
use sheet::Snapshot;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use view::Screen;

/// How many links are asked for, those with the most calls.
const LINKS: usize = 500;
/// How many generations are asked for, the last ones.
const GENERATIONS: usize = 100;
/// How long to wait for a key before what came is drawn.
const KEYS_EVERY: Duration = Duration::from_millis(100);
/// Between the two looks of one printed frame: failures a second are a difference.
const ONCE_WAITS: Duration = Duration::from_secs(1);

/// What to show, and of whom.
#[derive(Debug, Clone, clap::Args)]
pub struct TopArgs {
    /// The running proxy's admin address (`admin.listen`), or its Unix socket (`unix:/path`).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900", env = "PATHLOOM_ADMIN")]
    pub admin: String,
    /// Print one frame as text, and leave: for scripts, and where there is no terminal.
    #[arg(long)]
    pub once: bool,
    /// How often to ask the proxy, from 100ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = pause)]
    pub every: Duration,
    /// Only rows that hold all of these words, in whatever column.
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub filter: String,
    /// What to begin with.
    #[arg(long, value_enum, default_value_t = Sheet::Endpoints)]
    pub show: Sheet,
}

fn pause(text: &str) -> Result<Duration, String> {
    let span = text.parse::<crate::config::Timespan>().map_err(|error| error.to_string())?;
    if span.0 < KEYS_EVERY { Err("no less than 100ms".to_owned()) } else { Ok(span.0) }
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// Nobody answers, or not as a pathloom does.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The terminal cannot be drawn on.
    #[error("the terminal cannot be used ({0}); `--once` needs none")]
    Terminal(#[from] io::Error),
}

/// Shows it; the text to print where no terminal is wanted or had.
///
/// # Errors
/// When nobody answers at first, or the terminal cannot be used.
pub fn top(args: &TopArgs) -> Result<String, TopError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = client::address(&args.admin);
    let first = runtime.block_on(look(&address))?;
    let mut screen = Screen::new(args.show, args.filter.clone(), address.clone());
    screen.take(Ok(first));
    if args.once || !io::stdout().is_terminal() {
        runtime.block_on(async { tokio::time::sleep(ONCE_WAITS).await });
        screen.take(Ok(runtime.block_on(look(&address))?));
        return Ok(screen.printed(columns::width()));
    }
    let (tell, told) = channel();
    let (stop, stopped) = channel();
    let every = args.every;
    let asking = std::thread::Builder::new()
        .name("asking".into())
        .spawn(move || ask_again(&runtime, &address, every, &tell, &stopped))?;
    let shown = show(&mut screen, &told);
    drop(stop);
    // It may be in the middle of a question, which ends by itself.
    drop(asking);
    shown?;
    Ok(String::new())
}

/// Asks again and again, until nobody wants to hear it.
fn ask_again(
    runtime: &tokio::runtime::Runtime,
    address: &str,
    every: Duration,
    tell: &Sender<Result<Snapshot, String>>,
    stopped: &Receiver<()>,
) {
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let seen = runtime.block_on(look(address)).map_err(|error| error.to_string());
        if tell.send(seen).is_err() {
            return;
        }
    }
}

/// Draws until somebody leaves. The terminal is put back however this ends; ratatui does so when it panics.
fn show(screen: &mut Screen, told: &Receiver<Result<Snapshot, String>>) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut drawing = || -> io::Result<()> {
        loop {
            while let Ok(seen) = told.try_recv() {
                screen.take(seen);
            }
            terminal.draw(|frame| screen.draw(frame))?;
            if event::poll(KEYS_EVERY)?
                && let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && !pressed(screen, key)
            {
                return Ok(());
            }
        }
    };
    let drawn = drawing();
    ratatui::restore();
    drawn
}

/// Does what a key asks for; false where it asks to leave.
fn pressed(screen: &mut Screen, key: KeyEvent) -> bool {
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        return false;
    }
    if let Some(text) = &mut screen.typing {
        match key.code {
            KeyCode::Enter => screen.typing = None,
            KeyCode::Esc => {
                screen.typing = None;
                screen.filter.clear();
            }
            KeyCode::Backspace => {
                text.pop();
                screen.filter.clone_from(text);
            }
            KeyCode::Char(c) => {
                text.push(c);
                screen.filter.clone_from(text);
            }
            _ => {}
        }
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('/') => screen.typing = Some(screen.filter.clone()),
        KeyCode::Tab => screen.turn_to(screen.sheet.next()),
        KeyCode::Char(digit @ '1'..='6') => {
            let place = digit.to_digit(10).unwrap_or(1) as usize - 1;
            screen.turn_to(Sheet::ALL.get(place).copied().unwrap_or(Sheet::Endpoints));
        }
        KeyCode::Right | KeyCode::Char('s') => screen.sort_by_next(1),
        KeyCode::Left => screen.sort_by_next(-1),
        KeyCode::Char('r') => screen.reverse(),
        KeyCode::Char('?') => screen.explains = !screen.explains,
        KeyCode::Down => screen.move_by(1),
        KeyCode::Up => screen.move_by(-1),
        KeyCode::PageDown => screen.move_by(10),
        KeyCode::PageUp => screen.move_by(-10),
        KeyCode::Home => screen.move_by(isize::MIN / 2),
        KeyCode::End => screen.move_by(isize::MAX / 2),
        _ => {}
    }
    true
}

/// One look at everything.
async fn look(address: &str) -> Result<Snapshot, AskError> {
    let json = async |target: &str, holds: &str| {
        let (status, body) = client::ask(address, target).await?;
        let value: Option<Value> = serde_json::from_slice(&body).ok().filter(|_| status == StatusCode::OK);
        let value = value.filter(|v| v.get(holds).is_some());
        value.ok_or_else(|| client::wrong(address, format!("{target}: {status}: {}", client::beginning(&body))))
    };
    let routing = json(&format!("/routing?history={GENERATIONS}"), "tables").await?;
    let graph = json(&format!("/graph?busiest={LINKS}"), "links").await?;
    let (status, metrics) = client::ask(address, "/metrics").await?;
    if status != StatusCode::OK {
        return Err(client::wrong(address, format!("/metrics: {status}")));
    }
    Ok(Snapshot::new(routing, &graph, &String::from_utf8_lossy(&metrics), Instant::now()))
}

#[cfg(test)]
#[path = "top_tests.rs"]
mod tests;
