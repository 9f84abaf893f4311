use super::*;
use flate2::read::MultiGzDecoder;
use std::io::Read;

fn meta() -> Meta {
    Meta { name: "test".into(), window_seconds: 10.0 }
}

fn node(name: &str) -> NodeRow<'_> {
    NodeRow { node: name, service: "cart", cpu_utilization: Some(0.25), ..NodeRow::default() }
}

fn link<'a>(source: &'a str, destination: &'a str) -> LinkRow<'a> {
    LinkRow { source, destination, calls: 9, errors: 1, latency_mean_ms: Some(1.0 / 3.0), ..LinkRow::default() }
}

fn text(path: PathBuf) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_recording_is_three_files_and_unknown_fields_are_empty() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(folder.path(), &meta()).unwrap();
    for window in 0..2 {
        let unknown = LinkRow { latency_p99_ms: Some(f64::NAN), ..link("a", "b, the \"second\"") };
        writer.window(f64::from(window) * 10.0, &[node("a"), node("b")], &[unknown]).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(names(folder.path()), ["links.csv.gz", "meta.json", "nodes.csv.gz"]);
    let links = text(folder.path().join("links.csv.gz"));
    let lines: Vec<_> = links.lines().collect();
    assert_eq!(lines[0], LINK_COLUMNS.join(","));
    assert_eq!(
        lines[1..],
        ["0,a,\"b, the \"\"second\"\"\",9,1,0.3333,,,,", "10,a,\"b, the \"\"second\"\"\",9,1,0.3333,,,,"]
    );
    let nodes = text(folder.path().join("nodes.csv.gz"));
    assert_eq!(nodes.lines().nth(1), Some("0,a,cart,,0.25,,,"));
    assert_eq!(nodes.lines().count(), 5, "one header");
}

#[test]
fn a_recording_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    Writer::create(folder.path(), &meta()).unwrap();
    let error = Writer::create(folder.path(), &meta()).unwrap_err().to_string();
    assert!(error.contains("a recording is there already; give another folder"), "{error}");
}

#[test]
fn a_recording_goes_on_in_new_parts_and_stays_within_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { rotate: 300, keep: 1_500 };
    let mut starts = 0.0;
    for _run in 0..3 {
        let mut writer = Writer::append(folder.path(), &meta(), bounds).unwrap();
        for _window in 0..20 {
            writer.window(starts, &[node("a")], &[link("a", "b")]).unwrap();
            starts += 10.0;
        }
        // Not finished: the process was killed.
    }
    let kept = parts::all(folder.path()).unwrap();
    assert!(kept.iter().map(|p| p.bytes).sum::<u64>() <= 1_500, "{kept:?}");
    assert!(kept.first().unwrap().number > 3 && kept.len().is_multiple_of(2), "{kept:?}");
    let mut windows = Vec::new();
    for part in kept.iter().filter(|p| p.path.to_string_lossy().contains("links-")) {
        let text = text(part.path.clone());
        windows.extend(text.lines().skip(1).map(|l| l.split(',').next().unwrap().parse::<f64>().unwrap()));
    }
    assert!(windows.is_sorted() && windows.last() == Some(&(starts - 10.0)), "the newest are kept: {windows:?}");
}

#[test]
fn windows_of_another_length_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { rotate: 1_000, keep: 9_000 };
    Writer::append(folder.path(), &meta(), bounds).unwrap();
    let other = Meta { window_seconds: 5.0, ..meta() };
    let error = Writer::append(folder.path(), &other, bounds).unwrap_err().to_string();
    assert!(error.contains("windows of 10 s, not of 5 s"), "{error}");
}

#[test]
fn a_part_that_failed_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { rotate: 1 << 20, keep: 1 << 30 };
    let mut writer = Writer::append(folder.path(), &meta(), bounds).unwrap();
    fs::create_dir(folder.path().join("links-0001.csv.gz")).unwrap();
    let error = writer.window(0.0, &[node("a")], &[link("a", "b")]).unwrap_err().to_string();
    assert!(error.contains("links-0001.csv.gz"), "{error}");
    writer.window(10.0, &[node("a")], &[link("a", "b")]).unwrap();
    assert!(text(folder.path().join("links-0002.csv.gz")).contains("\n10,a,b,"));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Writer::create(&file.join("below"), &meta()).unwrap_err().to_string();
    assert!(error.contains("file/below"), "{error}");
}
