//! What operators read is complete and true: alerting rules, the Grafana dashboard, the guides in `proxy-config/`.
//!
//! Names of metrics and their labels are held to `metrics.golden`, sections to the reasons, rules and keys that they
//! explain, and each block of YAML is a configuration. Whether the rules fire as they should, promtool says
//! (`integration/alerts`).

use crate::config::{load_str, reference};
use crate::discovery::{Fault, Ignored, ROUTE_REASONS};
use crate::mesh::Refused;
use crate::observe::Reason;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const GOLDEN: &str = include_str!("../admin/metrics.golden");
const ALERTS: &str = include_str!("../../proxy-config/alerts.yaml");
const ALERTS_TEST: &str = include_str!("../../integration/alerts/alerts_test.yaml");
const DASHBOARD: &str = include_str!("../../proxy-config/grafana-dashboard.json");
const TROUBLESHOOTING: &str = include_str!("../../proxy-config/TROUBLESHOOTING.md");
const README: &str = include_str!("../../README.md");
const TUNING: &str = include_str!("../../proxy-config/TUNING.md");

/// Each name that can stand in a query, with its labels where an example of it is known.
fn metrics() -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut all = BTreeMap::new();
    for line in GOLDEN.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let ends: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        all.extend(ends.iter().map(|end| (format!("{name}{end}"), BTreeSet::new())));
    }
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.strip_suffix('}').unwrap().split_once('{').unwrap();
        let known = all.get_mut(name).unwrap_or_else(|| panic!("{name} has no type"));
        known.extend(labels.split(',').filter(|l| !l.is_empty()));
    }
    all
}

/// What our metrics' names begin with, those of OpenTelemetry's conventions among them.
const PREFIXES: [&str; 5] = ["pathloom_", "http_server_", "http_client_", "rpc_server_", "rpc_client_"];

/// The names of ours in a query, each with what stands in braces after it.
fn used(query: &str) -> Vec<(&str, &str)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = PREFIXES.into_iter().flat_map(|prefix| query.match_indices(prefix)).map(|(at, _)| at);
    starts
        .filter(|at| !query[..*at].ends_with(word))
        .map(|at| {
            let rest = &query[at..];
            let (name, rest) = rest.split_at(rest.find(|c| !word(c)).unwrap_or(rest.len()));
            let inside = rest.strip_prefix('{').and_then(|r| r.split_once('}')).map_or("", |(inside, _)| inside);
            (name, inside)
        })
        .collect()
}

/// Holds a query to the metrics that there are.
fn assert_known(query: &str) {
    let metrics = metrics();
    for (name, inside) in used(query) {
        let labels = metrics.get(name).unwrap_or_else(|| panic!("there is no metric {name}: {query}"));
        for matcher in inside.split(',').filter(|m| m.contains('=')) {
            let label = matcher.split(['=', '!']).next().unwrap().trim();
            let known = labels.is_empty() || labels.contains(label) || label == "instance";
            assert!(known, "{name} has no label {label}: {query}");
        }
    }
}

/// The rules: each `- alert:` with its lines.
fn rules() -> Vec<(&'static str, &'static str)> {
    let of = |rule: &'static str| {
        let (name, rest) = rule.split_once('\n').unwrap();
        (name.trim(), rest)
    };
    ALERTS.split("- alert: ").skip(1).map(of).collect()
}

/// A page's sections: each heading of the third level with its text.
fn sections(page: &'static str) -> Vec<(&'static str, &'static str)> {
    let of = |section: &'static str| {
        let (heading, text) = section.split_once('\n').unwrap();
        (heading.trim(), text.split("\n## ").next().unwrap())
    };
    page.split("\n### ").skip(1).map(of).collect()
}

