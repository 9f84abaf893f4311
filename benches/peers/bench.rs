//! The bench: where everything stands, how it is started, and how a load is run against it.
//!
//! Core 0 belongs to the proxy that is measured, core 1 to the upstreams and the load. Every proxy has ports of its
//! own, listens on them with one process for all three cases, and runs only while it is measured.

use crate::Fallible;
use crate::load::Report;
use crate::process::{self, Running, on_core};
use crate::upstream::MESSAGE;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the proxy runs, and where everything else does.
pub const PROXY_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;

const UPSTREAMS: [u16; 4] = [20001, 20002, 20003, 20004];
const FIRST_PORT: u16 = 21000;
/// Requests in flight where a proxy is to be busy.
pub const CONNECTIONS: usize = 64;

/// What is spoken on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Case {
    /// HTTP/1.1 on both sides.
    #[serde(rename = "h1")]
    Http1,
    /// HTTP/2 without TLS to the proxy, HTTP/1.1 behind it.
    #[serde(rename = "h2c-h1")]
    Http2ToHttp1,
    /// HTTP/2 without TLS on both sides, calls as gRPC makes them.
    #[serde(rename = "h2c-h2c")]
    Http2,
}

impl Case {
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2ToHttp1, Self::Http2];

    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2ToHttp1 => "h2c-h1",
            Self::Http2 => "h2c-h2c",
        }
    }
}

/// A proxy in one configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxy {
    /// As the results name it.
    pub name: &'static str,
    kind: Kind,
    template: &'static str,
    index: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Haproxy,
    Envoy,
    Floor,
    Pathloom { engine: &'static str },
}

macro_rules! template {
    ($file:literal) => {
        include_str!(concat!("proxies/", $file))
    };
}

const PROXIES: [Proxy; 11] = [
    Proxy { name: "floor", kind: Kind::Floor, template: "", index: 0 },
    Proxy { name: "haproxy", kind: Kind::Haproxy, template: template!("haproxy-stock.cfg"), index: 1 },
    Proxy { name: "haproxy-tuned", kind: Kind::Haproxy, template: template!("haproxy-tuned.cfg"), index: 2 },
    Proxy { name: "nginx", kind: Kind::Nginx, template: template!("nginx-stock.conf"), index: 3 },
    Proxy { name: "nginx-tuned", kind: Kind::Nginx, template: template!("nginx-tuned.conf"), index: 4 },
    Proxy { name: "envoy", kind: Kind::Envoy, template: template!("envoy-stock.yaml"), index: 5 },
    Proxy { name: "envoy-tuned", kind: Kind::Envoy, template: template!("envoy-tuned.yaml"), index: 6 },
    Proxy {
        name: "pathloom",
        kind: Kind::Pathloom { engine: "onnxruntime" },
        template: template!("pathloom.yaml"),
        index: 7,
    },
    Proxy {
        name: "pathloom-embedded",
        kind: Kind::Pathloom { engine: "embedded" },
        template: template!("pathloom.yaml"),
        index: 8,
    },
    Proxy {
        name: TEN_TICKS,
        kind: Kind::Pathloom { engine: "onnxruntime" },
        template: template!("pathloom.yaml"),
        index: 9,
    },
    Proxy {
        name: WITHOUT_MODEL,
        kind: Kind::Pathloom { engine: NO_MODEL },
        template: template!("pathloom.yaml"),
        index: 10,
    },
];

/// Pathloom with ten ticks a second, and without a model: what does the model cost those who wait?
pub const TEN_TICKS: &str = "pathloom-10-ticks";
pub const WITHOUT_MODEL: &str = "pathloom-no-model";
/// In the place of an engine's name: there is no model, and each request goes by what was measured.
const NO_MODEL: &str = "none";

/// What of a proxy is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    All,
    /// It differs from another one only in what it holds in memory.
    Memory,
    /// It differs from another one only in what else it does while requests wait.
    Time,
}

