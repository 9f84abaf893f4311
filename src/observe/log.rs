//! The proxy's own log: lines on stderr, filtered by `telemetry.log`.
//!
//! Pingora writes to the `log` crate, which is bridged. It tells at `info` what an operator of a mesh does not ask for,
//! so its modules are held at `warn` unless the filter names them. Lines are text for people, coloured on a terminal
//! only; whoever wants one JSON object a request has the access log.

use std::io::IsTerminal;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Why logging could not be set up, or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error("`{filter}` is not a log filter: {reason}; write a level such as `info`, or `pathloom=debug,info`")]
    Filter {
        /// As it was written.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody has set up logging in this process before.
    #[error("logging is set up already: {0}")]
    Taken(String),
}

/// Changes the filter while the process runs.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

impl LogControl {
    /// Applies another filter. (Records that come through the `log` crate stay capped at the level of the first.)
    ///
    /// # Errors
    /// When it is none; the filter in force stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        self.0.reload(parsed).map_err(|e| LogError::Taken(e.to_string()))
    }
}

/// Sets up logging to stderr for the whole process: once, at its start.
///
/// # Errors
/// When the filter is none, or logging is set up already.
pub fn init(filter: &str) -> Result<LogControl, LogError> {
    let (subscriber, control) = subscriber(filter, std::io::stderr, std::io::stderr().is_terminal())?;
    subscriber.try_init().map_err(|e| LogError::Taken(e.to_string()))?;
    Ok(control)
}

fn subscriber<W>(
    filter: &str,
    writer: W,
    colours: bool,
) -> Result<(impl Subscriber + Send + Sync, LogControl), LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    Ok((tracing_subscriber::registry().with(filter).with(lines), LogControl(handle)))
}

/// What others may say, where the filter would let more of it through by its bare level and does not name them. What hickory
/// warns of, and kube's client calls an error at each try, `discovery` says once; and `mesh` what NATS's client does.
const HELD: [(&str, LevelFilter); 4] = [
    ("pingora", LevelFilter::WARN),
    ("hickory", LevelFilter::ERROR),
    ("kube_client", LevelFilter::OFF),
    ("async_nats", LevelFilter::OFF),
];

/// The filter as it is written, with others' modules held.
fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let bare = filter.split(',').filter_map(|part| part.trim().parse::<LevelFilter>().ok()).max();
    let held = HELD.iter().filter(|(name, most)| !filter.contains(name) && bare.is_some_and(|level| level > *most));
    let held: String = held.map(|(name, most)| format!("{name}={most},")).collect();
    EnvFilter::builder()
        .parse(format!("{held}{filter}"))
        .map_err(|e| LogError::Filter { filter: filter.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
pub(crate) mod for_tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    pub struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        /// All of it so far.
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::for_tests::Lines;
    use super::*;

    fn logged(filter: &str) -> String {
        let lines = Lines::default();
        let made = lines.clone();
        let (subscriber, _control) = subscriber(filter, move || made.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "pathloom::control", "ours");
            tracing::info!(target: "pingora_core::server", "theirs");
            tracing::warn!(target: "pingora_core::server", "their warning");
            tracing::warn!(target: "hickory_proto::udp", "one server's silence");
            tracing::error!(target: "kube_client::client::builder", "one try");
        });
        lines.text()
    }

    #[test]
    fn what_discovery_says_once_others_do_not_say_at_each_try() {
        let info = logged("info");
        assert!(!info.contains("one server's silence") && !info.contains("one try"), "{info}");
        let asked = logged("hickory=warn,kube_client=error,info");
        assert!(asked.contains("one server's silence") && asked.contains("one try"), "{asked}");
    }

    #[test]
    fn pingora_is_held_at_warn_unless_it_is_asked_for() {
        let info = logged("info");
        assert!(info.contains("ours") && info.contains("their warning") && !info.contains("theirs"), "{info}");
        let asked = logged("pingora_core=info,warn");
        assert!(!asked.contains("ours") && asked.contains("theirs"), "{asked}");
        assert_eq!(logged("error"), "");
    }

    #[test]
    fn the_filter_changes_while_the_process_runs() {
        let lines = Lines::default();
        let made = lines.clone();
        let (subscriber, control) = subscriber("error", move || made.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            control.set("info").unwrap();
            tracing::info!("after");
            control.set("info,=nonsense=").unwrap_err();
        });
        let text = lines.text();
        assert!(text.contains("after") && !text.contains("before"), "{text}");
    }

    #[test]
    fn a_filter_that_is_none_is_refused_with_its_text() {
        let error = parse("pathloom=loud").unwrap_err().to_string();
        assert!(error.contains("`pathloom=loud` is not a log filter"), "{error}");
    }

    #[test]
    fn what_the_log_crate_is_told_arrives() {
        let lines = Lines::default();
        let made = lines.clone();
        let (subscriber, _control) = subscriber("info", move || made.clone(), false).unwrap();
        subscriber.try_init().unwrap();
        log::warn!(target: "pingora_core::listeners", "bridged");
        log::info!(target: "pingora_core::listeners", "held back");
        let text = lines.text();
        assert!(
            text.contains("bridged") && text.contains("pingora_core::listeners") && !text.contains("held back"),
            "{text}"
        );
    }
}