/// What stands between backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The anchor that Markdown gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_rule_has_a_duration_a_severity_words_a_section_and_a_test() {
    let rules = rules();
    let said = format!("are {} alerting rules", rules.len());
    assert!(rules.len() >= 10 && README.contains(&said), "README.md does not say that there {said}");
    for (name, text) in rules {
        let key = |key: &str| text.lines().find_map(|l| l.trim().strip_prefix(key)).map(str::trim);
        assert!(key("for: ").is_some(), "{name} waits for nothing");
        let severity = key("labels: ").unwrap_or_default();
        assert!(severity.contains("critical") || severity.contains("warning"), "{name}: {severity}");
        assert!(key("summary: ").is_some_and(|s| s.len() > 20), "{name} has no summary");
        let link = format!("proxy-config/TROUBLESHOOTING.md#{}.\"", name.to_lowercase());
        assert!(key("description: ").is_some_and(|d| d.ends_with(&link)), "{name} does not lead to {link}");
        let section = sections(TROUBLESHOOTING).into_iter().find(|(heading, _)| *heading == name);
        let (_, said) = section.unwrap_or_else(|| panic!("TROUBLESHOOTING.md says nothing of {name}"));
        assert!(said.contains("**Cause.**") && said.contains("**Remedy.**"), "{name} has no cause or no remedy");
        assert!(ALERTS_TEST.contains(&format!("alertname=\"{name}\"")), "no test makes {name} fire");
        assert_known(text);
    }
}

#[test]
fn every_panel_shows_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().filter(|t| !t.is_empty()).unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is there twice");
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(panel["type"] == "row" || !targets.is_empty(), "{title} shows nothing");
        assert!(panel["type"] == "row" || panel["description"].as_str().is_some_and(|d| !d.is_empty()), "{title}");
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            assert_known(query);
            shown.extend(used(query).into_iter().map(|(name, _)| name.to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        assert_known(variable["definition"].as_str().unwrap_or_default());
    }
    // The dashboard is over all metrics: of each family one name at least.
    let families = GOLDEN.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let on = |family: &str| {
        let ends = ["", "_total", "_bucket", "_sum", "_count", "_info"];
        ends.iter().any(|end| shown.contains(&format!("{family}{end}")))
    };
    let absent: Vec<&str> = families.filter(|family| !on(family)).collect();
    assert!(absent.is_empty(), "on no panel: {absent:?}");
    let at = |panel: &Value| ["x", "y", "w", "h"].map(|k| panel["gridPos"][k].as_u64().unwrap());
    for (i, panel) in panels.iter().enumerate() {
        let [x, y, w, h] = at(panel);
        assert!(x + w <= 24, "{} is too wide", panel["title"]);
        for other in &panels[i + 1..] {
            let [left, top, wide, high] = at(other);
            let apart = x + w <= left || left + wide <= x || y + h <= top || top + high <= y;
            assert!(apart, "{} lies on {}", panel["title"], other["title"]);
        }
    }
}

#[test]
fn every_reason_code_has_a_cause_and_a_remedy() {
    let sections = sections(TROUBLESHOOTING);
    for reason in Reason::ALL {
        let heading = format!("`{}`", reason.code());
        let section = sections.iter().find(|(h, _)| *h == heading);
        let (_, text) = section.unwrap_or_else(|| panic!("TROUBLESHOOTING.md has no section {heading}"));
        assert!(text.contains("**Cause.**") && text.contains("**Remedy.**"), "{heading}: no cause or no remedy");
        let status = reason.status().as_str().to_owned();
        assert!(text.starts_with(&status) || *reason == Reason::ClientGone, "{heading} begins with {status}");
    }
    let known: BTreeSet<String> = Reason::ALL.iter().map(|r| format!("`{}`", r.code())).collect();
    let rules: BTreeSet<&str> = rules().into_iter().map(|(name, _)| name).collect();
    for (heading, _) in sections {
        assert!(known.contains(heading) || rules.contains(heading), "{heading} is neither a reason nor an alert");
    }
}

