use super::*;
use crate::config::units::Timespan;
use crate::links::{LinkKey, Outcome};
use flate2::read::MultiGzDecoder;
use std::io::Read;

fn parts(links: &Arc<Links>) -> Parts {
    let of = |service: &str| Described { service: service.into(), zone: "z".into() };
    let known = BTreeMap::from([(NodeKey::new("b"), of("cart"))]);
    Parts { links: links.clone(), clock: Box::new(|| Time(0)), whereabouts: Box::new(move || known.clone()) }
}

fn config(to: &Path) -> config::Record {
    config::Record {
        to: to.to_str().unwrap().into(),
        window: Timespan(Duration::from_millis(50)),
        ..config::Record::default()
    }
}

fn text(path: PathBuf) -> String {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(path) {
        // The window under way may be half there.
        let _ = MultiGzDecoder::new(file).read_to_string(&mut text);
    }
    text
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn what_the_links_saw_is_in_the_files_once() {
    let folder = tempfile::tempdir().unwrap();
    let links = Arc::new(Links::new(1));
    let recorder = Recorder::start(&config(folder.path()), "here", parts(&links)).unwrap();
    let cell = links.link(&LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b")), Time(0));
    let _ = links.node(&NodeKey::new("b"), Time(0));
    // The first whole window is the second that ends.
    until("a window", || recorder.written() > 0);
    for _ in 0..30 {
        cell.begin(0, Time(0));
        cell.record(0, Time(0), 0.020, Outcome::Success, 0.0, 3.0);
        cell.end(0, Time(0));
    }
    let calls = || -> u64 {
        let text = text(folder.path().join("links-0001.csv.gz"));
        text.lines().skip(1).filter_map(|l| l.split(',').nth(3)?.parse::<u64>().ok()).sum()
    };
    until("all calls", || calls() == 30);
    let before = recorder.written();
    until("another window", || recorder.written() > before);
    assert_eq!(calls(), 30, "none is counted twice");
    assert!(recorder.close(Duration::from_secs(10)));
    let nodes = text(folder.path().join("nodes-0001.csv.gz"));
    assert!(nodes.contains(",a,,,,,,\n") && nodes.contains(",b,cart,z,,,,0\n"), "{nodes}");
    let meta = std::fs::read_to_string(folder.path().join("meta.json")).unwrap();
    assert!(meta.contains("\"here\"") && meta.contains("0.05"), "{meta}");
}

#[test]
fn a_disk_that_takes_nothing_costs_windows_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("recording");
    let links = Arc::new(Links::new(1));
    let recorder = Recorder::start(&config(&to), "here", parts(&links)).unwrap();
    let _ = links.link(&LinkKey::new(&NodeKey::new("a"), &NodeKey::new("b")), Time(0));
    until("a window", || recorder.written() > 0);
    std::fs::rename(&to, folder.path().join("gone")).unwrap();
    // The open part moved along; the next one has no folder to be made in.
    std::fs::write(&to, "").unwrap();
    until("a lost window", || recorder.lost() > 0);
    assert!(recorder.close(Duration::from_secs(10)));
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_its_key() {
    let links = Arc::new(Links::new(1));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Recorder::start(&config(&file.join("x")), "here", parts(&links)).unwrap_err().to_string();
    assert!(error.contains("`telemetry.record.to`") && error.contains("file/x"), "{error}");
    let off = config::Record::default();
    assert!(Recorder::start(&off, "here", parts(&links)).unwrap().close(Duration::ZERO));
}
