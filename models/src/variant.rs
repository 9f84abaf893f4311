//! Which model: the network, the network with a part left out (an ablation), or a learned rival.
//!
//! What an ablation leaves out it never sees, neither in training nor afterwards: either the part is missing from the
//! forward pass, or `hide` takes what it stood on out of the features.

use crate::net::{FE, FN, LAYERS, Outputs};
use crate::ops::{Inputs, Ops};
use crate::{Error, Result, learned, net};
use pathloom::graph::Features;
use std::fmt;
use std::str::FromStr;

/// The network, with or without its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// How many rounds of messages; 0 is an MLP on a link and its two ends.
    pub layers: usize,
    /// Whether attention, messages and answers see the links' embedding. Without it a link's features count only as
    /// anchors.
    pub edges: bool,
    /// Whether it sees what was usual before the last few seconds: EWMA and baselines, the contract's memory over
    /// time (what a GRU over time would have to learn).
    pub memory: bool,
    /// Whether a caller sees what other callers saw.
    pub sharing: bool,
    /// Whether a link that nobody knows is compared with those to alike nodes.
    pub alike: bool,
    /// Whether the network itself chooses how far each estimate is trusted, instead of by a fixed order.
    pub gate: bool,
    /// Whether the order of candidates is trained, beside their latencies.
    pub listwise: bool,
}

impl Variant {
    /// The network as it is served.
    pub const FULL: Self =
        Self { layers: LAYERS, edges: true, memory: true, sharing: true, alike: true, gate: true, listwise: true };
}

/// A model that can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The network or an ablation of it.
    Network(Variant),
    /// A graph convolutional network (Kipf and Welling, 2017).
    Gcn,
    /// A graph attention network (Velickovic et al., 2018), on nodes alone.
    Gat,
    /// A perceptron on a link and its two ends.
    Mlp,
}

impl Kind {
    /// All names, the network's first.
    pub const NAMES: [&'static str; 17] = [
        "full",
        "layers-1",
        "layers-2",
        "layers-3",
        "layers-5",
        "layers-6",
        "no-edges",
        "no-graph",
        "no-memory",
        "no-sharing",
        "no-alike",
        "no-gate",
        "no-listwise",
        "gcn",
        "gat",
        "mlp",
        "layers-4",
    ];

    /// Whether it trains the order of candidates too.
    #[must_use]
    pub fn listwise(self) -> bool {
        !matches!(self, Kind::Network(Variant { listwise: false, .. }))
    }

    /// Runs the model.
    ///
    /// # Errors
    /// When an operation fails, such as a weight that is missing or of the wrong shape.
    pub fn forward<O: Ops>(self, o: &O, inputs: &Inputs<O>) -> Result<Outputs<O::Value>> {
        match self {
            Kind::Network(variant) => net::forward(o, inputs, variant),
            Kind::Gcn => learned::gcn::forward(o, inputs),
            Kind::Gat => learned::gat::forward(o, inputs),
            Kind::Mlp => learned::mlp::forward(o, inputs),
        }
    }

    /// Takes out of a sample's features what the model must not see; borrows them where that is nothing.
    #[must_use]
    pub fn hide<'a>(self, features: &'a Features) -> std::borrow::Cow<'a, Features> {
        let Kind::Network(variant) = self else { return std::borrow::Cow::Borrowed(features) };
        let mut found = std::borrow::Cow::Borrowed(features);
        if !variant.memory {
            let features = found.to_mut();
            for (values, width, columns) in
                [(&mut features.edge_features, FE, [4, 13].as_slice()), (&mut features.nodes, FN, &[12, 15])]
            {
                for row in values.chunks_exact_mut(width) {
                    columns.iter().filter_map(|c| row.get_mut(*c).map(|v| *v = f32::NAN)).count();
                }
            }
        }
        if !variant.sharing {
            found = std::borrow::Cow::Owned(alone(&found));
        }
        found
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let full = Variant::FULL;
        Ok(match name {
            "full" => Kind::Network(full),
            "no-edges" => Kind::Network(Variant { edges: false, ..full }),
            "no-graph" => Kind::Network(Variant { layers: 0, alike: false, ..full }),
            "no-memory" => Kind::Network(Variant { memory: false, ..full }),
            "no-sharing" => Kind::Network(Variant { sharing: false, ..full }),
            "no-alike" => Kind::Network(Variant { alike: false, ..full }),
            "no-gate" => Kind::Network(Variant { gate: false, ..full }),
            "no-listwise" => Kind::Network(Variant { listwise: false, ..full }),
            "gcn" => Kind::Gcn,
            "gat" => Kind::Gat,
            "mlp" => Kind::Mlp,
            _ => {
                let layers = name.strip_prefix("layers-").and_then(|n| n.parse().ok()).filter(|n| (1..=8).contains(n));
                let unknown = || Error::Format(format!("no model is named {name}; try {}", Self::NAMES.join(", ")));
                Kind::Network(Variant { layers: layers.ok_or_else(unknown)?, ..full })
            }
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Kind::Gcn => "gcn",
            Kind::Gat => "gat",
            Kind::Mlp => "mlp",
            Kind::Network(variant) => {
                let known = Self::NAMES.iter().find(|n| n.parse::<Kind>().ok() == Some(Kind::Network(*variant)));
                known.copied().unwrap_or("other")
            }
        };
        f.write_str(name)
    }
}

