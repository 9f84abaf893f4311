//! What the sidecars' files say, and replacing the near one's under load.

use super::{Mesh, SIDECARS};
use crate::script::{FAR, PLACES};
use std::time::Duration;

/// What the near sidecar's configuration varies in.
#[derive(Debug, Clone)]
pub struct Near {
    /// How `web` chooses.
    pub policy: &'static str,
    /// How long a request may take, in milliseconds.
    pub request_ms: u64,
    /// A place whose endpoints it does not know of.
    pub without: Option<usize>,
    /// The model's file, among `models`.
    pub model: &'static str,
}

impl Default for Near {
    fn default() -> Self {
        Self { policy: "model", request_ms: 3_000, without: None, model: "model.onnx" }
    }
}

impl Mesh {
    /// A sidecar's configuration.
    pub(super) fn configuration(&self, sidecar: usize) -> String {
        let name = SIDECARS[sidecar];
        let file = |file: &str| self.file(file).display().to_string();
        let near = self.near.lock().unwrap().clone();
        let endpoints = |service: usize| {
            let all = (0..PLACES.len()).filter(|place| sidecar > 0 || near.without != Some(*place));
            pathloom_integration::fleet::list(all.map(|place| self.endpoint(service, place)))
        };
        let common = format!(
            "node: {{ name: {name} }}\nadmin: {{ listen: '{}' }}\n\
             process: {{ handover: '{}', drain: 20s, threads: 2 }}\n\
             identity: {{ certificate: '{}', key: '{}', bundle: '{}' }}\n\
             telemetry: {{ access_log: {{ to: stdout, format: json }} }}\n",
            self.admin(sidecar),
            file(&format!("{name}.sock")),
            file(&format!("{name}/cert.pem")),
            file(&format!("{name}/key.pem")),
            file(&format!("{name}/bundle.pem")),
        );
        let timeouts = format!(
            "timeouts: {{ connect: 500ms, response_headers: 2s, idle: 2s, request: {}ms, pooled: 5s }}, \
             retries: {{ per_try: 300ms }}, health: {{ check: http, path: /healthz, every: 1s, timeout: 500ms, fall: 2 }}",
            near.request_ms
        );
        if sidecar > 0 {
            return format!(
                "{common}model: {{ engine: auto }}\n\
                 workloads: {{ peers: {{ listen: '{}', tls: strict }} }}\nroutes: [{{ cluster: stock }}]\n\
                 clusters: {{ stock: {{ endpoints: {}, {} }} }}\n",
                self.far(sidecar - 1),
                endpoints(2),
                timeouts
                    .replace(&format!("request: {}ms", near.request_ms), "request: 2s")
                    .replace("per_try: 300ms", "per_try: 200ms"),
            );
        }
        let shop = pathloom_integration::fleet::list((0..FAR.len()).map(|far| self.far(far)));
        let unchecked = timeouts.split(", health:").next().unwrap_or_default();
        format!(
            "{common}model: {{ file: '{}', deadline: 200ms }}\n\
             workloads: {{ shopper: {{ listen: '{}' }} }}\n\
             routes:\n  - {{ match: {{ host: web.mesh }}, cluster: web }}\n  - {{ match: {{ host: feed.mesh }}, cluster: feed }}\n\
             \x20 - {{ match: {{ host: shop.mesh }}, cluster: shop }}\n\
             clusters:\n  web: {{ policy: {}, endpoints: {}, {timeouts} }}\n\
             \x20 feed: {{ protocol: http2, endpoints: {}, {timeouts} }}\n\
             \x20 shop: {{ protocol: http2, tls: mesh, endpoints: {shop}, {unchecked} }}\n",
            file(near.model),
            self.front(),
            near.policy,
            endpoints(0),
            endpoints(1),
        )
    }

    /// Puts a sidecar's configuration in the place of the one before.
    pub(super) fn write(&self, sidecar: usize, text: &str) {
        let (next, file) = (self.file("next.yaml"), self.file(&format!("{}.yaml", SIDECARS[sidecar])));
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(next, file).expect("the file is replaced");
    }

    /// Replaces the near sidecar's configuration, and waits until it took effect.
    pub async fn reload(&self, change: impl FnOnce(&mut Near)) {
        change(&mut self.near.lock().unwrap());
        let before = self.reloads().await;
        self.write(0, &self.configuration(0));
        self.reloaded(before.0 + 1, before.1).await;
    }

    /// Replaces the near sidecar's configuration by what is none.
    pub async fn reload_wrongly(&self, text: &str) {
        let before = self.reloads().await;
        self.write(0, text);
        self.reloaded(before.0, before.1 + 1).await;
    }

    async fn reloads(&self) -> (u64, u64) {
        let config = self.json(0, "/config?format=json").await;
        let count = |key: &str| config["reloads"][key].as_u64().unwrap_or(0);
        (count("ok"), count("failed"))
    }

    async fn reloaded(&self, ok: u64, failed: u64) {
        let mut last = (0, 0);
        for _ in 0..600 {
            last = self.reloads().await;
            if last.0 >= ok && last.1 >= failed {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.wrong(format!(
            "{ok} configurations should have taken effect and {failed} been refused, and it was {last:?}"
        ));
    }
}
