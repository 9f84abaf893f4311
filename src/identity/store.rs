//! What is in force, its replacement while connections come and go, and the alarm when it cannot be replaced.
//!
//! A thread of its own waits for the files to change and reads them. Files of one identity are rarely replaced at once,
//! so what does not fit together is looked at again for [`GRACE`] before it counts as wrong. Until there was a first
//! good identity, TLS listeners turn clients away and the process says that it is not ready; afterwards the last good
//! one stays, whatever the files hold. An expired one stays, too: peers refuse it, and say so.

use super::dial::{Dial, HTTP1, HTTP2};
use super::material::{Files, Material, Refused};
use super::outcome::Handshakes;
use super::verify::MeshVerifier;
use super::{SpiffeId, provider};
use crate::config::touch::{FileMark, Poke, Touch, Woken, mark_of};
use crate::config::{ClusterTls, Identity, Protocol};
use crate::observe::metrics::{Family, Kind, Measure, Value};
use crate::observe::rfc3339;
use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use serde_json::{Value as Json, json};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

/// How long files may not fit together, while they are being replaced, before that is an alarm.
const GRACE: Duration = Duration::from_secs(1);

/// The identity in force.
pub struct InForce {
    /// What it was made of.
    pub material: Material,
    /// Settings for clients' connections.
    pub server: Arc<ServerConfig>,
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.material.fmt(f)
    }
}

/// This node's identity through its life.
#[derive(Default)]
pub struct Identities {
    /// How handshakes end.
    pub handshakes: Handshakes,
    current: ArcSwapOption<InForce>,
    epoch: AtomicU64,
    serials: AtomicU32,
    dials: Mutex<Vec<Weak<Dial>>>,
    state: Mutex<State>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("current", &self.current).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    files: Option<Files>,
    marks: Vec<FileMark>,
    /// Since when the files do not fit together, without that being an alarm yet.
    doubt: Option<Instant>,
    alarm: Option<Alarm>,
    loaded_at: Option<SystemTime>,
    taken: u64,
    refused: u64,
    /// Ends the thread that waits for the files when it is dropped.
    poke: Option<Poke>,
}

