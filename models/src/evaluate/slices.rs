//! Parts of the candidates, to see where a figure comes from: by how well the link is known, by what troubles it, and
//! where the noise floor is known.

use crate::data::{Candidate, Sample};
use crate::net::{FE, FN};
use crate::simulator::truth::Trouble;

/// A link that fewer answers are remembered of is rarely used.
const RARE: f32 = 5.0;
/// Columns of the features, by the contract.
const LINK_MEAN: usize = 0;
const LINK_SAMPLES: usize = 9;
const NODE_MEAN: usize = 8;

/// A part of the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slice {
    /// At least five answers are remembered of the link.
    LinkInUse,
    /// Fewer are.
    LinkRarelyUsed,
    /// None, but other callers know the called node.
    LinkNeverUsed,
    /// None, and nobody knows the called node.
    NodeNeverSeen,
    /// What makes the path slower than it was.
    Trouble(Trouble),
    /// The expected figures of the next window are known, so that the noise floor is too.
    FloorKnown,
    /// The same, and the next window's labels stand on at least so many answers: the fewer, the noisier.
    FloorAndAnswers(u32),
}

/// From how many answers on the noise floor is told apart.
const ANSWERS: [u32; 4] = [50, 100, 200, 500];

impl Slice {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Slice::LinkInUse => "link in use".into(),
            Slice::LinkRarelyUsed => "link rarely used".into(),
            Slice::LinkNeverUsed => "link never used".into(),
            Slice::NodeNeverSeen => "node never seen".into(),
            Slice::Trouble(Trouble::None) => "no trouble".into(),
            Slice::Trouble(trouble) => format!("trouble: {}", words(&format!("{trouble:?}"))),
            Slice::FloorKnown => "noise floor known".into(),
            Slice::FloorAndAnswers(least) => format!("noise floor known, {least} answers"),
        }
    }

    /// Whether it is one of the labels' quality, which says nothing of decisions.
    #[must_use]
    pub fn is_of_label(self) -> bool {
        matches!(self, Slice::FloorKnown | Slice::FloorAndAnswers(_))
    }
}

/// `SlowLink` as `slow link`.
fn words(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// For each candidate, the slices that it belongs to.
pub(super) fn slices(sample: &Sample) -> Vec<Vec<Slice>> {
    let f = &sample.features;
    let links = f.path_offsets.iter().map(|o| f.path_links.get(*o as usize).copied());
    let of = |(candidate, link): (&Candidate, Option<i64>)| {
        let link = link.and_then(|l| usize::try_from(l).ok());
        let edge = link.and_then(|l| f.edge_features.get(l * FE..(l + 1) * FE)).unwrap_or_default();
        let node = link.and_then(|l| f.edges.get(l)).and_then(|n| usize::try_from(*n).ok());
        let node = node.and_then(|n| f.nodes.get(n * FN..(n + 1) * FN)).unwrap_or_default();
        let known = |row: &[f32], column: usize| row.get(column).is_some_and(|v| !v.is_nan());
        let mut of = vec![match edge.get(LINK_SAMPLES).copied().unwrap_or(0.0) {
            _ if !known(edge, LINK_MEAN) && !known(node, NODE_MEAN) => Slice::NodeNeverSeen,
            _ if !known(edge, LINK_MEAN) => Slice::LinkNeverUsed,
            n if n < RARE => Slice::LinkRarelyUsed,
            _ => Slice::LinkInUse,
        }];
        of.push(Slice::Trouble(candidate.trouble));
        if candidate.expected_mean_s.is_finite() {
            of.push(Slice::FloorKnown);
            of.extend(ANSWERS.into_iter().filter(|a| candidate.answers >= *a).map(Slice::FloorAndAnswers));
        }
        of
    };
    sample.candidates.iter().zip(links).map(of).collect()
}
