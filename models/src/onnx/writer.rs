//! Appends ONNX nodes for the network's operations.
//!
//! A value is the name of a node's output. The same operation on the same values is written once, so a formula may ask
//! twice for what it needs twice.

use super::proto::{AttributeProto, NodeProto, TensorProto, attribute_type, data_type};
use crate::ops::{Inputs, Ops};
use crate::weights::Weights;
use crate::{Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;

/// Writes nodes and constants.
#[derive(Debug)]
pub struct Writer<'a> {
    weights: &'a Weights,
    file: RefCell<File>,
}

#[derive(Debug, Default)]
struct File {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// What was written already, by its text.
    known: HashMap<String, Vec<String>>,
}

/// Row numbers.
#[derive(Debug, Clone)]
pub struct Index {
    /// The numbers, `[k]`.
    numbers: String,
    /// How many rows there are to point at, `[1]`.
    of: String,
}

impl<'a> Writer<'a> {
    /// Writes a file with these weights.
    pub fn new(weights: &'a Weights) -> Self {
        Self { weights, file: RefCell::default() }
    }

    /// The nodes and constants so far.
    pub fn finish(self) -> (Vec<NodeProto>, Vec<TensorProto>) {
        let file = self.file.into_inner();
        (file.nodes, file.initializers)
    }

    /// The network's inputs, from the file's.
    pub fn inputs(&self) -> Inputs<Self> {
        let shape = |of: &str| self.one("Shape", &[of], vec![]);
        let first = |of: String| self.one("Gather", &[&of, &self.integers(&[0], &[1])], vec![]);
        let (nodes, edges) = (first(shape("node_features")), first(shape("edge_features")));
        let row = |i: i64| self.one("Gather", &["edges", &self.integers(&[i], &[])], vec![]);
        let [one, links] = [self.integers(&[1], &[1]), shape("path_links")];
        let paths = self.one("Sub", &[&shape("path_offsets"), &one], vec![]);
        Inputs {
            nodes: "node_features".into(),
            edges: "edge_features".into(),
            called: Index { numbers: row(0), of: nodes.clone() },
            caller: Index { numbers: row(1), of: nodes },
            path_links: Index { numbers: "path_links".into(), of: edges },
            path_of_link: Index { numbers: self.path_of_link(&links), of: paths },
        }
    }

    /// The path that each link belongs to: a one where each path but the first begins, summed up from the left.
    ///
    /// There is one place more than links, so that an offset at the very end (an empty last path) has a place too.
    fn path_of_link(&self, links: &str) -> String {
        let number = |n: i64| self.integers(&[n], &[1]);
        let slice = |x: &str, from: i64| self.one("Slice", &[x, &number(from), &number(-1), &number(0)], vec![]);
        let begins = slice("path_offsets", 1);
        let count = self.one("Shape", &[&begins], vec![]);
        let places = self.one("Add", &[links, &number(1)], vec![]);
        let marks = self.one(
            "ScatterND",
            &[&self.filled(&places, 0), &self.column(&begins), &self.filled(&count, 1)],
            vec![text("reduction", "add")],
        );
        let sums = self.one("CumSum", &[&marks, &self.integers(&[0], &[])], vec![]);
        slice(&sums, 0)
    }

    /// An i64 tensor of this shape, filled with one value.
    fn filled(&self, shape: &str, value: i64) -> String {
        let tensor = tensor("", &[1], data_type::INT64, value.to_le_bytes().to_vec());
        self.one(
            "ConstantOfShape",
            &[shape],
            vec![AttributeProto {
                name: Some("value".into()),
                t: Some(tensor),
                r#type: Some(attribute_type::TENSOR),
                ..AttributeProto::default()
            }],
        )
    }

    /// Names a `[rows, 1]` value as an output `[rows]`.
    pub fn output(&self, name: &str, value: &str) {
        let shape = self.integers(&[-1], &[1]);
        self.file.borrow_mut().nodes.push(NodeProto {
            input: vec![value.into(), shape],
            output: vec![name.into()],
            name: Some(format!("output/{name}")),
            op_type: Some("Reshape".into()),
            attribute: vec![],
        });
    }

