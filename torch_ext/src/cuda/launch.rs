//! Machine code in a device's context, and its functions put on libtorch's current stream.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use cudarc::driver::{result, sys};

use super::device::{Context, Device, told};
use super::error::CudaError;
use crate::message;

// Defined in `shim/cuda.cpp`.
unsafe extern "C" {
    fn bowline_current_cuda_stream(device: c_int, stream: *mut *mut c_void) -> *mut c_char;
}

/// A function that is ready to run on one device.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    function: sys::CUfunction,
    context: Context,
    ordinal: usize,
}

// SAFETY: a function's handle may be used from any thread; its module is never unloaded.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// How many threads a launch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z; none may be zero.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Shared memory (bytes) of a block beyond what the source declares.
    pub shared_bytes: u32,
}

/// A way to put a function on a stream: blocks, threads of a block, bytes of shared memory, and where each parameter is.
type Start = unsafe fn(
    sys::CUfunction,
    (u32, u32, u32),
    (u32, u32, u32),
    u32,
    sys::CUstream,
    &mut [*mut c_void],
) -> Result<(), result::DriverError>;

/// Machine code in a context, there for the life of the process.
pub(super) struct Module {
    handle: sys::CUmodule,
    context: Context,
}

impl Module {
    pub(super) fn load(context: Context, name: &str, cubin: &[u8]) -> Result<Self, CudaError> {
        let _entered = context.enter()?;
        // SAFETY: the code is a whole file of the compiler's, which tells its own length; the driver copies it.
        let handle = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
        Ok(Self { handle: told(&format!("load the code of {name}"), handle)?, context })
    }

    /// Looks a function up and lets it use as much shared memory as the device has for a block.
    pub(super) fn kernel(&self, device: &Device, name: &str) -> Result<Kernel, CudaError> {
        let _entered = self.context.enter()?;
        let c_name = CString::new(name).map_err(|_| CudaError::ZeroByte { what: "a function's name" })?;
        // SAFETY: the module is loaded and never unloaded.
        let found = unsafe { result::module::get_function(self.handle, c_name) };
        let function = told(&format!("find the function {name}"), found)?;
        let mut declared = 0;
        // SAFETY: the place for one number and a function that was found above.
        let code = unsafe {
            sys::cuFuncGetAttribute(
                &raw mut declared,
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                function,
            )
        };
        told(&format!("tell the shared memory of {name}"), code.result())?;
        let (needed, most) = (u32::try_from(declared).unwrap_or(0), device.shared_bytes());
        let Some(left) = most.checked_sub(needed) else {
            return Err(CudaError::SharedMemory { kernel: name.to_owned(), needed, most });
        };
        // Beyond 48 KiB a launch is refused unless the function was allowed it beforehand.
        // SAFETY: a function that was found above.
        let allowed = unsafe {
            result::function::set_function_attribute(
                function,
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                i32::try_from(left).unwrap_or(i32::MAX),
            )
        };
        told(&format!("allow {name} {left} bytes of shared memory"), allowed)?;
        Ok(Kernel { function, context: self.context, ordinal: device.ordinal() })
    }
}

impl Kernel {
    /// Puts the function on libtorch's current stream of its device and returns at once; what goes wrong while it runs is
    /// told by a later call, as libtorch's own kernels do.
    ///
    /// # Errors
    ///
    /// [`CudaError::Stream`] and [`CudaError::Driver`], among others when a block is larger than the device takes.
    ///
    /// # Safety
    ///
    /// The function takes one parameter, a structure of the size and layout of `P`. Every pointer in it is memory of this
    /// device of the extent that the function reaches, allocated by libtorch on its current stream or not freed before
    /// the function has ended.
    pub unsafe fn launch<P: Copy>(&self, launch: &Launch, parameters: &P) -> Result<(), CudaError> {
        // SAFETY: as the caller vouches.
        unsafe { self.put(result::launch_kernel, launch, parameters) }
    }

    /// The same for blocks that wait for each other: none starts before there is room for all, whatever else the device
    /// does. Two such launches on different streams would else each hold what the other waits for.
    ///
    /// # Errors
    ///
    /// As [`Kernel::launch`]; [`CudaError::Driver`] when the device never has room for all blocks at once.
    ///
    /// # Safety
    ///
    /// As [`Kernel::launch`].
    pub unsafe fn launch_together<P: Copy>(&self, launch: &Launch, parameters: &P) -> Result<(), CudaError> {
        // SAFETY: as the caller vouches.
        unsafe { self.put(result::launch_cooperative_kernel, launch, parameters) }
    }

    /// Calls the driver's function `start`.
    ///
    /// # Safety
    ///
    /// As [`Kernel::launch`].
    unsafe fn put<P: Copy>(&self, start: Start, launch: &Launch, parameters: &P) -> Result<(), CudaError> {
        let stream = current_stream(self.ordinal)?;
        let _entered = self.context.enter()?;
        let ([x, y, z], [a, b, c]) = (launch.grid, launch.block);
        let mut places = [ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
        // SAFETY: function, context and stream belong to one device; the parameter is copied before the call returns, and
        // is what the function takes, as the caller vouches.
        let answer = unsafe { start(self.function, (x, y, z), (a, b, c), launch.shared_bytes, stream, &mut places) };
        told(&format!("start {launch:?}"), answer)
    }
}

/// The stream that libtorch puts its own work on, on this thread.
pub(super) fn current_stream(ordinal: usize) -> Result<sys::CUstream, CudaError> {
    let number = c_int::try_from(ordinal).map_err(|_| CudaError::Stream { reason: format!("no device {ordinal}") })?;
    let mut stream: *mut c_void = ptr::null_mut();
    // SAFETY: the place for one pointer.
    let refusal = message::taken(unsafe { bowline_current_cuda_stream(number, &raw mut stream) });
    refusal.map_or(Ok(stream.cast()), |reason| Err(CudaError::Stream { reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda;

    #[test]
    fn libtorch_without_cuda_tells_so_instead_of_a_stream() {
        if cuda::state().is_available() {
            assert!(current_stream(0).is_ok());
            return;
        }
        let Err(CudaError::Stream { reason }) = current_stream(0) else { panic!("a stream of no device") };
        assert!(!reason.is_empty());
    }
}
