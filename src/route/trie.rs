//! Texts by their common parts: all those that another text begins with (or ends with) are found in one walk over it,
//! however many there are.
//!
//! A node holds what its texts have in common beyond its parent's (a label, compared at once), the value of the text that
//! ends there, and its children by their next byte. A walk takes as many steps as texts that are kept are nested in each
//! other or part ways, so what callers send cannot make it long.

use std::collections::BTreeMap;
use std::ops::Range;

/// Which end of a text is compared first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The texts kept are beginnings of those asked for.
    Front,
    /// They are ends.
    Back,
}

/// Values by texts. The first node is the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Trie<V> {
    from: From,
    nodes: Box<[Node<V>]>,
}

#[derive(Debug, Clone, PartialEq)]
struct Node<V> {
    label: Box<[u8]>,
    value: Option<V>,
    /// By the first byte of their labels, seen from where the texts are compared first.
    children: Box<[(u8, u32)]>,
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { from: From::Front, nodes: Box::default() }
    }
}

/// Texts that begin alike: which of all, how much of them their node's parents hold, and their node.
struct Alike {
    texts: Range<usize>,
    above: usize,
    node: usize,
}

impl<V> Node<V> {
    fn empty() -> Self {
        Self { label: Box::default(), value: None, children: Box::default() }
    }
}

impl<V> Trie<V> {
    /// Of these texts.
    pub fn new<T: AsRef<[u8]>>(from: From, values: impl IntoIterator<Item = (T, V)>) -> Self {
        let key = |text: &[u8]| match from {
            From::Front => text.to_vec(),
            From::Back => text.iter().rev().copied().collect(),
        };
        let sorted: BTreeMap<Vec<u8>, V> = values.into_iter().map(|(text, v)| (key(text.as_ref()), v)).collect();
        let (texts, mut values): (Vec<Vec<u8>>, Vec<Option<V>>) = sorted.into_iter().map(|(t, v)| (t, Some(v))).unzip();
        let mut nodes = vec![Node::empty()];
        // A list of what is left to do and no recursion: texts may be nested as deeply as they are long.
        let mut left = vec![Alike { texts: 0..texts.len(), above: 0, node: 0 }];
        while let Some(Alike { texts: mut range, above, node }) = left.pop() {
            // They are sorted: what the first and the last have in common, all have.
            let part = |at: usize| texts.get(at).and_then(|t| t.get(above..)).unwrap_or_default();
            let (first, last) = (part(range.start), part(range.end.saturating_sub(1)));
            let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
            let mut label = first.get(..common).unwrap_or_default().to_vec();
            if from == From::Back {
                label.reverse();
            }
            let end = above + common;
            let next = |at: usize| texts.get(at).and_then(|t| t.get(end)).copied();
            let mut value = None;
            if !range.is_empty() && next(range.start).is_none() {
                value = values.get_mut(range.start).and_then(Option::take);
                range.start += 1;
            }
            let mut children = Vec::new();
            while let Some(byte) = next(range.start).filter(|_| !range.is_empty()) {
                let alike = range.clone().take_while(|at| next(*at) == Some(byte)).count();
                let texts = range.start..range.start + alike;
                range.start = texts.end;
                children.push((byte, nodes.len() as u32));
                left.push(Alike { texts, above: end, node: nodes.len() });
                nodes.push(Node::empty());
            }
            if let Some(node) = nodes.get_mut(node) {
                *node = Node { label: label.into(), value, children: children.into() };
            }
        }
        Self { from, nodes: nodes.into() }
    }

    /// Calls for every text kept that `text` begins (or ends) with, the shortest first, with what `text` has beyond it.
    #[inline]
    pub fn walk<'t>(&self, text: &'t [u8], mut found: impl FnMut(&V, &'t [u8])) {
        let (mut rest, mut next) = (text, self.nodes.first());
        while let Some(node) = next {
            let beyond = match self.from {
                From::Front => rest.strip_prefix(&*node.label),
                From::Back => rest.strip_suffix(&*node.label),
            };
            let Some(beyond) = beyond else { return };
            if let Some(value) = &node.value {
                found(value, beyond);
            }
            rest = beyond;
            let byte = match self.from {
                From::Front => rest.first(),
                From::Back => rest.last(),
            };
            let child = byte.and_then(|byte| node.children.iter().find(|(first, _)| first == byte));
            next = child.and_then(|(_, child)| self.nodes.get(*child as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(trie: &Trie<usize>, text: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        trie.walk(text, |value, rest| all.push((*value, rest.to_vec())));
        all
    }

    #[test]
    fn an_empty_trie_holds_nothing_and_the_empty_text_is_a_part_of_each() {
        assert!(found(&Trie::default(), b"a").is_empty());
        assert!(found(&Trie::new(From::Front, Vec::<(&str, usize)>::new()), b"a").is_empty());
        assert_eq!(found(&Trie::new(From::Back, [("", 7)]), b"a"), [(7, b"a".to_vec())]);
        assert_eq!(found(&Trie::new(From::Back, [("", 7)]), b""), [(7, Vec::new())]);
    }

    #[test]
    fn a_text_that_is_as_long_as_a_path_may_be_costs_no_stack() {
        let nested: Vec<(String, usize)> = (0..4_000).map(|n| ("/a".repeat(n), n)).collect();
        let trie = Trie::new(From::Front, nested);
        assert_eq!(found(&trie, "/a".repeat(5_000).as_bytes()).len(), 4_000);
    }

    proptest! {
        #[test]
        fn a_walk_finds_what_looking_at_each_finds(texts in prop::collection::btree_set("[ab/.]{0,6}", 0..40), asked in "[ab/.]{0,9}") {
            let texts: Vec<(String, usize)> = texts.into_iter().zip(0..).collect();
            let asked = asked.as_bytes();
            for from in [From::Front, From::Back] {
                let trie = Trie::new(from, texts.clone());
                let mut naive: Vec<_> = texts.iter().filter_map(|(text, value)| {
                    let rest = match from {
                        From::Front => asked.strip_prefix(text.as_bytes()),
                        From::Back => asked.strip_suffix(text.as_bytes()),
                    };
                    Some((*value, rest?.to_vec()))
                }).collect();
                naive.sort_by_key(|(_, rest)| std::cmp::Reverse(rest.len()));
                prop_assert_eq!(found(&trie, asked), naive);
            }
        }
    }
}
