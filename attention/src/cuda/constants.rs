//! Small tables on the device, sent once for many calls: every layer of a model has the same slopes and documents, and each
//! transfer would wait for all work before it.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, TchError, Tensor};

/// How many are kept; the longest unused goes first.
const KEPT: usize = 16;

/// What a table is known by. Memory belongs to the stream that it was allocated on: another stream gets its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    bytes: Vec<u8>,
    kind: Kind,
    device: Device,
    stream: usize,
}

/// Tables in use, the latest last.
static TABLES: Mutex<Vec<(Key, Tensor)>> = Mutex::new(Vec::new());

/// `values` as a tensor on a device, for use on the current stream, which `stream` identifies.
pub(super) fn constant<T: tch::kind::Element>(values: &[T], device: Device, stream: usize) -> Result<Tensor, TchError> {
    let host = Tensor::f_from_slice(values)?;
    let mut bytes = vec![0_u8; size_of_val(values)];
    host.f_copy_data_u8(&mut bytes, values.len())?;
    let key = Key { bytes, kind: T::KIND, device, stream };
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let found = tables.iter().position(|(known, _)| *known == key);
    let (key, tensor) = match found {
        Some(at) => tables.remove(at),
        None => (key, host.f_to_device(device)?),
    };
    let shared = tensor.shallow_clone();
    if tables.len() >= KEPT {
        _ = tables.remove(0);
    }
    tables.push((key, tensor));
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tensor: &Tensor) -> usize {
        tensor.data_ptr() as usize
    }

    #[test]
    fn equal_tables_of_one_stream_are_sent_once() {
        let table = |values: &[f32], stream| constant(values, Device::Cpu, stream).unwrap();
        let first = table(&[0.5, 0.25], 1);
        assert_eq!(at(&first), at(&table(&[0.5, 0.25], 1)));
        assert_ne!(at(&first), at(&table(&[0.5, 0.25], 2)));
        assert_ne!(at(&first), at(&table(&[0.5, 0.125], 1)));
        // The bits of 0.5 and 0.25 as whole numbers.
        let same_bits = constant(&[0x3f00_0000_i32, 0x3e80_0000], Device::Cpu, 1).unwrap();
        assert_ne!(at(&first), at(&same_bits));
        // Many others push it out; the one in hand stays whole.
        (0..2 * KEPT).for_each(|n| _ = table(&[n as f32], 1));
        assert_eq!(Vec::<f32>::try_from(&first).unwrap(), [0.5, 0.25]);
        assert!(TABLES.lock().unwrap().len() <= KEPT);
    }
}