    fn node(&self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>, outputs: usize) -> Vec<String> {
        let mut file = self.file.borrow_mut();
        let key = format!("{op} {inputs:?} {attributes:?}");
        if let Some(found) = file.known.get(&key) {
            return found.clone();
        }
        let name = format!("{op}{}", file.nodes.len());
        let names: Vec<String> = (0..outputs).map(|i| format!("{name}/{i}")).collect();
        file.nodes.push(NodeProto {
            input: inputs.iter().map(|i| (*i).to_string()).collect(),
            output: names.clone(),
            name: Some(name),
            op_type: Some(op.into()),
            attribute: attributes,
        });
        file.known.insert(key, names.clone());
        names
    }

    fn one(&self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.node(op, inputs, attributes, 1).swap_remove(0)
    }

    fn initializer(&self, name: String, dims: &[i64], kind: i32, data: Vec<u8>) -> String {
        let mut file = self.file.borrow_mut();
        if file.known.insert(name.clone(), vec![]).is_none() {
            file.initializers.push(tensor(&name, dims, kind, data));
        }
        name
    }

    fn integers(&self, values: &[i64], dims: &[i64]) -> String {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(format!("integers{values:?}{dims:?}"), dims, data_type::INT64, data)
    }

    fn floats(&self, name: String, values: &[f32], dims: &[i64]) -> String {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, dims, data_type::FLOAT, data)
    }

    fn number(&self, value: f32) -> String {
        self.floats(format!("number {value}"), &[value], &[])
    }

    fn slice(&self, x: &str, from: usize, count: usize, axis: i64) -> Result<String> {
        let number = |n: usize| i64::try_from(n).map_err(|e| Error::Format(e.to_string()));
        let place = |n: i64| self.integers(&[n], &[1]);
        Ok(self.one("Slice", &[x, &place(number(from)?), &place(number(from + count)?), &place(axis)], vec![]))
    }

    /// `[k]` as `[k, 1]`, as ScatterND wants its rows.
    fn column(&self, index: &str) -> String {
        self.one("Unsqueeze", &[index, &self.integers(&[1], &[1])], vec![])
    }
}

fn tensor(name: &str, dims: &[i64], kind: i32, data: Vec<u8>) -> TensorProto {
    TensorProto { dims: dims.to_vec(), data_type: Some(kind), name: Some(name.into()), raw_data: Some(data) }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        s: Some(value.as_bytes().to_vec()),
        r#type: Some(attribute_type::STRING),
        ..AttributeProto::default()
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(attribute_type::INT),
        ..AttributeProto::default()
    }
}

