//! What is in callgrind's files: instructions and allocations of one thread. `make bench-tls` reads them, too.

use std::collections::{HashMap, HashSet};

/// What callgrind says of one thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thread {
    /// User instructions.
    pub instructions: u64,
    /// Calls for memory.
    pub allocations: u64,
    /// Whether the calls for memory could be told.
    pub knows_allocator: bool,
}

/// What is known of a program's allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocator {
    /// Its functions have names.
    Named,
    /// Some have, and this one, by its address.
    At(&'static str),
    /// Most of it has no names.
    Unknown,
}

impl Allocator {
    fn allocates(self, name: &str) -> bool {
        allocates(name) || matches!(self, Self::At(address) if address == name)
    }
}

/// Reads callgrind's format ("Callgrind Format Specification", valgrind's manual): names are given once with a number
/// and by number from then on; `calls=` follows the name of the function that is called.
pub fn parse(text: &str, allocator: Allocator) -> Thread {
    let mut thread = Thread { knows_allocator: allocator != Allocator::Unknown, ..Thread::default() };
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut allocators: HashSet<&str> = HashSet::new();
    let (mut within, mut called) = ("", "");
    for line in text.lines() {
        let (key, value) = match line.split_once('=') {
            Some(split) => split,
            None => {
                if let Some(totals) = line.strip_prefix("totals:") {
                    thread.instructions = totals.trim().parse().unwrap_or(0);
                }
                continue;
            }
        };
        if matches!(key, "fn" | "cfn") {
            let (number, name) = value.split_once(' ').unwrap_or((value, ""));
            if !name.is_empty() {
                names.insert(number, name);
                if allocator.allocates(name) {
                    allocators.insert(number);
                }
            }
            if key == "fn" {
                within = number;
            } else {
                called = number;
            }
        } else if key == "calls" && allocators.contains(called) {
            let inside = names.get(within).is_some_and(|name| belongs_to_allocator(name));
            if !inside {
                thread.allocations += value.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
    }
    thread
}

/// Whether a function gives memory to whoever calls it.
fn allocates(name: &str) -> bool {
    // callgrind marks recursion with a quote and a number, and versions of symbols with an at sign.
    let name = name.split(['\'', '@']).next().unwrap_or_default();
    let glibc = ["malloc", "calloc", "realloc", "memalign", "posix_memalign", "aligned_alloc", "valloc"];
    let glibc_inside = ["__libc_malloc", "__libc_calloc", "__libc_realloc", "__libc_memalign", "_mid_memalign"];
    glibc.contains(&name)
        || glibc_inside.contains(&name)
        || name.starts_with("operator new")
        || name.starts_with("_Znwm")
        || name.starts_with("_Znam")
        || (name.starts_with("mi_") && ["alloc", "zalloc", "new"].iter().any(|part| name.contains(part)))
}

/// Whether a function is the allocator's own, so that what it asks for is no further allocation.
fn belongs_to_allocator(name: &str) -> bool {
    allocates(name) || name.starts_with("_mi_") || name.starts_with("mi_") || name.starts_with("_int_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_calls_from_outside_of_the_allocator() {
        let text = "events: Ir\n\nfn=(1) serve\n12 100\ncfn=(2) malloc\ncalls=3 20\n13 600\ncfn=(3) memcpy\ncalls=9 1\n\
                    14 90\n\nfn=(4) mi_malloc_aligned\ncfn=(5) mi_malloc\ncalls=7 20\n13 600\n\nfn=(6) route\n\
                    cfn=(2)\ncalls=2 20\n1 1\ncfn=(4)\ncalls=5 20\n1 1\n\ntotals: 1234\n";
        assert_eq!(
            parse(text, Allocator::Named),
            Thread { instructions: 1234, allocations: 3 + 2 + 5, knows_allocator: true }
        );
    }
}
