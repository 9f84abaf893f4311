//! The operations that the network is written in, so that it is written once.
//!
//! All values are matrices of f32 (`[rows, columns]`), all elementwise operations broadcast, and an index is a list of
//! rows of some matrix. `tensors::Candle` computes each operation at once and remembers how to differentiate it;
//! `onnx::Writer` appends ONNX nodes instead. Both therefore hold the same formulas by construction, and `check`
//! confirms that they hold the same numbers.

use crate::Result;

/// A way to carry out the network's operations.
pub trait Ops {
    /// A matrix.
    type Value: Clone;
    /// A list of row numbers, which knows how many rows there are to point at.
    type Index: Clone;

    /// A weight by its name in `weights`.
    fn weight(&self, name: &str) -> Result<Self::Value>;
    /// A row of constants, `[1, n]`.
    fn constant(&self, row: &[f32]) -> Result<Self::Value>;
    /// A matrix of constants, row by row; the same name stands for the same numbers.
    fn table(&self, name: &str, width: usize, values: &[f32]) -> Result<Self::Value>;

    /// `x W + b`; weights `name.w` `[in, out]` and `name.b` `[1, out]`.
    fn linear(&self, x: &Self::Value, name: &str) -> Result<Self::Value> {
        self.gemm(x, &self.weight(&format!("{name}.w"))?, &self.weight(&format!("{name}.b"))?)
    }
    /// `x W` without a bias.
    fn product(&self, x: &Self::Value, w: &Self::Value) -> Result<Self::Value>;
    /// `x W + c`; c is a row, or as large as the product.
    fn gemm(&self, x: &Self::Value, w: &Self::Value, c: &Self::Value) -> Result<Self::Value>;

    /// 1 where a value is known, 0 where it is NaN.
    fn known(&self, x: &Self::Value) -> Result<Self::Value>;
    /// The values, with 0 where one is NaN.
    fn or_zero(&self, x: &Self::Value) -> Result<Self::Value>;

    /// `a + b`
    fn add(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// The same row of constants added to each row of a finite matrix.
    fn add_row(&self, x: &Self::Value, row: &[f32]) -> Result<Self::Value>;
    /// `a - b`
    fn sub(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// `a * b`, element by element
    fn mul(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// `a / b`, element by element
    fn div(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;
    /// The values, none below `low` nor above `high`.
    fn clip(&self, x: &Self::Value, low: f32, high: f32) -> Result<Self::Value>;
    /// Natural logarithm.
    fn ln(&self, x: &Self::Value) -> Result<Self::Value>;
    /// e to the power of x.
    fn exp(&self, x: &Self::Value) -> Result<Self::Value>;
    /// Square root.
    fn sqrt(&self, x: &Self::Value) -> Result<Self::Value>;
    /// Hyperbolic tangent.
    fn tanh(&self, x: &Self::Value) -> Result<Self::Value>;
    /// `max(x, 0)`
    fn relu(&self, x: &Self::Value) -> Result<Self::Value>;
    /// `x` where positive, else `slope x`.
    fn leaky_relu(&self, x: &Self::Value, slope: f32) -> Result<Self::Value>;

    /// Columns of all, side by side.
    fn concat(&self, parts: &[Self::Value]) -> Result<Self::Value>;
    /// Cuts columns into parts of these widths.
    fn split(&self, x: &Self::Value, widths: &[usize]) -> Result<Vec<Self::Value>>;
    /// `width` columns from column `from` on.
    fn columns(&self, x: &Self::Value, from: usize, width: usize) -> Result<Self::Value>;
    /// Rows of all, one below the other.
    fn stack(&self, parts: &[Self::Value]) -> Result<Self::Value>;
    /// `count` rows from row `from` on.
    fn rows(&self, x: &Self::Value, from: usize, count: usize) -> Result<Self::Value>;
    /// Rows as columns.
    fn transpose(&self, x: &Self::Value) -> Result<Self::Value>;
    /// In training, zeroes a share of the values and scales up the others; otherwise the values.
    fn dropout(&self, x: &Self::Value, share: f32) -> Result<Self::Value>;

    /// The rows that an index names: `out[i] = x[index[i]]`.
    fn gather(&self, x: &Self::Value, index: &Self::Index) -> Result<Self::Value>;
    /// The same of one column, for which engines know a faster way.
    ///
    /// # Errors
    /// As `gather`.
    fn gather_column(&self, x: &Self::Value, index: &Self::Index) -> Result<Self::Value> {
        self.gather(x, index)
    }
    /// Sums rows by index: `out[r] = sum of x[i] over all i with index[i] = r`, zero for rows that nothing names.
    fn scatter_sum(&self, x: &Self::Value, columns: usize, index: &Self::Index) -> Result<Self::Value>;
    /// `index[by[i]]` for each i.
    fn gather_index(&self, index: &Self::Index, by: &Self::Index) -> Result<Self::Index>;
}

/// What the network reads.
#[derive(Debug, Clone)]
pub struct Inputs<O: Ops + ?Sized> {
    /// `[N, 16]`
    pub nodes: O::Value,
    /// `[E, 14]`
    pub edges: O::Value,
    /// `[E]`, the called node of each edge: where messages come from.
    pub called: O::Index,
    /// `[E]`, the calling node of each edge: where messages go to.
    pub caller: O::Index,
    /// `[L]`, the edges of all candidate paths.
    pub path_links: O::Index,
    /// `[L]`, the candidate that each of those belongs to.
    pub path_of_link: O::Index,
}
