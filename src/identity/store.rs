//! What is in force, its replacement while connections come and go, and the alarm when it cannot be replaced.
//!
//! A thread of its own waits for the files to change and reads them. Files of one identity are rarely replaced at once,
//! so what does not fit together is looked at again for [`GRACE`] before it counts as wrong. What an agent gives comes
//! from outside ([`Identities::offer`]), as does that none can be had from it ([`Identities::none_from`]). Until there was a
//! first good identity, TLS listeners turn clients away and the process says that it is not ready; afterwards the last good
//! one stays, whatever the files hold or the agent says. An expired one stays, too: peers refuse it, and say so.

use super::dial::{Dial, HTTP1, HTTP2};
use super::material::{Material, Refused};
use super::outcome::Handshakes;
use super::source::{Agent, Files, Offer, Source};
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
    source: Option<Source>,
    /// Whether the agent, where there is one, was heard of last as one that answers.
    connected: bool,
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
    /// the last good identity stays. It also stays until another source has a good one.
    ///
    /// # Errors
    /// That no thread could be started to wait for the files.
    pub fn configure(self: &Arc<Self>, identity: &Identity) -> io::Result<()> {
        let source = Source::of(identity);
        let mut state = lock(&self.state);
        if let Some(source) = &source {
            self.believe_only(source);
        }
        match &source {
            None if state.source.is_none() => return Ok(()),
            None => {
                let State { taken, refused, poke, .. } = std::mem::take(&mut *state);
                *state = State { taken, refused, poke, ..State::default() };
                self.current.store(None);
                self.renew_dials(None);
                return Ok(());
            }
            Some(Source::Files(_)) => {
                state.source = source;
                self.read(&mut state, true);
            }
            Some(Source::Agent(_)) if state.source == source => {}
            // What was wrong with the former one says nothing of this one.
            Some(Source::Agent(_)) => {
                (state.source, state.connected, state.alarm, state.doubt) = (source, false, None, None);
            }
        }
        self.watch(&mut state)
    }

    /// Stops believing other trust domains that the configuration names no longer, whatever comes of its source.
    fn believe_only(&self, source: &Source) {
        let named = source.agent().map_or(&[][..], |agent| &agent.federated);
        let Some(current) = self.current() else { return };
        if current.material.federated().all(|domain| named.contains(domain)) {
            return;
        }
        let believed = current.material.federated.iter().filter(|anchors| named.contains(anchors.domain()));
        // Without the digest of any source, the next answer counts as new.
        let (federated, digest) = (believed.cloned().collect(), [0; 32]);
        if let Ok(in_force) = InForce::new(Material { federated, digest, ..current.material.clone() }, source) {
            let in_force = Arc::new(in_force);
            self.current.store(Some(in_force.clone()));
            self.renew_dials(Some(&in_force.material));
        }
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
        let source = state.source.clone();
        let Some(source @ Source::Files(files)) = &source else { return };
        state.marks = files.paths().map(mark_of).to_vec();
        match Material::load(files).and_then(|material| InForce::new(material, source)) {
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

    /// Takes what an agent gave, if it is good; if not, that is an alarm, and the last good identity stays. An agent that
    /// is not the configured one (any more) changes nothing.
    pub fn offer(&self, agent: &Agent, offer: &Offer) {
        let source = Source::Agent(agent.clone());
        let made = Material::offered(agent, offer).and_then(|material| InForce::new(material, &source));
        let mut state = lock(&self.state);
        if state.source.as_ref() != Some(&source) {
            return;
        }
        state.connected = true;
        match made {
            Ok(in_force) => self.install(&mut state, in_force),
            Err(refused) => self.alarm(&mut state, refused.code(), refused.to_string()),
        }
    }

    /// Nothing can be had from an agent, for a reason with its stable word. The last good identity stays.
    pub fn none_from(&self, agent: &Agent, code: &'static str, why: String) {
        let source = Source::Agent(agent.clone());
        let mut state = lock(&self.state);
        if state.source.as_ref() != Some(&source) {
            return;
        }
        state.connected = false;
        match self.expired(&source) {
            Some(expired) => self.raise(&mut state, expired.code(), format!("{expired}; no other comes: {why}")),
            None => self.raise(&mut state, code, why),
        };
    }

    fn install(&self, state: &mut State, in_force: InForce) {
        if state.alarm.take().is_some() {
            tracing::info!("the identity is well again");
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

    /// Raises an alarm because of what was found, once for each reason.
    fn alarm(&self, state: &mut State, code: &'static str, text: String) {
        if self.raise(state, code, text) {
            state.refused += 1;
        }
    }

    /// Raises an alarm. Gives whether it is another one than before.
    fn raise(&self, state: &mut State, code: &'static str, text: String) -> bool {
        match &mut state.alarm {
            Some(alarm) if alarm.text == text => return false,
            // Why an agent is away may be put in other words with each attempt.
            Some(alarm)
                if alarm.code == code && !state.connected && state.source.iter().any(|s| s.agent().is_some()) =>
            {
                alarm.text = text;
                return false;
            }
            _ => {}
        }
        let kept = if self.current().is_some() { "the last good one stays" } else { "there is none yet" };
        tracing::error!(reason = code, "the identity is not as it should be, {kept}: {text}");
        state.alarm = Some(Alarm { since: SystemTime::now(), code, text });
        true
    }

    /// That the identity in force is over, if it is.
    fn expired(&self, source: &Source) -> Option<Refused> {
        let at = self.current()?.material.expires;
        (at <= SystemTime::now()).then(|| Refused::Expired { place: source.certificate(), at })
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
        let Some(source) = state.source.clone() else { return };
        if let Some(files) = source.files() {
            let marks = files.paths().map(mark_of).to_vec();
            if woken != Woken::Perhaps || marks != state.marks || state.doubt.is_some() {
                self.read(&mut state, woken == Woken::Asked);
            }
        }
        if state.alarm.is_none()
            && let Some(expired) = self.expired(&source)
        {
            self.alarm(&mut state, expired.code(), expired.to_string());
        }
    }

    /// Why TLS cannot be spoken, where it should be.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        let state = lock(&self.state);
        let missing = state.source.is_some() && self.current().is_none();
        missing
            .then(|| state.alarm.as_ref().map_or_else(|| "there is no identity".to_owned(), |alarm| alarm.text.clone()))
    }

    /// What is shown to operators: ids, times and paths; null where there is no identity to be had.
    #[must_use]
    pub fn status(&self) -> Json {
        let state = lock(&self.state);
        let Some(source) = &state.source else { return Json::Null };
        let files =
            |files: &Files| json!({ "certificate": files.certificate, "key": files.key, "bundle": files.bundle });
        let agent =
            |agent: &Agent| json!({ "socket": agent.to_string(), "hint": agent.hint, "connected": state.connected });
        let current = self.current();
        let material = current.as_ref().map(|c| &c.material);
        json!({
            "id": material.map(|m| m.id.as_str()),
            "trust_domain": material.map(|m| m.domain.to_string()),
            "expires_at": material.map(|m| rfc3339(m.expires)),
            "bundle_expires_at": material.map(|m| rfc3339(m.bundle_expires)),
            "loaded_at": state.loaded_at.map(rfc3339),
            "files": source.files().map(files),
            "workload_api": source.agent().map(agent),
            "federated": material.map(|m| m.federated().map(ToString::to_string).collect::<Vec<_>>()),
            "alarm": state.alarm.as_ref().map(|a| json!({ "since": rfc3339(a.since), "reason": a.code, "text": a.text })),
        })
    }

    /// The metrics; none where there is no identity to be had and no TLS was spoken.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let handshakes = self.handshakes.family();
        let state = lock(&self.state);
        if state.source.is_none() {
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
        let help = "Times that the identity's files or its agent had something new, by what became of it.";
        let reloads = Family::new("identity_reloads", Kind::Counter, Measure::Number, help)
            .with(outcome("taken"), Value::Count(state.taken))
            .with(outcome("refused"), Value::Count(state.refused));
        let help =
            "1 while what the identity comes from is refused or away, or its certificate has expired, 0 otherwise.";
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
        let (source, dials) = (lock(&identities.state).source.clone(), identities.dials());
        let authorities = dials.iter().filter_map(|dial| dial.authorities());
        touch.follow(source.iter().filter_map(Source::files).flat_map(Files::paths).chain(authorities));
        identities.look(woken);
        // Dropped before the wait: whoever else holds them may be the last, and ends this thread.
        drop((identities, dials));
        woken = touch.wait();
    }
}

/// Settings for clients' connections.
fn server_config(material: &Material) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
    let verifier = MeshVerifier::new(material.own.clone(), material.federated.clone(), None);
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
    fn new(material: Material, source: &Source) -> Result<Self, Refused> {
        let unusable = |why: String| Refused::Unusable { place: source.certificate(), why };
        let server = server_config(&material).map_err(|why| unusable(why.to_string()))?;
        Ok(Self { material, server })
    }

    /// Who this node is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.material.id
    }
}
