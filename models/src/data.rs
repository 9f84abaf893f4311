//! Samples: what a sidecar would see at a moment, and what it should conclude. Their file, and batches of them.

use crate::ops::Inputs;
use crate::simulator::truth::Trouble;
use crate::tensors::{Candle, inputs};
use crate::variant::Kind;
use crate::{Error, Result};
use pathloom::graph::Features;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::Path;

/// The first bytes of a file of samples.
const MAGIC: &[u8; 8] = b"PLSMPL02";

/// A candidate path and what is true of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Candidates of the same caller and service: those that a pick chooses among.
    pub group: u32,
    /// What makes it slower than it was.
    pub trouble: Trouble,
    /// Its intrinsic latency in seconds; NaN where it has none (crashed).
    pub intrinsic_s: f32,
    /// The next window's mean latency in seconds; NaN where too little was observed.
    pub mean_s: f32,
    /// The next window's 99th percentile in seconds; likewise.
    pub p99_s: f32,
    /// The next window's jitter in seconds; likewise.
    pub jitter_s: f32,
    /// How many answers the next window's labels stand on.
    pub answers: u32,
    /// The next window's mean latency as it is expected: the mean over other fates of the same window (forks of the
    /// simulation), so that the rest of the error is the sampling's. NaN without forks, and in recordings.
    pub expected_mean_s: f32,
    /// The next window's expected jitter, likewise.
    pub expected_jitter_s: f32,
    /// What the simpler predictors know.
    pub past: Past,
}

/// How many windows of a link the simpler predictors remember.
pub const PAST_WINDOWS: usize = 5;

/// What was seen of a candidate's first link in windows of the predicted length: for predictors that remember windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Past {
    /// The mean latency in seconds of the window that just ended, and of those before; NaN where nothing was seen.
    pub mean_s: [f32; PAST_WINDOWS],
    /// The last window's 99th percentile in seconds.
    pub p99_s: f32,
    /// The last window's jitter in seconds.
    pub jitter_s: f32,
    /// What communication on the link costs, in seconds, without load: `size / bandwidth + overhead`. A fact of the
    /// network that an OSPF-like router is configured with; in a recording the least latency seen.
    pub communication_s: f32,
}

impl Default for Past {
    fn default() -> Self {
        let unknown = f32::NAN;
        Self { mean_s: [unknown; PAST_WINDOWS], p99_s: unknown, jitter_s: unknown, communication_s: unknown }
    }
}

impl Candidate {
    /// A candidate of which nothing is known yet.
    #[must_use]
    pub fn unknown(group: u32) -> Self {
        let unknown = f32::NAN;
        Self {
            group,
            trouble: Trouble::None,
            intrinsic_s: unknown,
            mean_s: unknown,
            p99_s: unknown,
            jitter_s: unknown,
            answers: 0,
            expected_mean_s: unknown,
            expected_jitter_s: unknown,
            past: Past::default(),
        }
    }

    /// Its numbers in the order in which a file holds them.
    fn numbers(&self) -> [f32; Self::NUMBERS] {
        let [a, b, c, d, e] = self.past.mean_s;
        let Past { p99_s, jitter_s, communication_s, .. } = self.past;
        [
            self.intrinsic_s,
            self.mean_s,
            self.p99_s,
            self.jitter_s,
            self.expected_mean_s,
            self.expected_jitter_s,
            a,
            b,
            c,
            d,
            e,
            p99_s,
            jitter_s,
            communication_s,
        ]
    }

    const NUMBERS: usize = 14;
    /// Words of a candidate in a file: group, trouble, answers, numbers.
    const WORDS: usize = 3 + Self::NUMBERS;
}

/// One moment of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The run's seed.
    pub run: u64,
    /// When.
    pub tick: u64,
    /// What is known.
    pub features: Features,
    /// For each candidate path.
    pub candidates: Vec<Candidate>,
    /// For each node, requests a second in the next window; NaN where nothing calls it.
    pub node_load: Vec<f32>,
}

