//! Which device, which threads, which element type.

use tch::{Device, Kind};

use crate::config::Dtype;
use crate::error::Failure;

/// Reads `cpu`, `cuda` or `cuda:N`; none means `cuda:0` when there is one, else `cpu`.
///
/// # Errors
///
/// When the name is unknown, or the device is not there, with the reason.
pub fn device(name: Option<&str>) -> Result<Device, Failure> {
    let cuda = || torch_ext::cuda::state();
    match name {
        None if cuda().is_available() => Ok(Device::Cuda(0)),
        None | Some("cpu") => Ok(Device::Cpu),
        Some(name) => {
            let number = match name.strip_prefix("cuda") {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
                None => None,
            };
            let Some(number) = number else {
                return Err(Failure::config(format!("--device {name}: expected cpu, cuda or cuda:N")));
            };
            match cuda() {
                state if state.is_available() && number < state.devices() => Ok(Device::Cuda(number)),
                state => Err(Failure::config(format!("--device {name}: {state}"))),
            }
        }
    }
}

/// The device for a reader.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(n) => format!("cuda:{n}"),
        _ => "cpu".to_owned(),
    }
}

/// libtorch's element type.
pub fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Bfloat16 => Kind::BFloat16,
    }
}

/// Name of an element type as in `config.json`.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "float32",
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        Kind::Uint8 => "uint8",
        _ => "other",
    }
}