impl Proxy {
    /// All of them, the one without features first.
    pub fn all() -> &'static [Self] {
        &PROXIES
    }

    pub fn is_envoy(self) -> bool {
        self.kind == Kind::Envoy
    }

    pub fn is_floor(self) -> bool {
        self.kind == Kind::Floor
    }

    pub fn speaks(self, case: Case) -> bool {
        case == Case::Http1 || !(self.is_floor() || self.measured() == Measured::Time)
    }

    /// Whether it is somebody else's.
    pub fn is_rival(self) -> bool {
        matches!(self.kind, Kind::Nginx | Kind::Haproxy | Kind::Envoy)
    }

    pub fn measured(self) -> Measured {
        match self.name {
            "pathloom-embedded" => Measured::Memory,
            TEN_TICKS | WITHOUT_MODEL => Measured::Time,
            _ => Measured::All,
        }
    }

    /// How many connections its configuration allows, to clients and endpoints together, where that is a line of it.
    pub fn connections_allowed(self) -> Option<usize> {
        let line = self.template.lines().find_map(|line| line.trim().strip_prefix("worker_connections "))?;
        line.split(';').next()?.trim().parse().ok()
    }

    fn port(self, offset: u16) -> u16 {
        FIRST_PORT + 10 * self.index + offset
    }

    pub fn address(self, case: Case) -> SocketAddr {
        let offset = match (self.kind, case) {
            (Kind::Pathloom { .. }, _) | (_, Case::Http1) => 0,
            (_, Case::Http2ToHttp1) => 1,
            (_, Case::Http2) => 2,
        };
        SocketAddr::from(([127, 0, 0, 1], self.port(offset)))
    }

    fn admin(self) -> u16 {
        self.port(3)
    }
}

/// Who a load goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Straight to the upstreams.
    Direct,
    Proxy(Proxy),
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy(proxy) => proxy.name,
        }
    }
}

/// A body's name and length.
pub type Body = (&'static str, usize);
pub const SMALL_BODY: Body = ("1k", 1024);

/// A load to run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub case: Case,
    pub connections: usize,
    /// Requests in flight on each connection.
    pub streams: usize,
    pub body: Body,
    pub amount: Amount,
    /// Requests a second; none is as fast as answers come.
    pub rate: Option<f64>,
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    Requests(u64),
    /// Seconds of warm-up, and seconds that count.
    Seconds(f64, f64),
}

impl Load {
    pub fn new(case: Case, connections: usize, amount: Amount) -> Self {
        Self { case, connections, streams: 1, body: SMALL_BODY, amount, rate: None }
    }

    pub fn rate(self, rate: f64) -> Self {
        Self { rate: Some(rate), ..self }
    }

    pub fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }
}

/// What must be there.
#[derive(Debug, Clone)]
pub struct Programs {
    pub pathloom: PathBuf,
    pub onnxruntime: PathBuf,
    pub envoy: PathBuf,
    pub nginx: PathBuf,
    pub haproxy: PathBuf,
}

pub struct Bench {
    pub programs: Programs,
    pub this: PathBuf,
    /// Where configurations, logs and profiles go.
    pub work: PathBuf,
    upstreams: Running,
}

