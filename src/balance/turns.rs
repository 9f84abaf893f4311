//! Taking turns by weight.

/// The order of a smooth weighted round robin (nginx's): each turn everybody gains their weight, the richest goes and
/// pays the sum. Weights are scaled down where one round would be longer than `MAX_TURNS`.
pub fn turns(weights: &[u32]) -> Box<[u32]> {
    const MAX_TURNS: u64 = 1024;
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let scale = (sum / u64::from(divisor)).div_ceil(MAX_TURNS.max(weights.len() as u64)).max(1);
    let weights: Vec<i64> = weights.iter().map(|w| (i64::from(*w / divisor) / scale as i64).max(1)).collect();
    let round: i64 = weights.iter().sum();
    let mut credit = vec![0i64; weights.len()];
    let mut order = Vec::with_capacity(round as usize);
    for _ in 0..round {
        credit.iter_mut().zip(&weights).for_each(|(c, w)| *c += w);
        let Some((index, richest)) = credit.iter_mut().enumerate().rev().max_by_key(|(_, c)| **c) else { break };
        *richest -= round;
        order.push(index as u32);
    }
    order.into()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
