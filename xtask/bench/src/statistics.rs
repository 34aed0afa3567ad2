//! Medians and spreads.

use std::fmt;

use serde::Serialize;

/// The value in the middle; of an even number, the higher of the two.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that this share of the values is below.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * share) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Several measurements of one thing.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<_> = values.into_iter().collect();
        Self { median: median(&values), lowest: quantile(&values, 0.0), highest: quantile(&values, 1.0) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.median.abs() {
            size if size >= 1000.0 => 0,
            size if size >= 10.0 => 1,
            _ => 2,
        };
        let Self { median, lowest, highest } = self;
        f.pad(&format!("{median:.digits$} ({lowest:.digits$} – {highest:.digits$})"))
    }
}
