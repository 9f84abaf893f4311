//! Inputs that stay on the device where the model runs, for as long as the mesh keeps its shape.
//!
//! A graph's edges and paths are most of what a model reads of a large mesh, and they change only with the mesh: they are
//! copied to the device once (`Features::shape` says that they are the same). What was seen is written into page-locked
//! memory that is kept, too, from which a device reads without another copy, and answers come back once, into
//! ordinary memory. The weights are the session's, on the device since it was opened.
//!
//! On the CPU all this would be a copy more than none: there the engine reads the features where they are.

use super::contract::OUTPUTS;
use crate::graph::Features;
use crate::graph::features::{EDGE_FEATURES, NODE_FEATURES};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session, SessionOutputs};
use ort::value::{Tensor, TensorRef};

/// Which memory the features are written into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Staging {
    /// Page-locked, for CUDA.
    Pinned,
    /// Ordinary: so that all of this can be tested where there is no device.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    Ordinary,
}

/// A session's bound inputs and outputs, for meshes of one shape.
pub(super) struct Bound {
    binding: IoBinding,
    nodes: Tensor<f32>,
    edge_features: Tensor<f32>,
    shape: u64,
    counts: [usize; 3],
}

fn counts(features: &Features) -> [usize; 3] {
    [features.node_count(), features.edge_count(), features.candidate_count()]
}

impl Bound {
    /// Whether features can be bound at all: an empty tensor has no memory to be bound.
    pub fn can_take(features: &Features) -> bool {
        features.edge_count() > 0 && !features.path_links.is_empty()
    }

    /// Whether edges and paths of these features are those that are bound.
    pub fn fits(&self, features: &Features) -> bool {
        self.shape != 0 && self.shape == features.shape && self.counts == counts(features)
    }

    /// Binds the edges and paths of these features, and memory for the rest.
    pub fn new(session: &Session, features: &Features, staging: Staging) -> ort::Result<Self> {
        let (device, kind) = match staging {
            Staging::Pinned => (AllocationDevice::CUDA_PINNED, MemoryType::CPUInput),
            Staging::Ordinary => (AllocationDevice::CPU, MemoryType::Default),
        };
        let allocator = Allocator::new(session, MemoryInfo::new(device, 0, AllocatorType::Device, kind)?)?;
        let [n, e, _] = counts(features);
        let mut binding = session.create_binding()?;
        let (offsets, links) = (features.path_offsets.as_slice(), features.path_links.as_slice());
        binding.bind_input("edges", &*TensorRef::from_array_view(([2, e], features.edges.as_slice()))?)?;
        binding.bind_input("path_offsets", &*TensorRef::from_array_view(([offsets.len()], offsets))?)?;
        binding.bind_input("path_links", &*TensorRef::from_array_view(([links.len()], links))?)?;
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        for name in OUTPUTS {
            binding.bind_output_to_device(name, &host)?;
        }
        Ok(Self {
            binding,
            nodes: Tensor::new(&allocator, [n, NODE_FEATURES.len()])?,
            edge_features: Tensor::new(&allocator, [e, EDGE_FEATURES.len()])?,
            shape: features.shape,
            counts: counts(features),
        })
    }

    /// Runs the session on features that this fits.
    pub fn run<'b>(
        &'b mut self,
        session: &'b mut Session,
        options: &RunOptions,
        features: &Features,
    ) -> ort::Result<SessionOutputs<'b>> {
        for (name, tensor, values) in [
            ("node_features", &mut self.nodes, &features.nodes),
            ("edge_features", &mut self.edge_features, &features.edge_features),
        ] {
            let (_, memory) = tensor.try_extract_tensor_mut()?;
            memory.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
            // Binding is what copies to a device.
            self.binding.bind_input(name, tensor)?;
        }
        self.binding.synchronize_inputs()?;
        let outputs = session.run_binding_with_options(&self.binding, options)?;
        self.binding.synchronize_outputs()?;
        Ok(outputs)
    }
}