impl Sample {
    /// Appends the sample to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        let f = &self.features;
        for number in [self.run, self.tick, f.node_count() as u64, f.edge_count() as u64, self.candidates.len() as u64]
        {
            to.write_all(&number.to_le_bytes())?;
        }
        let floats = f.nodes.iter().chain(&f.edge_features).chain(&self.node_load);
        let mut bytes: Vec<u8> = floats.flat_map(|v| v.to_le_bytes()).collect();
        let integers = f.edges.iter().chain(&f.path_links).map(|v| *v as u32);
        bytes.extend(integers.flat_map(u32::to_le_bytes));
        for c in &self.candidates {
            let number = Trouble::ALL.iter().position(|t| *t == c.trouble).unwrap_or_default() as u32;
            bytes.extend([c.group, number, c.answers].into_iter().flat_map(u32::to_le_bytes));
            bytes.extend(c.numbers().into_iter().flat_map(f32::to_le_bytes));
        }
        to.write_all(&bytes)
    }

    /// Reads the next sample; none at the end of the file.
    ///
    /// # Errors
    /// When the file breaks off or cannot be read.
    pub fn read(from: &mut impl Read) -> std::io::Result<Option<Self>> {
        let mut first = [0u8; 8];
        match from.read_exact(&mut first) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let run = u64::from_le_bytes(first);
        let mut head = [0u64; 4];
        for number in &mut head {
            from.read_exact(&mut first)?;
            *number = u64::from_le_bytes(first);
        }
        let [tick, n, e, c] = head;
        if n.max(e).max(c) > 10_000_000 {
            return Err(std::io::Error::other("a sample of impossible size"));
        }
        let (n, e, c) = (n as usize, e as usize, c as usize);
        let mut words = |count: usize| -> std::io::Result<Vec<[u8; 4]>> {
            let mut bytes = vec![0u8; count * 4];
            from.read_exact(&mut bytes)?;
            Ok(bytes.as_chunks::<4>().0.to_vec())
        };
        let floats = |words: Vec<[u8; 4]>| words.into_iter().map(f32::from_le_bytes).collect::<Vec<f32>>();
        let integers = |words: Vec<[u8; 4]>| words.into_iter().map(|w| i64::from(u32::from_le_bytes(w))).collect();
        let nodes = floats(words(n * crate::net::FN)?);
        let edge_features = floats(words(e * crate::net::FE)?);
        let node_load = floats(words(n)?);
        let edges = integers(words(2 * e)?);
        let path_links = integers(words(c)?);
        let mut candidates = Vec::with_capacity(c);
        for row in words(Candidate::WORDS * c)?.chunks_exact(Candidate::WORDS) {
            let [group, trouble, answers, rest @ ..] = row else { continue };
            let trouble = Trouble::ALL.get(u32::from_le_bytes(*trouble) as usize).copied().unwrap_or(Trouble::None);
            let label = |i: usize| rest.get(i).map_or(f32::NAN, |b| f32::from_le_bytes(*b));
            candidates.push(Candidate {
                group: u32::from_le_bytes(*group),
                trouble,
                intrinsic_s: label(0),
                mean_s: label(1),
                p99_s: label(2),
                jitter_s: label(3),
                answers: u32::from_le_bytes(*answers),
                expected_mean_s: label(4),
                expected_jitter_s: label(5),
                past: Past {
                    mean_s: std::array::from_fn(|i| label(6 + i)),
                    p99_s: label(11),
                    jitter_s: label(12),
                    communication_s: label(13),
                },
            });
        }
        let path_offsets = (0..=c as i64).collect();
        let features = Features { nodes, edges, edge_features, path_offsets, path_links, shape: 0 };
        Ok(Some(Self { run, tick, features, candidates, node_load }))
    }
}

