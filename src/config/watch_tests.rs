//! On a real file system, with the replacements that editors and Kubernetes make.

use super::*;
use crate::config::load::load_file;
use crate::config::touch::{POLL, SETTLE};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tokio::sync::mpsc::Receiver as Events;
use tokio::time::timeout;

const ONE: &str = "model: { tick: 1s }\n";
const TWO: &str = "model: { tick: 2s }\n";
const BAD: &str = "model: { tick: 2 }\n";

/// A machine under load may be slow; a lost event is lost for ever.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than an event takes, shorter than a poll.
const SILENCE: Duration = Duration::from_millis(800);

struct Fixture {
    directory: tempfile::TempDir,
    watcher: Watcher,
    events: Events<Reload>,
}

impl Fixture {
    /// Watches `name` in a directory that `prepare` filled.
    async fn new(name: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let path = directory.path().join(name);
        let known = load_file(&path).unwrap().text_digest;
        let (watcher, events) = Watcher::start(path, &known).unwrap();
        let mut fixture = Self { directory, watcher, events };
        // A round trip, after which the directories are watched.
        fixture.watcher.trigger();
        fixture.tick(1).await;
        tokio::time::sleep(2 * SETTLE).await;
        fixture
    }

    async fn plain() -> Self {
        Self::new("proxy.yaml", |directory| fs::write(directory.join("proxy.yaml"), ONE).unwrap()).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn next(&mut self) -> Reload {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("a watcher")
    }

    /// The next event is a configuration with this tick.
    async fn tick(&mut self, seconds: u64) {
        let config = self.next().await.unwrap_or_else(|e| panic!("{e}")).config;
        assert_eq!(config.model.tick.0, Duration::from_secs(seconds));
    }

    async fn silence(&mut self) {
        assert!(timeout(SILENCE, self.events.recv()).await.is_err(), "an event without a reason");
    }
}

#[tokio::test]
async fn a_file_written_in_place_is_an_event_and_the_same_bytes_are_none() {
    let mut watch = Fixture::plain().await;
    fs::write(watch.path("proxy.yaml"), TWO).unwrap();
    watch.tick(2).await;
    fs::write(watch.path("proxy.yaml"), TWO).unwrap();
    watch.silence().await;
}

#[tokio::test]
async fn a_file_renamed_over_is_an_event() {
    let mut watch = Fixture::plain().await;
    for (text, tick) in [(TWO, 2), (ONE, 1)] {
        fs::write(watch.path(".proxy.yaml.swp"), text).unwrap();
        fs::rename(watch.path(".proxy.yaml.swp"), watch.path("proxy.yaml")).unwrap();
        watch.tick(tick).await;
    }
    watch.silence().await;
}

#[tokio::test]
async fn a_file_that_is_gone_for_a_moment_is_no_error() {
    let mut watch = Fixture::plain().await;
    fs::remove_file(watch.path("proxy.yaml")).unwrap();
    tokio::time::sleep(3 * SETTLE).await;
    fs::write(watch.path("proxy.yaml"), TWO).unwrap();
    watch.tick(2).await;
    watch.silence().await;
}

#[tokio::test]
async fn a_file_that_stays_away_is_one_error_and_its_return_an_event() {
    let mut watch = Fixture::plain().await;
    fs::remove_file(watch.path("proxy.yaml")).unwrap();
    let errors = watch.next().await.unwrap_err();
    assert!(errors.to_string().contains("cannot be read"), "{errors}");
    watch.silence().await;
    fs::write(watch.path("proxy.yaml"), ONE).unwrap();
    watch.tick(1).await;
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_followed() {
    let mut watch = Fixture::new("conf/proxy.yaml", |directory| {
        fs::create_dir(directory.join("conf")).unwrap();
        fs::write(directory.join("conf/proxy.yaml"), ONE).unwrap();
    })
    .await;
    fs::create_dir(watch.path("next")).unwrap();
    fs::write(watch.path("next/proxy.yaml"), TWO).unwrap();
    fs::rename(watch.path("conf"), watch.path("old")).unwrap();
    fs::rename(watch.path("next"), watch.path("conf")).unwrap();
    watch.tick(2).await;
    tokio::time::sleep(2 * SETTLE).await;
    fs::write(watch.path("conf/proxy.yaml"), ONE).unwrap();
    let since = Instant::now();
    watch.tick(1).await;
    assert!(since.elapsed() < POLL / 2, "the new directory is not watched");
}

#[tokio::test]
async fn a_config_map_update_is_one_event() {
    let mut watch = Fixture::new("proxy.yaml", |directory| {
        fs::create_dir(directory.join("..2026_01")).unwrap();
        fs::write(directory.join("..2026_01/proxy.yaml"), ONE).unwrap();
        symlink("..2026_01", directory.join("..data")).unwrap();
        symlink("..data/proxy.yaml", directory.join("proxy.yaml")).unwrap();
    })
    .await;
    for (next, last, text, tick) in [("..2026_02", "..2026_01", TWO, 2), ("..2026_03", "..2026_02", ONE, 1)] {
        fs::create_dir(watch.path(next)).unwrap();
        fs::write(watch.path(next).join("proxy.yaml"), text).unwrap();
        symlink(next, watch.path("..data_tmp")).unwrap();
        fs::rename(watch.path("..data_tmp"), watch.path("..data")).unwrap();
        fs::remove_dir_all(watch.path(last)).unwrap();
        watch.tick(tick).await;
        watch.silence().await;
    }
}

#[tokio::test]
async fn a_linked_file_in_another_directory_is_watched() {
    let mut watch = Fixture::new("proxy.yaml", |directory| {
        fs::create_dir(directory.join("elsewhere")).unwrap();
        fs::write(directory.join("elsewhere/real.yaml"), ONE).unwrap();
        symlink("elsewhere/real.yaml", directory.join("proxy.yaml")).unwrap();
    })
    .await;
    fs::write(watch.path("elsewhere/real.yaml"), TWO).unwrap();
    watch.tick(2).await;
}

#[tokio::test]
async fn a_refused_file_is_an_event_with_its_errors() {
    let mut watch = Fixture::plain().await;
    fs::write(watch.path("proxy.yaml"), BAD).unwrap();
    let errors = watch.next().await.unwrap_err();
    assert!(errors.to_string().contains("write `2s`"), "{errors}");
    fs::write(watch.path("proxy.yaml"), TWO).unwrap();
    watch.tick(2).await;
}

#[tokio::test]
async fn a_trigger_always_gives_an_event() {
    let mut watch = Fixture::plain().await;
    for _ in 0..3 {
        watch.watcher.trigger();
        watch.tick(1).await;
    }
    watch.silence().await;
}

#[tokio::test]
async fn many_writes_settle_into_the_last() {
    let mut watch = Fixture::plain().await;
    for _ in 0..20 {
        fs::write(watch.path("proxy.yaml"), "model: {").unwrap();
        fs::write(watch.path("proxy.yaml"), TWO).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    watch.tick(2).await;
    watch.silence().await;
}

#[tokio::test]
async fn others_files_in_the_directory_are_no_event() {
    let mut watch = Fixture::plain().await;
    for i in 0..20 {
        fs::write(watch.path(&format!("other{i}")), TWO).unwrap();
    }
    watch.silence().await;
}

#[tokio::test]
async fn a_change_before_the_watch_began_is_an_event() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.yaml");
    fs::write(&path, TWO).unwrap();
    let (_watcher, mut events) = Watcher::start(&path, &digest(ONE.as_bytes())).unwrap();
    let loaded = timeout(PATIENCE, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(loaded.config.model.tick.0, Duration::from_secs(2));
}

#[tokio::test]
async fn the_watch_ends_with_its_watcher() {
    let Fixture { directory: _directory, watcher, mut events } = Fixture::plain().await;
    drop(watcher);
    assert!(timeout(PATIENCE, events.recv()).await.unwrap().is_none());
}