/// The same graph, but each caller with a copy of its own of the nodes that it calls: nobody hears of another's calls.
///
/// Links keep their places. A copy's statistics are those of the caller's own link to it, and its reports are known
/// only where that link was used, because they travel in answers.
fn alone(features: &Features) -> Features {
    let (called, caller) = features.edges.split_at(features.edge_count());
    let rows: Vec<&[f32]> = features.nodes.chunks_exact(FN).collect();
    let mut found = Features {
        edge_features: features.edge_features.clone(),
        path_offsets: features.path_offsets.clone(),
        path_links: features.path_links.clone(),
        ..Features::default()
    };
    let (mut from, mut to, mut last) = (Vec::new(), Vec::new(), None);
    let mut own = 0;
    let row_of = |node: i64| rows.get(usize::try_from(node).unwrap_or(usize::MAX)).copied().unwrap_or(&[f32::NAN; FN]);
    for ((called, caller), link) in called.iter().zip(caller).zip(features.edge_features.chunks_exact(FE)) {
        if last != Some(*caller) {
            last = Some(*caller);
            own = found.node_count() as i64;
            let mut row = row_of(*caller).to_vec();
            forget_calls(&mut row);
            found.nodes.extend(row);
        }
        from.push(found.node_count() as i64);
        to.push(own);
        let mut row = row_of(*called).to_vec();
        forget_calls(&mut row);
        let of = |column: usize| link.get(column).copied().unwrap_or(f32::NAN);
        let used = of(9) > 0.0;
        if !used {
            row.iter_mut().take(6).for_each(|v| *v = f32::NAN);
        }
        for (column, value) in [(6, of(8)), (7, of(6)), (8, of(0)), (9, of(3)), (10, of(7)), (12, of(13))] {
            if let Some(slot) = row.get_mut(column) {
                *slot = value;
            }
        }
        found.nodes.extend(row);
    }
    from.extend(to);
    found.edges = from;
    found
}

/// Makes unknown what callers saw of a node.
fn forget_calls(row: &mut [f32]) {
    for column in [6, 7, 8, 9, 10, 12, 15] {
        if let Some(slot) = row.get_mut(column) {
            *slot = f32::NAN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_the_name_of_its_model() {
        for name in Kind::NAMES.iter().filter(|n| **n != "layers-4") {
            assert_eq!(name.parse::<Kind>().unwrap().to_string(), *name);
        }
        assert_eq!("layers-4".parse::<Kind>().unwrap(), Kind::Network(Variant::FULL));
        let refused = "layers-9".parse::<Kind>().unwrap_err().to_string();
        assert!(refused.contains("no-gate"), "{refused}");
    }

    #[test]
    fn without_sharing_a_callers_view_does_not_change_with_what_others_saw() {
        // Two callers, 0 and 1, of node 2.
        let mut features = Features {
            nodes: (0..3 * FN).map(|i| i as f32).collect(),
            edges: vec![2, 2, 0, 1],
            edge_features: vec![1.0; 2 * FE],
            path_offsets: vec![0, 1, 2],
            path_links: vec![0, 1],
            shape: 0,
        };
        let kind: Kind = "no-sharing".parse().unwrap();
        let before = kind.hide(&features).into_owned();
        assert_eq!((before.node_count(), before.edges.as_slice()), (4, [1, 3, 0, 2].as_slice()));
        features.edge_features[FE..].fill(7.0);
        features.nodes[2 * FN + 8] = 99.0;
        let after = kind.hide(&features).into_owned();
        let bits = |f: &Features| f.nodes[..2 * FN].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&before), bits(&after));
    }
}
