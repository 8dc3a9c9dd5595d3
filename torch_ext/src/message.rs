//! Messages of the shim: null for success, else a C string made by `strdup`.

use std::ffi::{CStr, CString, c_char};

/// The text of a message, which is freed; none for null.
pub(crate) fn taken(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: not null, a C string.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: made by strdup on the other side, freed once.
    unsafe { libc::free(message.cast()) };
    Some(text)
}

/// A message for the shim, which frees it.
pub(crate) fn given(text: &str) -> *mut c_char {
    // A C string ends at its first zero; none is left inside.
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: a C string that outlives the call.
    unsafe { libc::strdup(text.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way_there_and_back() {
        assert_eq!(taken(given("no memory for 3 tensors")).as_deref(), Some("no memory for 3 tensors"));
        assert_eq!(taken(given("two\0parts")).as_deref(), Some("two parts"));
        assert_eq!(taken(std::ptr::null_mut()), None);
    }
}
