//! Times of work: a mixture of log-normals (or, for queueing theory, exponential and constant parts), its moments and its draws.

use super::mesh::{Shape, Work, WorkPart};
use crate::simulator::draw::Draw;

impl Shape {
    /// The second moment at mean 1.
    fn square(self) -> f64 {
        match self {
            Shape::LogNormal(sigma) => (sigma * sigma).exp(),
            Shape::Exponential => 2.0,
            Shape::Constant => 1.0,
        }
    }

    /// A draw at mean 1.
    fn draw(self, draw: &mut Draw) -> f64 {
        match self {
            Shape::LogNormal(sigma) => draw.spread(sigma),
            Shape::Exponential => draw.exponential(),
            Shape::Constant => 1.0,
        }
    }
}

impl Work {
    /// Work of one part.
    #[must_use]
    pub fn one(mean_s: f64, shape: Shape) -> Self {
        Self { parts: vec![WorkPart { share: 1.0, mean_s, shape }] }
    }

    /// Log-normal with this mean in seconds and this deviation of the logarithm.
    #[must_use]
    pub fn log_normal(mean_s: f64, sigma: f64) -> Self {
        Self::one(mean_s, Shape::LogNormal(sigma))
    }

    /// No work at all.
    #[must_use]
    pub fn none() -> Self {
        Self { parts: Vec::new() }
    }

    /// The mean in seconds.
    #[must_use]
    pub fn mean_s(&self) -> f64 {
        self.parts.iter().map(|p| p.share * p.mean_s).sum()
    }

    /// The mean of its square, in square seconds.
    #[must_use]
    pub fn square_s2(&self) -> f64 {
        self.parts.iter().map(|p| p.share * p.mean_s * p.mean_s * p.shape.square()).sum()
    }

    /// A draw, in seconds.
    pub fn draw(&self, draw: &mut Draw) -> f64 {
        let part = match self.parts.as_slice() {
            [] => return 0.0,
            [one] => one,
            [most @ .., last] => {
                let mut left = draw.uniform(0.0, 1.0);
                let found = most.iter().find(|p| {
                    left -= p.share;
                    left < 0.0
                });
                found.unwrap_or(last)
            }
        };
        part.mean_s * part.shape.draw(draw)
    }
}
