use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

const META: &str = "{\"name\": \"test\", \"window_seconds\": 10}";
const NODES: &str = "window_start_s,node,service,zone,cpu_utilization,memory_utilization,requests_per_second,in_flight
0,a,front,x,0.5,,10,1
0,b,cart,y,0.25,0.5,,
10,a,front,x,0.5,,10,1
10,b,cart,y,0.25,0.5,,
";
const LINKS: &str =
    "window_start_s,source,destination,calls,errors,latency_mean_ms,latency_p50_ms,latency_p90_ms,latency_p99_ms,jitter_ms
0,a,b,100,1,20,18,30,60,4
10,a,b,90,,21,19,31,61,5
";

fn folder(meta: &str, nodes: &str, links: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("meta.json", meta), ("nodes.csv", nodes), ("links.csv", links)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn errors(meta: &str, nodes: &str, links: &str) -> String {
    read(folder(meta, nodes, links).path()).unwrap_err().to_string()
}

/// The warnings of a recording that can be used.
fn warnings(nodes: &str, links: &str) -> String {
    read(folder(META, nodes, links).path()).unwrap().findings.warning_text()
}

fn zipped(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_sound_recording_is_read_without_a_word() {
    let recording = read(folder(META, NODES, LINKS).path()).unwrap();
    assert_eq!(recording.findings, Findings::default());
    assert_eq!((recording.name.as_str(), recording.window_s, recording.windows.len()), ("test", 10.0, 2));
    assert_eq!(recording.nodes.iter().map(|n| n.service.as_str()).collect::<Vec<_>>(), ["front", "cart"]);
    let [first, second] = &recording.windows[..] else { panic!() };
    assert_eq!((second.start_ms, first.links[0].calls, first.links[0].answers()), (10_000, 100.0, 99.0));
    assert!((first.links[0].p99_s - 0.060).abs() < 1e-6 && second.links[0].errors.is_nan());
    assert!(first.nodes[0].memory_utilization.is_nan() && first.nodes[1].in_flight.is_nan());
}

#[test]
fn each_mistake_is_told_with_its_file_and_line() {
    let one = |from: &str, to: &str| LINKS.replacen(from, to, 1);
    for (links, expected) in [
        (one(",jitter_ms", ""), "links.csv:1: the column `jitter_ms` is missing; add it"),
        (one(",20,18", ",-20,18"), "links.csv:2: `latency_mean_ms` is -20, which is negative"),
        (one(",20,18", ",NaN,18"), "links.csv:2: `latency_mean_ms` is `NaN`, which is not finite"),
        (one(",61,5", ",inf,5"), "links.csv:3: `latency_p99_ms` is `inf`, which is not finite"),
        (one(",100,", ",many,"), "links.csv:2: `calls` is `many`, which is no number"),
        (one(",100,1,", ",100,101,"), "links.csv:2: `errors` is 101, more than `calls`, 100"),
        (one("0,a,b", "0,,b"), "links.csv:2: `source` is empty"),
        (one("\n10,a", "\n,a"), "links.csv:3: `window_start_s` is empty"),
        (one(",60,4", ",60"), "links.csv:2: the row has 9 fields, the header 10"),
        (one("10,a,b", "0,a,b"), "links.csv:3: link `a` to `b` in the window from 0 s again, as on line 2 of"),
    ] {
        let told = errors(META, NODES, &links);
        assert!(told.contains(expected), "{told}\n{expected}");
    }
    for (nodes, expected) in [
        (NODES.replace(",zone", ",area"), "nodes.csv:1: the column `zone` is missing"),
        (NODES.replacen("0.25,", "25,", 1), "nodes.csv:3: `cpu_utilization` is 25; write a share from 0 to 1"),
        (NODES.replacen("10,b,", "10,a,", 1), "nodes.csv:5: node `a` in the window from 10 s again, as on line 4 of"),
    ] {
        let told = errors(META, &nodes, LINKS);
        assert!(told.contains(expected), "{told}\n{expected}");
    }
    for (meta, expected) in [
        ("{", "meta.json:1: "),
        ("{\"name\": \"x\"}", "missing field `window_seconds`"),
        ("{\"name\": \"x\", \"window_seconds\": 0}", "`window_seconds` is 0; write a number above 0"),
    ] {
        let told = errors(meta, NODES, LINKS);
        assert!(told.contains(expected), "{told}\n{expected}");
    }
}

#[test]
fn what_is_odd_and_can_be_read_is_a_warning() {
    let alone = NODES.to_owned() + "10,lonely,cart,y,,,,\n";
    assert!(warnings(&alone, LINKS).contains("nodes.csv:6: no link names the node `lonely`"));
    let above = NODES.replacen("0.25,", "1.04,", 1);
    assert!(warnings(&above, LINKS).contains("nodes.csv:3: `cpu_utilization` is 1.04, taken as 1"));
    let strange = LINKS.replacen("a,b,90", "a,stranger,90", 1);
    assert!(warnings(NODES, &strange).contains("links.csv:3: `stranger` is in links and not in nodes"));
    let empty = LINKS.to_owned() + "20,a,b,0,0,,,,,\n";
    assert!(warnings(NODES, &empty).contains("links.csv:4: the window from 20 s is empty"));
    let nodes_only = NODES.to_owned() + "20,a,front,x,,,,\n";
    assert!(warnings(&nodes_only, LINKS).contains("nodes.csv:6: the window from 20 s is empty"));
    let more = LINKS.replace('\n', ",7\n").replacen("jitter_ms,7", "jitter_ms,colour", 1);
    assert!(warnings(NODES, &more).contains("links.csv:1: the column `colour` is unknown and not read"));
    let moved = NODES.replacen("10,b,cart", "10,b,trolley", 1);
    assert!(warnings(&moved, LINKS).contains("nodes.csv:5: `b` has the service `trolley` here and `cart` before"));
    let odd = LINKS.replacen("\n10,a", "\n13,a", 1);
    assert!(warnings(NODES, &odd).contains("does not follow the first by whole windows of 10 s"));
}

#[test]
fn many_mistakes_are_told_together_and_bounded() {
    let rows: String = (0..50).map(|i| format!("{i}0,a,b,x,0,1,1,1,1,1\n")).collect();
    let told =
        errors(META, &NODES.replacen("0.25,", "25,", 1), &(LINKS.lines().next().unwrap().to_owned() + "\n" + &rows));
    assert_eq!(told.lines().count(), 21, "{told}");
    assert!(told.contains("nodes.csv:3") && told.ends_with("and 31 more errors"), "{told}");
}

#[test]
fn a_folder_that_lacks_files_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let told = read(folder.path()).unwrap_err().to_string();
    assert!(told.contains("meta.json") && told.contains("window_seconds"), "{told}");
    assert!(told.contains("no `nodes.csv`") && told.contains("no `links.csv.gz`"), "{told}");
    fs::write(folder.path().join("meta.json"), META).unwrap();
    let header = |text: &str| text.lines().next().unwrap().to_owned();
    fs::write(folder.path().join("nodes.csv"), header(NODES)).unwrap();
    fs::write(folder.path().join("links.csv"), header(LINKS)).unwrap();
    assert!(read(folder.path()).unwrap_err().to_string().contains("holds no window"));
}

#[test]
fn windows_line_ends_a_byte_order_mark_and_other_orders_change_nothing() {
    let plain = read(folder(META, NODES, LINKS).path()).unwrap();
    let crlf = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let same = read(folder(&format!("\u{feff}{META}"), &crlf(NODES), &crlf(LINKS)).path()).unwrap();
    let strip = |r: &Recording| -> Vec<(i64, Vec<(u32, u32)>)> {
        r.windows.iter().map(|w| (w.start_ms, w.links.iter().map(|l| (l.source, l.destination)).collect())).collect()
    };
    assert_eq!((strip(&plain), &plain.nodes), (strip(&same), &same.nodes));
    assert_eq!(same.findings, Findings::default());
    let mut lines: Vec<&str> = NODES.lines().collect();
    lines[1..].reverse();
    let reversed = read(folder(META, &(lines.join("\n") + "\n"), LINKS).path()).unwrap();
    assert_eq!((strip(&plain), &plain.nodes), (strip(&reversed), &reversed.nodes));
}

#[test]
fn parts_and_gzip_are_read_and_what_a_kill_left_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("meta.json", META.as_bytes());
    put("nodes-0001.csv.gz", &zipped(NODES));
    let (header, rows) = LINKS.split_once('\n').unwrap();
    let (first, second) = rows.split_once('\n').unwrap();
    put("links-0001.csv.gz", &zipped(&format!("{header}\n{first}\n")));
    let mut killed = zipped(&format!("{header}\n{second}"));
    let window = zipped("20,a,b,1,0,1,1,1,1,1\n30,a,b,1,0,1,1,1,1,1\n");
    killed.extend_from_slice(&window[..window.len() / 2]);
    put("links-0002.csv.gz", &killed);
    let recording = read(folder.path()).unwrap();
    assert_eq!(recording.windows.len(), 2);
    let told = recording.findings.warning_text();
    assert!(told.contains("links-0002.csv.gz:2: the file is cut off after this line"), "{told}");

    let mut broken = zipped(LINKS);
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    broken[middle + 1] ^= 0xff;
    put("links-0002.csv.gz", &broken);
    let told = read(folder.path()).unwrap_err().to_string();
    assert!(told.contains("links-0002.csv.gz") && told.contains("damaged"), "{told}");
}
