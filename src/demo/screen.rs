//! The terminal screen: the graph's weights and latencies as they move, and the three policies' p99 side by side.
//!
//! It runs on a thread of its own, since drawing and waiting for keys would hold up the load. It reads the stage five times a second
//! and writes nothing. The terminal is put back when the screen is closed, dropped, or the process panics
//! (ratatui's panic hook); Ctrl-C arrives here as a key, SIGTERM closes the screen like any other end.

use super::stage::Stage;
use super::view::draw;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// How often the screen is drawn, unless a key comes before.
const EVERY: Duration = Duration::from_millis(200);

/// A screen that is being drawn.
#[derive(Debug)]
pub struct Screen {
    closing: Arc<AtomicBool>,
    left: watch::Receiver<bool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn open(stage: Arc<Stage>) -> io::Result<Self> {
        let mut terminal = ratatui::try_init()?;
        let closing = Arc::new(AtomicBool::new(false));
        let (leave, left) = watch::channel(false);
        let seen = closing.clone();
        let thread = std::thread::Builder::new().name("screen".into()).spawn(move || {
            let mut shown = || -> io::Result<()> {
                while !seen.load(Relaxed) {
                    terminal.draw(|frame| draw(frame, &stage, stage.now_s()))?;
                    if event::poll(EVERY)? && wants_to_leave(&event::read()?) {
                        break;
                    }
                }
                Ok(())
            };
            let result = shown();
            ratatui::restore();
            leave.send_replace(true);
            result
        });
        if thread.is_err() {
            ratatui::restore();
        }
        Ok(Self { closing, left, thread: Some(thread?) })
    }

    /// Waits until somebody leaves by a key, or the screen has failed.
    pub async fn left(&mut self) {
        // A closed channel is a screen that ended.
        super::service::told(&mut self.left).await;
    }

    /// Puts the terminal back.
    ///
    /// # Errors
    /// When drawing had failed.
    pub fn close(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.closing.store(true, Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the screen's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(self.end());
    }
}

fn wants_to_leave(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn q_escape_and_control_c_leave_and_nothing_else_does() {
        let key = |code, modifiers| wants_to_leave(&Event::Key(KeyEvent::new(code, modifiers)));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL) && !key(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!wants_to_leave(&Event::FocusLost));
    }
}
