//! Inputs of layers in host memory while nobody reads them.
//!
//! On CUDA they go to pinned memory and come back by copies on a stream of their own, beside the arithmetic: the copy out
//! begins when its layer does, the one back while the layer above it goes backward. On the CPU the same steps are plain
//! copies, which save nothing and change nothing.

use std::sync::{Arc, Mutex, PoisonError};

use tch::Tensor;
use torch_ext::transfer::{Transfer, to_device, to_host};

use crate::error::Failure;

/// Inputs of the layers of one pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Parking(Arc<Mutex<Vec<Place>>>);

/// Where the input of a layer is.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Nowhere,
    /// In host memory, or on its way there.
    Away(Transfer),
    /// On its way back.
    Coming(Transfer),
}

impl Parking {
    /// Sends the input of a layer to host memory.
    ///
    /// # Errors
    ///
    /// When pinned memory cannot be had.
    pub(super) fn park(&self, layer: usize, x: &Tensor) -> Result<(), Failure> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() <= layer {
            places.resize_with(layer + 1, Place::default);
        }
        places[layer] = Place::Away(to_host(x)?);
        Ok(())
    }

    /// The input of a layer, back where it was, and that of the layer below on its way.
    ///
    /// # Errors
    ///
    /// When it is not here, or memory for it cannot be had.
    pub(super) fn fetch(&self, layer: usize) -> Result<Tensor, Failure> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let coming = coming(&mut places, layer)?;
        let coming = coming.ok_or_else(|| Failure::config(format!("the input of layer {layer} was fetched before")))?;
        if let Some(below) = layer.checked_sub(1)
            && let Some(transfer) = self::coming(&mut places, below)?
        {
            places[below] = Place::Coming(transfer);
        }
        Ok(coming.finished()?)
    }
}

/// Takes the input of a layer, on its way back; none where it is not here.
fn coming(places: &mut [Place], layer: usize) -> Result<Option<Transfer>, Failure> {
    Ok(match places.get_mut(layer).map(std::mem::take) {
        Some(Place::Away(transfer)) => Some(to_device(transfer)?),
        Some(Place::Coming(transfer)) => Some(transfer),
        Some(Place::Nowhere) | None => None,
    })
}
