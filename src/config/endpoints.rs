//! Endpoints in a file of their own, with the same care for who writes it as a whole configuration gets: every error at
//! once, each with its line, its column and a remedy.
//!
//! ```yaml
//! endpoints:
//!   - { address: 10.1.2.3:8080, zone: eu-1a }
//!   - { address: 10.1.2.4:8080, weight: 2 }
//! ```
//! An empty list is a list: nobody offers the service. An empty file is an error, as it may be about to be written.

use super::decode::decode;
use super::diagnostic::{Collector, Errors, Source};
use super::environment::Environment;
use super::load::{judge, readable};
use super::schema::Endpoint;
use super::secret::Veil;
use super::tree;
use super::validate;
use serde::Deserialize;

/// What the file holds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointsFile {
    endpoints: Vec<Endpoint>,
}

/// Reads endpoints from a file's bytes; `name` stands for the file in errors.
///
/// # Errors
/// Everything that is wrong with them.
pub fn load_endpoints(bytes: &[u8], name: &str) -> Result<Vec<Endpoint>, Errors> {
    let remedy = "begin with `endpoints:`, and write `endpoints: []` where there are none";
    let text = readable(bytes, name, ("the file holds no endpoints", remedy))?;
    let mut collector = Collector::new(Source { name, text });
    let variables = |variable: &str| std::env::var(variable).ok();
    let veil = Veil::new(&variables);
    let file = build(&mut collector, Environment(&|variable| veil.look_up(variable)));
    let refused = collector.refused();
    let found = veil.over(collector.finish());
    match file {
        Some(file) if !refused => Ok(file.endpoints),
        _ => Err(Errors(found)),
    }
}

fn build(collector: &mut Collector<'_>, environment: Environment<'_>) -> Option<EndpointsFile> {
    let root = tree::parse(collector, environment)?;
    let file: EndpointsFile = decode(&root, collector, &|_| None)?;
    for finding in validate::endpoints(&file.endpoints) {
        judge(&root, finding, collector);
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let found = load_endpoints(text.as_bytes(), "catalog.yaml").unwrap_err().0;
        found.iter().map(|d| format!("{}:{} {}", d.line, d.column, d.message)).collect()
    }

    #[test]
    fn endpoints_are_written_as_in_the_configuration() {
        let text = "endpoints:\n  - { address: 10.1.2.3:8080, zone: eu-1a, metadata: { version: \"7\" } }\n  - address: \"[fd00::1]:80\"\n    weight: 3\n";
        let found = load_endpoints(text.as_bytes(), "x").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found.iter().map(|e| (e.address.port(), e.weight)).collect::<Vec<_>>(), [(8080, 1), (80, 3)]);
        assert_eq!((found[0].zone.as_str(), found[0].metadata["version"].as_str()), ("eu-1a", "7"));
        assert_eq!(load_endpoints(b"endpoints: []", "x"), Ok(Vec::new()), "nobody offers the service");
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let text = "endpoints:\n  - { address: 10.1.2.3 }\n  - { adress: 10.1.2.3:80 }\n  - { address: 10.1.2.4:0 }\n  - { address: 10.1.2.5:1 }\n  - { address: 10.1.2.5:1 }\n";
        let found = errors(text);
        assert!(found[0].starts_with("2:16 `10.1.2.3` is not an IP address and a port"), "{found:#?}");
        assert!(found.iter().any(|f| f.starts_with("3:7 unknown key `adress`")), "{found:#?}");
        assert!(found.iter().any(|f| f.starts_with("4:16 10.1.2.4:0 has the port 0")), "{found:#?}");
        assert!(found.iter().any(|f| f.starts_with("6:16 10.1.2.5:1 is endpoint")), "{found:#?}");
        assert_eq!(errors("")[0], "0:0 the file holds no endpoints");
        assert!(errors("- { address: 10.0.0.1:1 }")[0].contains("a list stands where a section"));
        assert!(errors("clusters: {}").iter().any(|f| f.contains("`endpoints` is missing")), "no key of its own");
        assert!(load_endpoints(b"endpoints: [\xff]", "x").is_err());
    }
}