impl Ops for Writer<'_> {
    type Value = String;
    type Index = Index;

    fn weight(&self, name: &str) -> Result<String> {
        let tensor = self.weights.get(name)?;
        let dims: Vec<i64> = tensor.dims().iter().filter_map(|d| i64::try_from(*d).ok()).collect();
        Ok(self.floats(name.into(), &tensor.flatten_all()?.to_vec1::<f32>()?, &dims))
    }
    fn constant(&self, row: &[f32]) -> Result<String> {
        let width = i64::try_from(row.len()).map_err(|e| Error::Format(e.to_string()))?;
        Ok(self.floats(format!("constant {row:?}"), row, &[1, width]))
    }
    fn table(&self, name: &str, width: usize, values: &[f32]) -> Result<String> {
        let number = |n: usize| i64::try_from(n).map_err(|e| Error::Format(e.to_string()));
        Ok(self.floats(name.into(), values, &[number(values.len() / width.max(1))?, number(width)?]))
    }
    fn product(&self, x: &String, w: &String) -> Result<String> {
        Ok(self.one("MatMul", &[x, w], vec![]))
    }
    fn gemm(&self, x: &String, w: &String, c: &String) -> Result<String> {
        Ok(self.one("Gemm", &[x, w, c], vec![]))
    }
    fn known(&self, x: &String) -> Result<String> {
        let is = self.one("Not", &[&self.one("IsNaN", &[x], vec![])], vec![]);
        Ok(self.one("Cast", &[&is], vec![integer("to", i64::from(data_type::FLOAT))]))
    }
    fn or_zero(&self, x: &String) -> Result<String> {
        let unknown = self.one("IsNaN", &[x], vec![]);
        Ok(self.one("Where", &[&unknown, &self.number(0.0), x], vec![]))
    }
    fn add(&self, a: &String, b: &String) -> Result<String> {
        Ok(self.one("Add", &[a, b], vec![]))
    }
    fn add_row(&self, x: &String, row: &[f32]) -> Result<String> {
        // A product with the unit matrix, to which the row is added: twice as fast as adding a short row to each row, and
        // exact, since the products with zeros are.
        let width = row.len();
        let unit = (0..width * width).map(|i| f32::from(u8::from(i / width == i % width))).collect::<Vec<f32>>();
        self.gemm(x, &self.table(&format!("unit {width}"), width, &unit)?, &self.constant(row)?)
    }
    fn sub(&self, a: &String, b: &String) -> Result<String> {
        Ok(self.one("Sub", &[a, b], vec![]))
    }
    fn mul(&self, a: &String, b: &String) -> Result<String> {
        Ok(self.one("Mul", &[a, b], vec![]))
    }
    fn div(&self, a: &String, b: &String) -> Result<String> {
        Ok(self.one("Div", &[a, b], vec![]))
    }
    fn clip(&self, x: &String, low: f32, high: f32) -> Result<String> {
        Ok(self.one("Clip", &[x, &self.number(low), &self.number(high)], vec![]))
    }
    fn ln(&self, x: &String) -> Result<String> {
        Ok(self.one("Log", &[x], vec![]))
    }
    fn exp(&self, x: &String) -> Result<String> {
        Ok(self.one("Exp", &[x], vec![]))
    }
    fn sqrt(&self, x: &String) -> Result<String> {
        Ok(self.one("Sqrt", &[x], vec![]))
    }
    fn tanh(&self, x: &String) -> Result<String> {
        Ok(self.one("Tanh", &[x], vec![]))
    }
    fn relu(&self, x: &String) -> Result<String> {
        Ok(self.one("Relu", &[x], vec![]))
    }
    fn leaky_relu(&self, x: &String, slope: f32) -> Result<String> {
        let alpha = AttributeProto {
            name: Some("alpha".into()),
            f: Some(slope),
            r#type: Some(attribute_type::FLOAT),
            ..AttributeProto::default()
        };
        Ok(self.one("LeakyRelu", &[x], vec![alpha]))
    }
    fn concat(&self, parts: &[String]) -> Result<String> {
        let inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(self.one("Concat", &inputs, vec![integer("axis", 1)]))
    }
    fn split(&self, x: &String, widths: &[usize]) -> Result<Vec<String>> {
        let sizes: Vec<i64> = widths.iter().filter_map(|w| i64::try_from(*w).ok()).collect();
        let count = i64::try_from(sizes.len()).map_err(|e| Error::Format(e.to_string()))?;
        let sizes = self.integers(&sizes, &[count]);
        Ok(self.node("Split", &[x, &sizes], vec![integer("axis", 1)], widths.len()))
    }
    fn columns(&self, x: &String, from: usize, width: usize) -> Result<String> {
        self.slice(x, from, width, 1)
    }
    fn stack(&self, parts: &[String]) -> Result<String> {
        let inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(self.one("Concat", &inputs, vec![integer("axis", 0)]))
    }
    fn rows(&self, x: &String, from: usize, count: usize) -> Result<String> {
        self.slice(x, from, count, 0)
    }
    fn transpose(&self, x: &String) -> Result<String> {
        Ok(self.one("Transpose", &[x], vec![]))
    }
    fn dropout(&self, x: &String, _share: f32) -> Result<String> {
        Ok(x.clone())
    }
    fn gather(&self, x: &String, index: &Index) -> Result<String> {
        Ok(self.one("Gather", &[x, &index.numbers], vec![]))
    }
    // `Gather` copies row by row, which costs a call each: 23 us of 5,000 rows of one number, `GatherElements` 4 us.
    fn gather_column(&self, x: &String, index: &Index) -> Result<String> {
        let flat = self.one("Squeeze", &[x, &self.integers(&[1], &[1])], vec![]);
        Ok(self.column(&self.one("GatherElements", &[&flat, &index.numbers], vec![])))
    }
    fn scatter_sum(&self, x: &String, columns: usize, index: &Index) -> Result<String> {
        let columns = i64::try_from(columns).map_err(|e| Error::Format(e.to_string()))?;
        let shape = self.one("Concat", &[&index.of, &self.integers(&[columns], &[1])], vec![integer("axis", 0)]);
        let zeros = self.one("ConstantOfShape", &[&shape], vec![]);
        Ok(self.one("ScatterND", &[&zeros, &self.column(&index.numbers), x], vec![text("reduction", "add")]))
    }
    fn gather_index(&self, index: &Index, by: &Index) -> Result<Index> {
        let numbers = self.one("GatherElements", &[&index.numbers, &by.numbers], vec![]);
        Ok(Index { numbers, of: index.of.clone() })
    }
}