impl Bench {
    /// Starts the upstreams.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start(programs: Programs, work: &Path) -> Fallible<Self> {
        process::raise_open_files();
        std::fs::create_dir_all(work)?;
        let (this, work) = (std::env::current_exe()?, std::path::absolute(work)?);
        let mut command = on_core(LOAD_CORE, &this.to_string_lossy());
        command.arg("upstream");
        for port in UPSTREAMS {
            command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        }
        let mut upstreams = Running::start(command, &work.join("upstream.log"))?;
        upstreams.ready(&UPSTREAMS)?;
        Ok(Self { programs, this, work, upstreams })
    }

    /// What the comparison has taken of the processors so far, in ticks; of what runs, the upstreams only.
    pub fn own_ticks(&self) -> u64 {
        process::own_ticks(&self.upstreams.family())
    }

    /// Starts a proxy below `wrapper` (a profiler with its options, or nothing) and waits until it serves.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub fn proxy(&self, proxy: Proxy, wrapper: &[String]) -> Fallible<Running> {
        let folder = self.work.join(proxy.name);
        std::fs::create_dir_all(&folder)?;
        let mut words = wrapper.to_vec();
        words.extend(self.words(proxy, &folder, !wrapper.is_empty())?);
        let (program, arguments) = words.split_first().ok_or("no program")?;
        let mut command = on_core(PROXY_CORE, program);
        command.args(arguments).env("ORT_DYLIB_PATH", &self.programs.onnxruntime);
        let mut running = Running::start(command, &folder.join("log"))?;
        let mut ports: Vec<u16> =
            Case::ALL.iter().filter(|case| proxy.speaks(**case)).map(|c| proxy.address(*c).port()).collect();
        ports.dedup();
        running.ready(&ports).map_err(|error| format!("{} does not serve: {error}", proxy.name))?;
        if let Kind::Pathloom { .. } = proxy.kind {
            self.await_model(proxy)?;
        }
        // A port is open before a worker is there: only an answer says that one is.
        for case in Case::ALL.into_iter().filter(|case| proxy.speaks(*case)) {
            self.exactly(proxy, &Load::new(case, 1, Amount::Requests(1)))?;
        }
        Ok(running)
    }

    /// Waits until Pathloom's model steers, on the engine that was asked for.
    fn await_model(&self, proxy: Proxy) -> Fallible<()> {
        let begun = std::time::Instant::now();
        loop {
            let steering = self.steering(proxy);
            match steering {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed().as_secs() > 120 => return Err(error),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(200)),
            }
        }
    }

    /// Whether Pathloom's weights are the model's now; other proxies have nothing to be asked.
    ///
    /// # Errors
    /// When they are not, with what they are.
    pub fn steering(&self, proxy: Proxy) -> Fallible<()> {
        let Kind::Pathloom { engine } = proxy.kind else { return Ok(()) };
        if engine == NO_MODEL {
            return Ok(());
        }
        let routing: serde_json::Value = serde_json::from_str(&process::get(proxy.admin(), "/routing")?)?;
        let text = |pointer: &str| routing.pointer(pointer).and_then(|v| v.as_str()).unwrap_or("nothing").to_owned();
        let (rung, used) = (text("/generation/rung"), text("/generation/model/engine"));
        if rung == "model" && used.starts_with(engine) {
            return Ok(());
        }
        let why = text("/generation/rung_reason");
        Err(format!("the weights come from {rung} ({used}; {why}), not from the model on {engine}").into())
    }

    /// Writes a proxy's configuration and says how it is started.
    fn words(&self, proxy: Proxy, folder: &Path, is_slow: bool) -> Fallible<Vec<String>> {
        let servers = |line: &dyn Fn(usize, u16) -> String| {
            UPSTREAMS.iter().enumerate().map(|(i, port)| line(i, *port)).collect::<Vec<_>>().join("\n")
        };
        let mut text = proxy.template.to_owned();
        let mut fill = |name: &str, value: &str| text = text.replace(name, value);
        for (name, case) in [("@H1@", Case::Http1), ("@H2C_H1@", Case::Http2ToHttp1), ("@H2C_H2C@", Case::Http2)] {
            fill(name, &proxy.address(case).port().to_string());
        }
        fill("@USER@", if is_slow { "root" } else { "www-data" });
        fill("@ADMIN@", &proxy.admin().to_string());
        fill("@DIR@", &folder.to_string_lossy());
        fill("@SERVERS@", &servers(&|_, port| format!("\t\tserver 127.0.0.1:{port};")));
        fill("@SERVERS_H1@", &servers(&|i, port| format!("\tserver s{i} 127.0.0.1:{port}")));
        fill("@SERVERS_H2@", &servers(&|i, port| format!("\tserver s{i} 127.0.0.1:{port} proto h2")));
        let is_envoy = proxy.is_envoy();
        fill(
            "@ENDPOINTS@",
            &servers(&|_, port| match is_envoy {
                true => format!(
                    "      {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }},"
                ),
                false => format!("      - address: 127.0.0.1:{port}"),
            }),
        );
        if let Kind::Pathloom { engine } = proxy.kind {
            let (engine, file) = if engine == NO_MODEL { ("auto", "none.onnx") } else { (engine, "builtin") };
            fill("@ENGINE@", engine);
            fill("@MODEL@", file);
            let (tick, deadline) = if proxy.name == TEN_TICKS { ("100ms", "100ms") } else { ("1s", "500ms") };
            fill("@TICK@", tick);
            fill("@DEADLINE@", if is_slow { "20s" } else { deadline });
        }
        let file = folder.join(match proxy.kind {
            Kind::Envoy | Kind::Pathloom { .. } => "config.yaml",
            Kind::Nginx | Kind::Haproxy | Kind::Floor => "config",
        });
        std::fs::write(&file, text)?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let programs = &self.programs;
        let mut words = match proxy.kind {
            Kind::Nginx => {
                vec![path(&programs.nginx), "-e".into(), path(&folder.join("error.log")), "-c".into(), path(&file)]
            }
            Kind::Haproxy => vec![path(&programs.haproxy), "-db".into(), "-f".into(), path(&file)],
            Kind::Envoy => {
                let mut words = vec![path(&programs.envoy), "-c".into(), path(&file)];
                words.extend(["--concurrency", "1", "--log-level", "warn"].map(str::to_owned));
                // Only one Envoy runs at a time, but hot restart would look for another.
                words.push("--disable-hot-restart".into());
                words
            }
            Kind::Floor => {
                vec![path(&self.this), "floor".into(), "--listen".into(), proxy.address(Case::Http1).to_string()]
            }
            Kind::Pathloom { .. } => vec![path(&programs.pathloom), "run".into(), "--config".into(), path(&file)],
        };
        if proxy.kind == Kind::Floor {
            words.extend(UPSTREAMS.iter().flat_map(|port| ["--to".to_owned(), format!("127.0.0.1:{port}")]));
        }
        Ok(words)
    }

    /// The command that runs a load.
    pub fn load_command(&self, target: Target, load: &Load) -> Command {
        let mut command = on_core(LOAD_CORE, &self.this.to_string_lossy());
        command.arg("load");
        match target {
            Target::Direct => {
                for port in UPSTREAMS {
                    command.arg("--target").arg(format!("127.0.0.1:{port}"));
                }
            }
            Target::Proxy(proxy) => {
                command.arg("--target").arg(proxy.address(load.case).to_string());
            }
        }
        command.args(["--connections", &load.connections.to_string(), "--streams", &load.streams.to_string()]);
        let (mut path, mut length, mut host) = (format!("/{}", load.body.0), load.body.1, "catalog.shop");
        if load.case == Case::Http2 {
            (path, length, host) = ("/shop.Catalog/Find".into(), MESSAGE + 5, "rpc.shop");
            command.arg("--grpc");
        }
        // Straight to the upstreams, HTTP/2 always means gRPC-like calls: there is no other answer over HTTP/2.
        if load.case == Case::Http2 || (load.case == Case::Http2ToHttp1 && target != Target::Direct) {
            command.arg("--http2");
        }
        command.args(["--host", host, "--path", &path, "--body", &length.to_string()]);
        match load.amount {
            Amount::Requests(count) => command.args(["--requests", &count.to_string()]),
            Amount::Seconds(warm_up, seconds) => {
                command.args(["--warm-up", &warm_up.to_string(), "--seconds", &seconds.to_string()])
            }
        };
        if let Some(rate) = load.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a load to its end.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn load(&self, target: Target, load: &Load) -> Fallible<Report> {
        let output = self.load_command(target, load).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("the load on {} ended: {}", target.name(), output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Runs a load that is not measured, and says so when not every request was answered.
    ///
    /// # Errors
    /// When a request failed.
    pub fn exactly(&self, proxy: Proxy, load: &Load) -> Fallible<()> {
        let report = self.load(Target::Proxy(proxy), load)?;
        match report.failures.is_empty() {
            true => Ok(()),
            false => Err(format!("{} of {}: failures {:?}", load.case.name(), proxy.name, report.failures).into()),
        }
    }
}