/// Why what is in force is not what the files hold.
#[derive(Debug, Clone)]
struct Alarm {
    since: SystemTime,
    code: &'static str,
    text: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Identities {
    /// Takes what a configuration says, and reads the files at once. What they hold may be wrong: that is an alarm, and
    /// the last good identity stays.
    ///
    /// # Errors
    /// That no thread could be started to wait for the files.
    pub fn configure(self: &Arc<Self>, identity: &Identity) -> io::Result<()> {
        let files = Files::of(identity);
        let mut state = lock(&self.state);
        if state.files == files && files.is_none() {
            return Ok(());
        }
        if files.is_none() {
            let State { taken, refused, poke, .. } = std::mem::take(&mut *state);
            *state = State { taken, refused, poke, ..State::default() };
            self.current.store(None);
            self.renew_dials(None);
            return Ok(());
        }
        state.files = files;
        self.read(&mut state, true);
        self.watch(&mut state)
    }

    /// Has a thread wait for the files, which may be others than before.
    fn watch(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if let Some(poke) = &state.poke {
            poke.ask();
            return Ok(());
        }
        let (poke, touch) = Touch::new();
        let this = Arc::downgrade(self);
        std::thread::Builder::new().name("identity-watch".to_owned()).spawn(move || follow(&this, touch))?;
        state.poke = Some(poke);
        Ok(())
    }

    /// What new connections of clients use.
    #[must_use]
    pub fn current(&self) -> Option<Arc<InForce>> {
        self.current.load_full()
    }

    /// How a cluster's endpoints are reached; nothing where that is plain text.
    #[must_use]
    pub fn dial(self: &Arc<Self>, tls: &ClusterTls, protocol: Protocol) -> Option<Arc<Dial>> {
        if *tls == ClusterTls::default() {
            return None;
        }
        let mut dials = lock(&self.dials);
        dials.retain(|dial| dial.strong_count() > 0);
        if let Some(known) = dials.iter().filter_map(Weak::upgrade).find(|dial| dial.is_for(tls, protocol)) {
            return Some(known);
        }
        let dial = Arc::new(Dial::new(self.serials.fetch_add(1, Relaxed) + 1, tls.clone(), protocol));
        dial.renew(self.current().as_deref().map(|c| &c.material), self.epoch.load(Relaxed));
        dials.push(Arc::downgrade(&dial));
        drop(dials);
        if tls.authorities.is_some()
            && let Err(error) = self.watch(&mut lock(&self.state))
        {
            tracing::error!(%error, "files of authorities are not watched");
        }
        Some(dial)
    }

    /// Reads the files. `now_or_never` leaves no time for the rest of a replacement.
    fn read(&self, state: &mut State, now_or_never: bool) {
        let Some(files) = state.files.clone() else { return };
        state.marks = files.paths().map(mark_of).to_vec();
        let loaded = Material::load(&files).and_then(|material| {
            let server = server_config(&material)
                .map_err(|why| Refused::Unusable { path: files.certificate.clone(), why: why.to_string() })?;
            Ok(InForce { material, server })
        });
        match loaded {
            Ok(in_force) => {
                state.doubt = None;
                self.install(state, in_force);
            }
            Err(refused) => {
                let since = *state.doubt.get_or_insert_with(Instant::now);
                if now_or_never || since.elapsed() >= GRACE {
                    self.alarm(state, refused.code(), refused.to_string());
                }
            }
        }
    }

    fn install(&self, state: &mut State, in_force: InForce) {
        if state.alarm.take().is_some() {
            tracing::info!("the identity's files are right again");
        }
        if self.current().is_some_and(|current| current.material.digest == in_force.material.digest) {
            return;
        }
        let (id, until) = (in_force.material.id.clone(), rfc3339(in_force.material.expires));
        let in_force = Arc::new(in_force);
        self.current.store(Some(in_force.clone()));
        self.renew_dials(Some(&in_force.material));
        state.loaded_at = Some(SystemTime::now());
        state.taken += 1;
        tracing::info!(%id, until, "an identity is in force");
    }

    fn renew_dials(&self, material: Option<&Material>) {
        let dials = lock(&self.dials);
        let epoch = self.epoch.fetch_add(1, Relaxed) + 1;
        for dial in dials.iter().filter_map(Weak::upgrade).filter(|dial| dial.is_in_mesh()) {
            dial.renew(material, epoch);
        }
    }

    /// Raises an alarm, once for each reason.
    fn alarm(&self, state: &mut State, code: &'static str, text: String) {
        if state.alarm.as_ref().is_some_and(|alarm| alarm.text == text) {
            return;
        }
        let kept = if self.current().is_some() { "the last good one stays" } else { "there is none yet" };
        tracing::error!(reason = code, "the identity's files are refused, {kept}: {text}");
        state.refused += 1;
        state.alarm = Some(Alarm { since: SystemTime::now(), code, text });
    }

    /// Looks at all files again, if there is a reason to.
    fn look(&self, woken: Woken) {
        self.look_at_identity(woken);
        for dial in self.dials() {
            dial.refresh(|| self.epoch.fetch_add(1, Relaxed) + 1);
        }
    }

    fn dials(&self) -> Vec<Arc<Dial>> {
        lock(&self.dials).iter().filter_map(Weak::upgrade).collect()
    }

    fn look_at_identity(&self, woken: Woken) {
        let mut state = lock(&self.state);
        let Some(files) = state.files.clone() else { return };
        let marks = files.paths().map(mark_of).to_vec();
        if woken != Woken::Perhaps || marks != state.marks || state.doubt.is_some() {
            self.read(&mut state, woken == Woken::Asked);
        }
        if let Some(current) = self.current()
            && state.alarm.is_none()
            && current.material.expires <= SystemTime::now()
        {
            let (path, at) = (files.certificate, current.material.expires);
            let expired = Refused::Expired { path, at };
            self.alarm(&mut state, expired.code(), expired.to_string());
        }
    }

    /// Why TLS cannot be spoken, where it should be.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let state = lock(&self.state);
        let missing = state.files.is_some() && self.current().is_none();
        missing
            .then(|| state.alarm.as_ref().map_or_else(|| "there is no identity".to_owned(), |alarm| alarm.text.clone()))
    }