/// Writes samples to a file; returns its digest (SHA-256, hexadecimal).
///
/// # Errors
/// When the file cannot be written.
pub fn save(samples: &[Sample], path: &Path) -> Result<String> {
    let mut bytes = MAGIC.to_vec();
    for sample in samples {
        sample.write(&mut bytes).map_err(Error::at(path))?;
    }
    crate::cli::write(path, &bytes)?;
    Ok(hexadecimal(&Sha256::digest(&bytes)))
}

/// The digest that a file of these samples would have.
///
/// # Errors
/// Never, but for a sample that cannot be written.
pub fn digest(samples: &[Sample]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(MAGIC);
    let mut bytes = Vec::new();
    for sample in samples {
        bytes.clear();
        sample.write(&mut bytes).map_err(Error::at("memory"))?;
        hash.update(&bytes);
    }
    Ok(hexadecimal(&hash.finalize()))
}

/// Reads a file of samples.
///
/// # Errors
/// When it cannot be read or is no such file.
pub fn load(path: &Path) -> Result<Vec<Sample>> {
    let bytes = std::fs::read(path).map_err(Error::at(path))?;
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        return Err(Error::Format(format!("{} is no file of samples of this version", path.display())));
    };
    let mut samples = Vec::new();
    while let Some(sample) = Sample::read(&mut rest).map_err(Error::at(path))? {
        samples.push(sample);
    }
    Ok(samples)
}

/// The SHA-256 of these bytes, in hexadecimal.
#[must_use]
pub fn hexadecimal_digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Several graphs as one that falls into as many parts.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The network's inputs.
    pub inputs: Inputs<Candle<'a>>,
    /// For each candidate.
    pub candidates: Vec<Candidate>,
    /// For each candidate, its group's number in the batch.
    pub groups: Vec<u32>,
    /// How many groups there are.
    pub group_count: usize,
    /// For each node.
    pub node_load: Vec<f32>,
    /// Whether the nodes are those of the samples.
    pub own_nodes: bool,
}

impl<'a> Batch<'a> {
    /// Merges samples, as a model of this kind may see them.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new<'s>(samples: impl IntoIterator<Item = &'s Sample>, kind: Kind) -> Result<Batch<'a>> {
        let mut own_nodes = true;
        let mut all = Features { path_offsets: vec![0], ..Features::default() };
        let (mut called, mut caller) = (Vec::new(), Vec::new());
        let (mut candidates, mut groups, mut node_load) = (Vec::new(), Vec::new(), Vec::new());
        let mut group_count = 0u32;
        for sample in samples {
            let f = &*kind.hide(&sample.features);
            let (nodes, edges) = (all.node_count() as i64, caller.len() as i64);
            let (from, to) = f.edges.split_at(f.edge_count());
            called.extend(from.iter().map(|i| i + nodes));
            caller.extend(to.iter().map(|i| i + nodes));
            all.nodes.extend_from_slice(&f.nodes);
            all.edge_features.extend_from_slice(&f.edge_features);
            let links = all.path_links.len() as i64;
            all.path_links.extend(f.path_links.iter().map(|i| i + edges));
            all.path_offsets.extend(f.path_offsets.iter().skip(1).map(|i| i + links));
            let mut last = None;
            for candidate in &sample.candidates {
                if last != Some(candidate.group) {
                    group_count += 1;
                    last = Some(candidate.group);
                }
                groups.push(group_count - 1);
            }
            candidates.extend_from_slice(&sample.candidates);
            if f.node_count() == sample.node_load.len() {
                node_load.extend_from_slice(&sample.node_load);
            } else {
                own_nodes = false;
                node_load.extend(std::iter::repeat_n(f32::NAN, f.node_count()));
            }
        }
        called.extend_from_slice(&caller);
        all.edges = called;
        Ok(Batch { inputs: inputs(&all)?, candidates, groups, group_count: group_count as usize, node_load, own_nodes })
    }
}