#[test]
fn every_word_of_discovery_has_a_cause_and_a_remedy() {
    let rows = |heading: &str| -> Vec<&str> {
        let (_, text) = sections(TROUBLESHOOTING).into_iter().find(|(h, _)| *h == heading).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("| `")).collect()
    };
    let faults: Vec<&str> = Fault::ALL.iter().map(|fault| fault.code()).collect();
    let ignored: Vec<&str> = Ignored::ALL.iter().map(|reason| reason.code()).collect();
    let refused = ROUTE_REASONS.to_vec();
    for (heading, codes) in [
        ("PathloomDiscoveryFails", faults),
        ("PathloomDiscoveryLeavesOut", ignored),
        ("PathloomRoutesRefused", refused),
    ] {
        let rows = rows(heading);
        let first = |row: &&str| row.split('`').next().unwrap().to_owned();
        assert_eq!(rows.iter().map(first).collect::<Vec<_>>(), codes, "{heading} has a row for each, in this order");
        for row in rows {
            assert!(row.split(" | ").skip(1).filter(|cell| cell.len() > 20).count() == 2, "{heading}: {row}");
        }
    }
}

/// Keys of a cluster that say what it is, and not where its requests go.
const DESCRIBING: [&str; 13] = [
    "service",
    "protocol",
    "proxy_protocol",
    "addresses",
    "tls.",
    "timeouts.",
    "endpoints[].address",
    "endpoints[].metadata",
    "discover[].file",
    "discover[].dns",
    "discover[].kubernetes",
    "discover[].port",
    "discover[].nameservers",
];
/// Of other sections what changes where requests go.
const BESIDE: [&str; 6] = [
    "node.zone",
    "workloads.<name>.serves",
    "routes[].split",
    "routes[].idempotent",
    "routes[].class",
    "telemetry.idle_links",
];
/// Sections of which each key does.
const WHOLE: [&str; 4] = ["model.", "priority.", "mesh.", "gateway_api."];
/// The sections of the guide that have no plot, by their first key, and why not. They say so themselves.
const WITHOUT_PLOT: [(&str, &str); 8] = [
    ("model.file", "a choice of files and engines"),
    ("retries.body", "memory, and no share of requests"),
    ("admission.connections", "a plain bound"),
    ("discover[].most", "a plain bound"),
    ("workloads.<name>.serves", "a fact of the graph"),
    ("gateway_api.enabled", "where routes come from"),
    ("mesh.nats.user", "who may connect"),
    ("mesh.nats.tls.authorities", "who may connect"),
];

/// A key as the guide writes it, where it changes where requests go.
fn routing_key(path: &'static str) -> Option<&'static str> {
    match path.strip_prefix("clusters.<name>.") {
        Some(key) => (!DESCRIBING.iter().any(|d| key.starts_with(d))).then_some(key),
        None => (WHOLE.iter().any(|section| path.starts_with(section)) || BESIDE.contains(&path)).then_some(path),
    }
}

#[test]
fn every_key_that_changes_where_requests_go_has_its_section() {
    let written: BTreeSet<&str> = sections(TUNING).into_iter().flat_map(|(heading, _)| spans(heading)).collect();
    let keys = || reference::keys().iter().filter(|k| !k.section).map(|k| k.path.as_str());
    let missing: Vec<&str> = keys().filter_map(routing_key).filter(|key| !written.contains(key)).collect();
    assert!(missing.is_empty(), "TUNING.md has no section for {missing:?}");
    let known: BTreeSet<&str> = keys().map(|k| k.strip_prefix("clusters.<name>.").unwrap_or(k)).collect();
    let gone: Vec<&&str> = written.iter().filter(|key| !known.contains(**key)).collect();
    assert!(gone.is_empty(), "TUNING.md explains what is no key: {gone:?}");
}

#[test]
fn every_section_of_the_tuning_guide_shows_a_plot_or_says_why_there_is_none() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/proxy-config"));
    let mut without = BTreeSet::new();
    for (heading, text) in sections(TUNING) {
        let key = spans(heading).next().unwrap_or_else(|| panic!("{heading} names no key"));
        let excused = WITHOUT_PLOT.iter().find(|(first, _)| *first == key);
        let plots: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        let plots = || plots.iter().filter(|target| target.ends_with(".svg"));
        for plot in plots() {
            let svg = std::fs::read_to_string(folder.join(plot)).unwrap_or_else(|e| panic!("{key}: {plot}: {e}"));
            assert!(svg.starts_with("<svg") && svg.contains("<text"), "{key}: {plot} is no plot");
        }
        let says_why = text.lines().any(|line| line.strip_prefix("No plot: ").is_some_and(|why| why.len() > 20));
        assert_eq!(excused.is_some(), says_why, "{key}: the guide and the list say the same");
        assert_ne!(plots().count() > 0, says_why, "{key} shows a plot, or says why there is none");
        without.extend(excused.map(|(first, _)| *first));
        // What an SRE is told before it: when, which way, what it costs.
        assert!(text.split(". ").count() >= 2, "{key} is explained in a sentence");
    }
    assert_eq!(without.len(), WITHOUT_PLOT.len(), "the list names sections that there are not");
    assert!(WITHOUT_PLOT.iter().all(|(_, why)| !why.is_empty()));
}

