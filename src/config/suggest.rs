//! The nearest known name to one that is not known.

/// Names longer than this are not compared: nobody mistypes them, and comparing takes quadratic time.
const MAX_COMPARED: usize = 64;

/// A name of fewer letters begins too many others.
const MIN_STEM: usize = 3;

/// The name that was probably meant: the one with the fewest typing slips, where they are few enough for its length,
/// or where one name goes on from the other (`warning` for `warn`).
#[must_use]
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > MAX_COMPARED {
        return None;
    }
    let folded = fold(written);
    known
        .into_iter()
        .filter(|name| name.len() <= MAX_COMPARED)
        .map(|name| (slips(&folded, &fold(name)), name))
        .filter(|(slips, name)| {
            let (shorter, longer) = (written.len().min(name.len()), written.len().max(name.len()));
            let stem = shorter >= MIN_STEM && folded.iter().zip(fold(name)).all(|(a, b)| *a == b);
            *slips <= (longer / 3).max(1) || stem
        })
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// Case and the choice of `-` or `_` are no slip.
fn fold(name: &str) -> Vec<char> {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// How many letters were inserted, left out, replaced or swapped with their neighbour (optimal string alignment).
fn slips(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = at(&last, j) + usize::from(x != y);
            let mut best = replaced.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = j > 0 && i > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(a: &str, b: &str) -> usize {
        slips(&fold(a), &fold(b))
    }

    #[test]
    fn slips_are_counted() {
        assert_eq!(count("", ""), 0);
        assert_eq!(count("abc", ""), 3);
        assert_eq!(count("timeout", "timeouts"), 1);
        assert_eq!(count("cluster", "clutser"), 1);
        assert_eq!(count("path-prefix", "Path_Prefix"), 0);
        assert_eq!(count("kitten", "sitting"), 3);
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        assert_eq!(nearest("timeout", ["connect", "timeouts"]), Some("timeouts"));
        assert_eq!(nearest("frobnicate", ["connect", "timeouts"]), None);
        assert_eq!(nearest("x", ["y", "zone"]), Some("y"));
        assert_eq!(nearest("warning", ["error", "warn"]), Some("warn"));
        assert_eq!(nearest("connect_timeout", ["connect", "idle"]), Some("connect"));
        assert_eq!(nearest("in", ["information"]), None);
        assert_eq!(nearest(&"x".repeat(65), ["x"]), None);
        assert_eq!(nearest("", []), None);
    }
}
