//! Numbers for people and programs: milliseconds with three digits, shares with six, and null for what is unknown.

use serde_json::Value;

/// Seconds as milliseconds, to the microsecond.
pub fn ms(seconds: impl Into<Option<f32>>) -> Value {
    rounded(seconds.into().map(|s| f64::from(s) * 1e3), 1e3)
}

/// A number to three decimals: seconds of age, rates a second, scores.
pub fn number(value: impl Into<Option<f32>>) -> Value {
    rounded(value.into().map(f64::from), 1e3)
}

/// A share, 0 to 1, to six decimals.
pub fn share(value: impl Into<Option<f32>>) -> Value {
    rounded(value.into().map(f64::from), 1e6)
}

/// Null where it is unknown or not finite.
fn rounded(value: Option<f64>, steps: f64) -> Value {
    // Beyond f64's whole numbers there is nothing to round.
    value.map_or(Value::Null, |v| Value::from(if v.abs() < 1e9 { (v * steps).round() / steps } else { v }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_null_and_never_zero() {
        assert_eq!(ms(None), Value::Null);
        assert_eq!(number(f32::NAN), Value::Null);
        assert_eq!(share(f32::INFINITY), Value::Null);
        assert_eq!(
            (ms(0.0123456), share(0.1), number(f32::MAX).is_number()),
            (Value::from(12.346), Value::from(0.1), true)
        );
    }
}