    /// What is shown to operators: ids, times and paths; null where there is no identity to be had.
    #[must_use]
    pub fn status(&self) -> Json {
        let state = lock(&self.state);
        let Some(files) = &state.files else { return Json::Null };
        let current = self.current();
        let material = current.as_ref().map(|c| &c.material);
        json!({
            "id": material.map(|m| m.id.as_str()),
            "trust_domain": material.map(|m| m.domain.to_string()),
            "expires_at": material.map(|m| rfc3339(m.expires)),
            "bundle_expires_at": material.map(|m| rfc3339(m.bundle_expires)),
            "loaded_at": state.loaded_at.map(rfc3339),
            "files": { "certificate": files.certificate, "key": files.key, "bundle": files.bundle },
            "alarm": state.alarm.as_ref().map(|a| json!({ "since": rfc3339(a.since), "reason": a.code, "text": a.text })),
        })
    }

    /// The metrics; none where there is no identity to be had and no TLS was spoken.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let handshakes = self.handshakes.family();
        let state = lock(&self.state);
        if state.files.is_none() {
            return if handshakes.samples.is_empty() { Vec::new() } else { vec![handshakes] };
        }
        let now = SystemTime::now();
        let left = |until: SystemTime| match until.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(gone) => -gone.duration().as_secs_f64(),
        };
        let mut expiry = Family::new(
            "identity_expiry",
            Kind::Gauge,
            Measure::Seconds,
            "Time until the node's certificate, and until the first authority of its bundle expires; negative afterwards.",
        );
        if let Some(current) = self.current() {
            for (name, until) in
                [("certificate", current.material.expires), ("bundle", current.material.bundle_expires)]
            {
                expiry.samples.push((vec![("of", name.to_owned())], Value::Number(left(until))));
            }
        }
        let outcome = |name: &str| vec![("outcome", name.to_owned())];
        let help = "Times that the identity's files were read and held something new, by what became of it.";
        let reloads = Family::new("identity_reloads", Kind::Counter, Measure::Number, help)
            .with(outcome("taken"), Value::Count(state.taken))
            .with(outcome("refused"), Value::Count(state.refused));
        let help = "1 while the identity's files are refused or its certificate has expired, 0 otherwise.";
        let alarm =
            Family::new("identity_alarm", Kind::Gauge, Measure::Number, help).count(u64::from(state.alarm.is_some()));
        vec![expiry, reloads, alarm, handshakes]
    }
}

/// The thread that waits for the files.
fn follow(identities: &Weak<Identities>, mut touch: Touch) {
    let mut woken = Woken::Perhaps;
    while woken != Woken::Stop {
        let Some(identities) = identities.upgrade() else { return };
        let (files, dials) = (lock(&identities.state).files.clone(), identities.dials());
        let authorities = dials.iter().filter_map(|dial| dial.authorities());
        touch.follow(files.iter().flat_map(Files::paths).chain(authorities));
        identities.look(woken);
        // Dropped before the wait: whoever else holds them may be the last, and ends this thread.
        drop((identities, dials));
        woken = touch.wait();
    }
}

/// Settings for clients' connections.
fn server_config(material: &Material) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
    let verifier = MeshVerifier::new(material.roots.clone(), material.domain.clone(), None)?;
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(material.key.clone())));
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

impl InForce {
    /// Who this node is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.material.id
    }
}
