//! Tests of the access log's thread.

use super::super::access_line::tests::record;
use super::*;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

const SOON: Duration = Duration::from_secs(5);

fn to(path: &Path, format: LogFormat) -> config::AccessLog {
    config::AccessLog { format, to: path.to_str().unwrap().into() }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}

/// An output whose each write waits for a word, and fails where the word is `false`.
struct Gate(Receiver<bool>);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.recv() {
            Ok(true) => Ok(bytes.len()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gated(cores: usize) -> (AccessLog, Sender<bool>) {
    let (open, gate) = channel();
    (AccessLog::start(Output::Stream(Box::new(Gate(gate))), LogFormat::Json, cores).unwrap(), open)
}

#[test]
fn every_line_of_every_core_is_written_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = AccessLog::open(&to(&path, LogFormat::Json), 4).unwrap();
    std::thread::scope(|scope| {
        for core in 0..4 {
            let log = &log;
            scope.spawn(move || {
                (1..=5_000).for_each(|line| {
                    log.log(core, &record());
                    // At a pace that the writer can follow, on a busy machine too.
                    if line % 50 == 0 {
                        assert!(log.flush(SOON));
                    }
                })
            });
        }
    });
    assert!(log.flush(SOON));
    assert_eq!((log.written() + log.dropped(), log.dropped()), (20_000, 0));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 20_000);
    let recent = String::from_utf8(log.recent()).unwrap();
    assert!(!recent.is_empty() && text.ends_with(&recent));
    assert!(
        text.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok_and(|v| v["host"] == "catalog.shop"))
    );
}

#[test]
fn a_stuck_output_holds_nobody_up_and_what_is_dropped_is_counted() {
    let (log, open) = gated(1);
    let begun = Instant::now();
    for _ in 0..10_000 {
        log.log(0, &record());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(log.dropped() > 1_000 && log.written() == 0, "{} {}", log.dropped(), log.written());
    assert!(!log.flush(Duration::from_millis(20)));
    (0..10).for_each(|_| open.send(true).unwrap());
    assert!(log.flush(SOON));
    assert_eq!(log.written() + log.dropped(), 10_000);
    drop(open);
}

#[test]
fn an_output_that_fails_loses_its_lines_and_is_tried_again() {
    let (log, open) = gated(1);
    log.log(0, &record());
    open.send(false).unwrap();
    assert!(log.flush(SOON));
    assert_eq!((log.written(), log.dropped()), (0, 1));
    log.log(0, &record());
    open.send(true).unwrap();
    assert!(log.flush(SOON));
    assert_eq!((log.written(), log.dropped()), (1, 1));
}

#[test]
fn a_rotated_file_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let log = AccessLog::open(&to(&path, LogFormat::Text), 1).unwrap();
    log.log(0, &record());
    assert!(log.flush(SOON));
    std::fs::rename(&path, &old).unwrap();
    log.log(0, &record());
    assert!(log.flush(SOON));
    assert_eq!(lines(&old), 2);
    log.reopen();
    log.log(0, &record());
    assert!(log.flush(SOON));
    assert_eq!((lines(&old), lines(&path)), (2, 1));
}

#[test]
fn the_last_lines_are_written_when_it_closes_and_later_ones_are_counted_as_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = AccessLog::open(&to(&path, LogFormat::Json), 2).unwrap();
    log.log(0, &record());
    log.log(1, &record());
    assert!(log.close(SOON));
    assert_eq!(lines(&path), 2);
    log.log(0, &record());
    assert_eq!((log.written(), log.dropped()), (2, 1));
    assert!(log.flush(SOON) && log.close(SOON));
}

#[test]
fn off_has_no_thread_and_takes_nothing() {
    let log = AccessLog::open(&config::AccessLog { to: "off".into(), ..config::AccessLog::default() }, 2).unwrap();
    assert!(!log.enabled());
    log.log(0, &record());
    assert!(log.flush(Duration::ZERO) && log.close(Duration::ZERO));
    assert_eq!((log.written(), log.dropped()), (0, 0));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error =
        AccessLog::open(&config::AccessLog { to: "/nowhere/access.log".into(), ..config::AccessLog::default() }, 1);
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot write the access log to /nowhere/access.log (`telemetry.access_log.to`): "),
        "{error}"
    );
}
