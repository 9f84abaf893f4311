//! Whole files: what is found in them, where, and how it is printed.

use super::super::reference::reference_yaml;
use super::*;
use proptest::prelude::*;

fn load(text: &str) -> Result<Loaded, Errors> {
    load_with(text.as_bytes(), "proxy.yaml", &|name| match name {
        "ZONE" => Some("eu-1a".to_owned()),
        "PORT" => Some("15001".to_owned()),
        "COUNT" => Some("7".to_owned()),
        "EVIL" => Some("x }\nadmin: { listen: 0.0.0.0:1 }".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    })
}

fn config(text: &str) -> Config {
    load(text).unwrap_or_else(|e| panic!("{e}")).config
}

/// The errors of a text as `line:column message / remedy`.
fn errors(text: &str) -> Vec<String> {
    let found = load(text).expect_err(text).0;
    let errors = found.iter().filter(|d| d.severity == Severity::Error);
    errors.map(|d| format!("{}:{} {} / {}", d.line, d.column, d.message, d.remedy.as_deref().unwrap_or(""))).collect()
}

#[track_caller]
fn one(text: &str, expected: &str) {
    let errors = errors(text);
    assert!(errors.len() == 1 && errors[0].contains(expected), "{text}\nexpected {expected}\nfound {errors:#?}");
}

#[test]
fn an_error_is_printed_as_a_compiler_would() {
    let text = "clusters:\n  catalog:\n    timeout: { connect: 1s }\n    endpoints:\n      - address: 10.1.2.3\n";
    assert_eq!(
        load(text).unwrap_err().to_string(),
        "error: unknown key `timeout`\n\
        \x20--> proxy.yaml:3:5\n\
        \x20 |\n\
        3 |     timeout: { connect: 1s }\n\
        \x20 |     ^^^^^^^\n\
        \x20 = help: did you mean `timeouts`?\n\
        \n\
        error: `10.1.2.3` is not an IP address and a port\n\
        \x20--> proxy.yaml:5:18\n\
        \x20 |\n\
        5 |       - address: 10.1.2.3\n\
        \x20 |                  ^^^^^^^^\n\
        \x20 = help: write both, as in `127.0.0.1:8080` or `[::1]:8080`\n\
        \n\
        proxy.yaml: 2 errors"
    );
}

#[test]
fn an_error_is_data_too() {
    let errors = load("model: { tick: 5 }").unwrap_err();
    let json = serde_json::to_value(&errors).unwrap();
    assert_eq!(json[0]["severity"], "error");
    assert_eq!((&json[0]["line"], &json[0]["column"]), (&1.into(), &16.into()));
    assert_eq!(json[0]["lines"][0]["text"], "model: { tick: 5 }");
    assert_eq!(json[0]["remedy"], "write `5s`, or `5ms` if milliseconds are meant");
}

#[test]
fn all_errors_of_a_file_come_at_once_and_in_its_order() {
    let text = "model: { tick: 5, temperature: hot, guards: { floor: 2 } }\nnode: [a]\nroutes:\n  - { cluster: a }\n  - { clutser: b }\nadmin: { listen: here }\n";
    let found = errors(text);
    let places: Vec<&str> = found.iter().map(|e| e.split(' ').next().unwrap()).collect();
    assert_eq!(places, ["1:16", "1:32", "1:54", "2:7", "4:16", "5:7", "6:18"], "{found:#?}");
}

#[test]
fn keys_that_are_not_known() {
    one("model: { tik: 1s }", "1:10 unknown key `tik` / did you mean `tick`?");
    one("decay: 1s", "1:1 unknown key `decay` / `decay` is a key of `model`");
    one("admin: { frobnicate: 1 }", "1:10 unknown key `frobnicate` / the keys here are `listen`");
    one(
        "node: { name: a, name: b }",
        "1:18 `name` is written twice in one section / keep one of them: the first is in line 1",
    );
    one(
        "model: { tick: 1s }\nmodel: {}",
        "2:1 `model` is written twice in one section / keep one of them: the first is in line 1",
    );
    one("? [a]\n: b", "1:3 a key must be a word");
    one("\"${ZONE}\": 1", "1:1 variables are not filled in inside a key");
}

#[test]
fn values_of_the_wrong_kind() {
    one("model: 5", "1:8 `5` stands where a section with keys belongs");
    one("model: [a]", "1:8 a list stands where a section with keys belongs");
    one("routes: { a: b }", "1:9 a section with keys stands where a list belongs");
    one("model: { tick: [1s] }", "1:16 a list stands where a length of time such as `250ms` belongs");
    one("model: { tick: true }", "1:16 `true` stands where a length of time such as `250ms` belongs");
    one("model: { tick: }", "a value is missing here");
    one("node: { name: }", "a value is missing here / write it, write `\"\"`");
    one("node: { name: { a: b } }", "1:15 a section with keys stands where text belongs");
    one(
        "model: { engine: tensorrt }",
        "`tensorrt` is not one of the words that can stand here / write one of `auto`, `onnxruntime` or `embedded`",
    );
    one("model: { mode: shadw }", "did you mean `shadow`?");
    one("model: { mode: [a] }", "a list stands where a word belongs");
    one("model: { temperature: hot }", "`hot` stands where a number belongs");
    one("model: { temperature: true }", "`true` stands where a number belongs");
    one("model: { compare: some }", "`some` is not `auto`, `all` or a number");
    one("model: { compare: 70000 }", "`70000` is not `auto`, `all` or a number");
    one("model: { compare: -1 }", "`-1` is not");
    one("model: { compare: 1.5 }", "`1.5` is not");
    one("clusters: { c: { hedging: { after: on } } }", "write `off`, `auto`, or a number and its unit: `50ms`");
    one("clusters: { c: { hedging: { after: 50 } } }", "`50` is a length of time without its unit");
    one("process: { threads: 2.5 }", "`2.5` is not `auto` or a number");
    one("listeners: { max_headers: -4 }", "`-4` is out of range / write a whole number, at least 0");
    one("listeners: { max_streams: 99999999999999999999999999999999999999999 }", "is out of range");
    let endpoint = |address: &str| format!("clusters: {{ c: {{ endpoints: [{{ address: '{address}' }}] }} }}");
    one(&endpoint("localhost:80"), "names are not looked up here");
    one(&endpoint("127.0.0.1:99999"), "a port is a number up to 65535");
    one("listeners: { max_streams: 4294967296 }", "out of range / write a whole number from 0 to 4294967295");
    one("listeners: { max_headers: many }", "`many` stands where a whole number belongs");
    one("clusters: { a: { endpoints: [{ zone: b }] } }", "1:30 `address` is missing");
    one(
        "clusters: { a: { endpoints: ['127.0.0.1:80'] } }",
        "1:30 `127.0.0.1:80` stands where a section with keys belongs / write its keys below it, indented, or as \
         `{ key: value }`: the keys here are `address`, `zone`, `host`, `weight` and `metadata`",
    );
    one("just text", "1:1 `just text` stands where a section with keys belongs");
    one("- a\n- b", "a list stands where a section with keys belongs");
}

#[test]
fn what_is_not_yaml() {
    one("node:\n\tname: a\n", "2:1 a tab is used for indentation, which YAML forbids / indent with spaces");
    one("node: { name: a\n", "1:7");
    one("node: 'a\n", "not YAML");
    one("node: {}\n---\nnode: {}\n", "a second YAML document begins here / keep one");
    one("node: {}\n admin: {}\n", "2:");
    one("node: *nobody\n", "alias references unknown anchor");
    one("node: @a\n", "quote the value");
    one("node: { name: ${ZONE:-x} }\n", "quote a value that holds `${...}`");
    one("node: !secret a\n", "1:15 this is not YAML that can be read: unsupported tag `!secret` / remove the word");
    one("node: { name: b: c }", "1:");
}

#[test]
fn what_is_no_text_at_all() {
    for empty in ["", "\n\n", "# nothing\n", "---\n", "\u{FEFF}"] {
        one(empty, "0:0 the file holds no configuration");
    }
    let found = load_with(b"node:\n  name: a\xFFb\n", "x", &|_| None).unwrap_err();
    assert_eq!((found.0[0].line, found.0[0].column), (2, 10), "{found}");
    assert!(found.to_string().contains("0xff here is not UTF-8"), "{found}");
    let utf16: Vec<u8> = "node: {}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(load_with(&utf16, "x", &|_| None).is_err());
    let huge = vec![b'#'; MAX_BYTES + 1];
    assert!(load_with(&huge, "x", &|_| None).unwrap_err().to_string().contains("larger than 16 MiB"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_error() {
    assert_eq!(config("\u{FEFF}node: { name: a }\r\nmodel: { tick: 2s }\r\n").node.name, "a");
    one("\u{FEFF}node: { name: a }\r\nmodel: { tick: 2 }\r\n", "2:16");
}

#[test]
fn a_file_that_unfolds_to_more_than_it_may_is_refused_soon() {
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (this, last) in "bcdefghij".chars().zip("abcdefghi".chars()) {
        bomb += &format!("{this}: &{this} [{}*{last}]\n", format!("*{last},").repeat(8));
    }
    let since = std::time::Instant::now();
    one(&bomb, "the file's aliases unfold to more than a configuration can hold");
    assert!(load(&"[".repeat(100_000)).is_err());
    one(&format!("a: {}", "[".repeat(3_000)), "sections lie too deep in each other");
    assert!(load(&format!("a: {}", "{a: ".repeat(5_000))).is_err());
    let nested: String = (0..3_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(load(&nested).is_err());
    assert!(since.elapsed().as_secs() < 20, "{:?}", since.elapsed());
}

#[test]
fn depth_is_bounded_on_any_stack() {
    let deep = |depth: usize| format!("a: {}1{}", "{a: ".repeat(depth), "}".repeat(depth));
    let small = std::thread::Builder::new().stack_size(256 * 1024);
    let found = small.spawn(move || [errors(&deep(15)), errors(&deep(16))].concat()).unwrap().join().unwrap();
    assert!(found[0].contains("unknown key `a`"), "{found:?}");
    assert!(found[1].contains("sections lie too deep in each other"), "{found:?}");
}

#[test]
fn a_large_file_of_nothing_but_mistakes_is_refused_soon() {
    let unknown: String = (0..200_000).map(|i| format!("k{i}: 1\n")).collect();
    let values: String =
        "clusters:\n".to_owned() + &(0..50_000).map(|i| format!("  c{i}: {{ service: [] }}\n")).collect::<String>();
    // Of this thread alone: a busy machine adds nothing to it.
    let cpu_s = || -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000_000
    };
    let since = cpu_s();
    for text in [unknown, values] {
        let found = load(&text).unwrap_err().0;
        assert!((100..=103).contains(&found.len()), "{}", found.len());
    }
    let clusters: String = (0..5_000).map(|i| format!("  c{i}: {{}}\n")).collect();
    let routes: String = (0..5_000).map(|i| format!("  - {{ cluster: d{i} }}\n")).collect();
    let found = load(&format!("clusters:\n{clusters}routes:\n{routes}")).unwrap_err().0;
    let errors = found.iter().filter(|d| d.severity == Severity::Error).count();
    assert!(errors == 101 && found.len() == 202, "{errors} of {}", found.len());
    assert!(found.iter().any(|d| d.message == "there are 4900 more errors"), "{:?}", found.last());
    assert!(cpu_s() - since < 60, "{} s", cpu_s() - since);
}

#[test]
fn aliases_and_merges_can_be_used() {
    let config = config(
        "clusters:\n  a: &a { policy: random, endpoints: [{ address: 10.0.0.1:1 }] }\n  b: *a\n  c: { <<: *a, policy: model }\nroutes: [{ split: { a: 50%, b: 25%, c: 25% } }]",
    );
    assert_eq!(config.clusters["a"], config.clusters["b"]);
    assert_eq!(config.clusters["c"].endpoints, config.clusters["a"].endpoints);
    assert_eq!(config.clusters["c"].policy, crate::config::Policy::Model);
}

#[test]
fn environment_variables_are_filled_in() {
    let config = config(
        "node: { name: \"${NODE_NAME:-local}-1\", zone: \"${ZONE}\" }\nlisteners: { max_headers: \"${COUNT}\" }\n\
         workloads: { a: { listen: \"127.0.0.1:${PORT}\" } }\nmodel: { tick: \"${TICK:-2s}\", compare: \"${COUNT}\", onnxruntime: \"${EMPTY}\" }\n\
         telemetry:\n  log: ${LOG:-debug}\n  access_log: { to: \"$${x}\" }\nprocess: { threads: \"${THREADS:-auto}\" }\n",
    );
    assert_eq!((config.node.name.as_str(), config.node.zone.as_str()), ("local-1", "eu-1a"));
    assert_eq!(config.listeners.max_headers, 7);
    assert_eq!(config.workloads["a"].listen.unwrap().port(), 15001);
    assert_eq!(
        (config.model.tick.to_string(), config.model.compare),
        ("2s".to_owned(), crate::config::Compare::Draw(7))
    );
    assert_eq!(config.model.onnxruntime, None);
    assert_eq!((config.telemetry.log.as_str(), config.telemetry.access_log.to.as_str()), ("debug", "${x}"));
    assert_eq!(config.process.threads, crate::config::Auto::Auto);
}

#[test]
fn a_variable_that_is_not_set_is_an_error_at_its_place() {
    one(
        "node: { name: \"a-${NOBODY}\" }",
        "1:18 the environment variable `NOBODY` is not set / set it, or give it a default: `${NOBODY:-value}`",
    );
    one("node:\n  name: a ${NOBODY\n", "2:11 `${` is not closed");
    one("listeners: { max_headers: \"${ZONE}\" }", "1:27 `eu-1a` stands where a whole number belongs");
}

#[test]
fn a_variable_cannot_become_yaml() {
    let found = errors("node: { name: \"${EVIL}\" }");
    assert!(found.len() == 1 && found[0].contains("control character"), "{found:?}");
}

#[test]
fn what_follows_from_an_error_is_not_said_again() {
    one("clusters: { a: { endpoints: 5 } }\nroutes: [{ cluster: a }]", "stands where a list belongs");
    one("clusters: { a: {} }\nroutes: [{ clustr: a }]", "did you mean `cluster`?");
    one("workloads: { a: { lisen: 127.0.0.1:1 } }", "did you mean `listen`?");
    one("routes: [{ cluster: [] }, { cluster: a }]\nclusters: { a: {} }", "stands where text belongs");
    one("model: { tick: 5, guards: { expire_after: 1s } }", "write `5s`");
}

#[test]
fn an_error_among_list_items_does_not_shift_the_places_of_others() {
    let text = "clusters:\n  a:\n    endpoints:\n      - 5\n      - address: 10.0.0.1:80\n      - address: 10.0.0.1:0\nroutes: [{ cluster: a }]\n";
    let found = errors(text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("4:9") && found[1].starts_with("6:18"), "{found:#?}");
}

#[test]
fn a_finding_about_a_key_that_is_not_there_points_at_its_section() {
    one("workloads:\n  a: {}\n", "2:3 the workload `a` has no `listen`");
    one("model:\n  tick: 31s\n", "1:1 a generation would expire");
}

#[test]
fn nothing_of_a_file_reaches_the_terminal_raw() {
    let shown = load("node: { nam\u{200B}e: \"\\e[31m\", \"\\e[2J\": 1 }").unwrap_err().to_string();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn what_stands_behind_all_that_is_shown_of_a_long_line_is_still_told() {
    // Found by `make fuzz`: a line that ends in blanks which are not shown, and then in what is no text.
    let file = [vec![b'a'; 150], vec![b'\r'; 100], vec![0xD8]].concat();
    let shown = load_bytes(&file, "file").unwrap_err().to_string();
    assert!(shown.contains("the byte 0xd8 here is not UTF-8 text") && shown.contains("file:1:251"), "{shown}");
}

#[test]
fn a_long_line_is_shown_around_its_place() {
    let text = format!("node: {{ name: {}, zzz: 1, zone: {} }}", "é".repeat(100), "x".repeat(200));
    let found = load(&text).unwrap_err();
    let line = &found.0[0].lines[0];
    assert_eq!(found.0[0].column, 117);
    assert!(line.text.chars().count() <= 122, "{found}");
    let marked: String = line.text.chars().skip(line.indent).take(line.marked).collect();
    assert_eq!(marked, "zzz", "{found}");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let shown = load_file(directory.path().join("none.yaml")).unwrap_err().to_string();
    assert!(shown.contains("none.yaml") && shown.contains("check the path"), "{shown}");
    assert!(load_file(directory.path()).unwrap_err().to_string().contains("name a file in it"));
}

#[test]
fn the_quickstart_loads_without_a_warning() {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("proxy-config/quickstart.yaml");
    let loaded = load_file(path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.clusters["catalog"].endpoints.len(), 2);
    assert_eq!(loaded.text_digest.len(), 64);
}

proptest! {
    #[test]
    fn any_bytes_load_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = load_with(&bytes, "x", &|_| None).map_err(|e| e.to_string());
    }

    #[test]
    fn anything_like_yaml_loads_or_is_refused(text in "([a-z]{1,3}|[ \n]{1,4}|: |- |[\\[\\]{}#&*!|>'\"%@`,?~\t\r]|\\$\\{|<<|[0-9]{1,3}|é){0,40}") {
        let _ = load_with(text.as_bytes(), "x", &|_| None).map_err(|e| e.to_string());
    }

    #[test]
    fn a_damaged_reference_loads_or_is_refused(at in 0.0..1.0_f64, cut in 0_usize..40, put in "\\PC{0,6}|[\\[\\]{}:\n\t \"'&*-]{1,4}") {
        let whole = reference_yaml();
        let start = whole.floor_char_boundary((at * whole.len() as f64) as usize);
        let end = whole.floor_char_boundary((start + cut).min(whole.len()));
        let text = format!("{}{put}{}", &whole[..start], &whole[end..]);
        match load_with(text.as_bytes(), "x", &|_| None) {
            Ok(loaded) => prop_assert_eq!(load_str(&loaded.config.to_yaml(), "again"), Ok(loaded.config)),
            Err(errors) => {
                prop_assert!(!errors.0.is_empty());
                for diagnostic in &errors.0 {
                    prop_assert!(diagnostic.line <= text.lines().count() + 1);
                    prop_assert!(!diagnostic.message.is_empty());
                }
            }
        }
    }

    #[test]
    fn facts_of_any_text_read_back(key in "[a-z{}#:&* -]{1,8}", value in "\\PC{0,80}") {
        let mut config = Config::default();
        let mut endpoint: crate::config::Endpoint = serde_json::from_str(r#"{ "address": "10.0.0.1:1" }"#).unwrap();
        endpoint.metadata.insert(key, value);
        config.clusters.insert("a".to_owned(), crate::config::Cluster { endpoints: vec![endpoint], ..Default::default() });
        prop_assert_eq!(load_str(&config.to_yaml(), "again"), Ok(config));
    }
}
