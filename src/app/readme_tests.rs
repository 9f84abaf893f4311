//! The README's examples are right: each block of YAML is a configuration, each command is one that the command line
//! takes, each `make` target exists. (What they do is tested end to end, in `integration`.)

use super::cli::Cli;
use crate::config::load_str;
use clap::{CommandFactory, Parser};

const README: &str = include_str!("../../README.md");
const MAKEFILE: &str = include_str!("../../Makefile");

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Code in running text and in tables.
fn spans() -> Vec<&'static str> {
    let outside = README.split("```").step_by(2);
    outside.flat_map(|text| text.split('`').skip(1).step_by(2)).filter(|span| !span.contains('\n')).collect()
}

/// The lines of all shell blocks that are commands, without their comments.
fn commands() -> Vec<&'static str> {
    let lines = blocks("sh").into_iter().flat_map(str::lines);
    lines.map(|line| line.split(" #").next().unwrap().trim()).filter(|line| !line.is_empty()).collect()
}

/// Words as a shell cuts them, where quotes hold no quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (n, part) in command.split(['"', '\'']).enumerate() {
        let mut cut = if n % 2 == 0 { part.split(' ').collect::<Vec<_>>() } else { vec![part] }.into_iter();
        words.last_mut().unwrap().push_str(cut.next().unwrap_or_default());
        words.extend(cut.map(str::to_owned));
    }
    words.retain(|word| !word.is_empty());
    words
}

fn has_target(name: &str) -> bool {
    MAKEFILE.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

#[test]
fn every_block_of_yaml_is_a_configuration() {
    let blocks = blocks("yaml");
    assert!(blocks.len() >= 4, "{} blocks", blocks.len());
    for block in blocks {
        load_str(block, "README.md").unwrap_or_else(|errors| panic!("{errors}\n{block}"));
    }
    let parts: Vec<_> = spans().into_iter().filter(|s| s.contains(": {") && !s.starts_with('{')).collect();
    assert!(parts.iter().any(|part| part.starts_with("process: ")), "{parts:?}");
    for part in parts {
        load_str(part, "README.md").unwrap_or_else(|errors| panic!("{errors}\n{part}"));
    }
}

#[test]
fn every_command_is_one_that_the_command_line_takes() {
    let mut parsed = 0;
    for command in commands() {
        let words = words(command);
        if words[0].ends_with("pathloom") {
            Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{command}: {error}"));
            parsed += 1;
        }
    }
    assert!(parsed >= 6, "{parsed} commands");
    let cli = Cli::command();
    for span in spans() {
        let words = words(span);
        if let [program, word, ..] = words.as_slice()
            && program == "pathloom"
            && !word.starts_with('-')
        {
            assert!(cli.find_subcommand(word).is_some(), "`{span}`");
        }
    }
}

#[test]
fn every_make_target_exists() {
    let lines = commands().into_iter().chain(spans());
    let targets: Vec<String> =
        lines.filter_map(|line| words(line).split_first().filter(|(w, _)| *w == "make")?.1.first().cloned()).collect();
    assert!(targets.len() >= 10, "{targets:?}");
    for target in targets {
        assert!(has_target(&target), "make {target}");
    }
}

#[test]
fn the_first_request_goes_where_the_quickstart_listens() {
    let quickstart = load_str(include_str!("../../proxy-config/quickstart.yaml"), "quickstart.yaml").unwrap();
    let curl = commands().into_iter().find(|command| command.starts_with("curl ")).unwrap();
    let listens = quickstart.workloads.values().filter_map(|workload| workload.listen);
    assert!(listens.map(|address| format!("http://{address}/")).any(|url| curl.contains(&url)), "{curl}");
}

#[test]
fn words_are_cut_as_a_shell_cuts_them() {
    assert_eq!(words("a -H 'b c' --d=\"e f\"g  h"), ["a", "-H", "b c", "--d=e fg", "h"]);
}
