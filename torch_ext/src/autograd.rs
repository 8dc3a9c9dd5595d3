//! What tch does not say about libtorch's autograd.

/// Whether operations on this thread are recorded for gradients: false inside `tch::no_grad`.
#[must_use]
pub fn grad_enabled() -> bool {
    // SAFETY: the call sets a thread-local flag and returns its former value; it takes no pointer and cannot fail.
    let before = unsafe { torch_sys::at_grad_set_enabled(0) };
    // SAFETY: as above; this puts the former value back before anyone can have seen the other.
    unsafe { torch_sys::at_grad_set_enabled(before) };
    before != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_grad_is_seen_and_left_as_it_was() {
        assert!(grad_enabled());
        tch::no_grad(|| assert!(!grad_enabled()));
        assert!(grad_enabled());
    }
}