#[test]
fn everything_that_sharing_refuses_has_a_cause_and_a_remedy_and_every_figure_of_it_is_explained() {
    let section = |name: &str| sections(TROUBLESHOOTING).into_iter().find(|(heading, _)| *heading == name).unwrap().1;
    let rows: Vec<Vec<&str>> = section("PathloomMeshRefuses")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let codes = Refused::ALL.iter().map(|refused| format!("`{}`", refused.code()));
    assert!(rows.iter().map(|row| row[0]).eq(codes), "{rows:?}");
    assert!(rows.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())), "{rows:?}");
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for name in metrics().into_keys().filter(|name| name.starts_with("pathloom_mesh_")) {
        let shown = dashboard["panels"].as_array().unwrap().iter().any(|panel| panel.to_string().contains(&name));
        assert!(shown || TROUBLESHOOTING.contains(&name), "nobody shows or explains {name}");
    }
}

#[test]
fn links_lead_somewhere_and_every_plot_is_there_and_shown() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/proxy-config"));
    let pages = [("TROUBLESHOOTING.md", TROUBLESHOOTING), ("TUNING.md", TUNING)];
    let anchors = |page: &str| -> BTreeSet<String> {
        let lines = page.lines().filter(|l| l.starts_with('#'));
        lines.map(anchor).collect()
    };
    let mut plots = BTreeSet::new();
    for (name, page) in pages {
        for target in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let there = match file {
                "" => page,
                "TROUBLESHOOTING.md" => TROUBLESHOOTING,
                "TUNING.md" => TUNING,
                file => {
                    assert!(folder.join(file).exists(), "{name}: there is no {file}");
                    plots.insert(file.to_owned());
                    continue;
                }
            };
            assert!(place.is_empty() || anchors(there).contains(place), "{name}: {target} leads nowhere");
        }
    }
    for entry in std::fs::read_dir(folder.join("tuning")).unwrap() {
        let name = format!("tuning/{}", entry.unwrap().file_name().to_string_lossy());
        assert!(!name.ends_with(".svg") || plots.contains(&name), "nobody shows {name}");
    }
}

#[test]
fn every_block_of_yaml_in_the_guides_is_a_configuration() {
    let mut loaded = 0;
    for (name, page) in [("TROUBLESHOOTING.md", TROUBLESHOOTING), ("TUNING.md", TUNING)] {
        for block in page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            load_str(block, name).unwrap_or_else(|errors| panic!("{errors}\n{block}"));
            loaded += 1;
        }
    }
    assert!(loaded >= 12, "{loaded} blocks");
}

#[test]
fn a_query_is_taken_apart_as_prometheus_reads_it() {
    let query = "sum by (cluster) (rate(pathloom_a_total{reason=~\"x|y\",b=\"1\"}[5m])) / pathloom_c > 1";
    assert_eq!(used(query), [("pathloom_a_total", "reason=~\"x|y\",b=\"1\""), ("pathloom_c", "")]);
    assert_eq!((anchor("### `no_route`").as_str(), anchor("## Reason codes").as_str()), ("no_route", "reason-codes"));
}
