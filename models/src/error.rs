//! What can go wrong in the laboratory, for the person at the command line.

use std::path::PathBuf;

/// A failure, with what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation of candle failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{0}")]
    Format(String),
    /// The simulated mesh could not be turned into a graph.
    #[error("graph: {0}")]
    Graph(#[from] pathloom::graph::GraphError),
    /// A recording could not be written.
    #[error(transparent)]
    Recording(#[from] pathloom::record::WriterError),
    /// An inference engine refused the model or the inputs.
    #[error("{engine}: {reason}")]
    Engine {
        /// Which engine.
        engine: &'static str,
        /// What it said.
        reason: String,
    },
    /// The engines, or the model and its contract, disagree.
    #[error("check failed: {0}")]
    Check(String),
}

impl Error {
    /// Wraps an I/O error with the path that it happened at.
    pub fn at(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}

/// What most functions here return.
pub type Result<T> = std::result::Result<T, Error>;
