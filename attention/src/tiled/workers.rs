//! Tasks in order, on several threads.
//!
//! Whoever calls from a rayon pool gets its threads. Others get those of libtorch's own kernels, where there are such: these wait
//! for their next loop by spinning, and would share their cores with a pool's.

use std::sync::{Mutex, PoisonError};

/// Does `work` for every item, shared out among the threads that attention's tasks run on: those of the current rayon pool; outside
/// any pool those of libtorch's own kernels, as many as `tch::set_num_threads` says.
pub fn for_each<T: Send>(items: impl ExactSizeIterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    in_order(items, || (), |(), item| work(item));
}

/// Hands out `tasks` one by one, first to last, to as many workers as there are [`threads`]; each worker makes one scratch
/// space. A task may wait for tasks before it: those are done or being done when it is handed out.
pub(super) fn in_order<T: Send, W>(
    tasks: impl ExactSizeIterator<Item = T> + Send,
    scratch: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, T) + Sync,
) {
    let most = tasks.len();
    let queue = Mutex::new(tasks);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    together(most, &|| {
        let Some(first) = next() else { return };
        let mut space = scratch();
        work(&mut space, first);
        while let Some(task) = next() {
            work(&mut space, task);
        }
    });
}

/// Threads that tasks are shared out among.
pub(super) fn threads() -> usize {
    #[cfg(feature = "torch")]
    if rayon::current_thread_index().is_none() {
        return torch_ext::team::threads();
    }
    rayon::current_num_threads()
}

/// Runs `serve` on [`threads`] side by side, of which `most` at most have something to do.
fn together(most: usize, serve: &(dyn Fn() + Sync)) {
    let workers = threads().min(most);
    if workers <= 1 {
        return serve();
    }
    #[cfg(feature = "torch")]
    if rayon::current_thread_index().is_none() && torch_ext::team::together(serve) {
        return;
    }
    rayon::scope(|scope| (0..workers).for_each(|_| scope.spawn(|_| serve())));
}

/// A zeroed buffer that starts at a cache line, so that no vector straddles two.
pub(super) struct Buffer {
    numbers: Vec<f32>,
    start: usize,
    len: usize,
}

/// Numbers in a cache line.
const LINE: usize = 16;

impl Buffer {
    pub(super) fn new(len: usize) -> Self {
        let numbers = vec![0.0_f32; Self::numbers(len)];
        let start = numbers.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { numbers, start, len }
    }

    /// Numbers that a buffer of `len` takes.
    pub(super) fn numbers(len: usize) -> usize {
        len + LINE
    }

    pub(super) fn as_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[self.start..self.start + self.len]
    }
}

/// Cuts buffers off the front of a slice, each at a cache line.
pub(super) struct Cutter<'a>(pub(super) &'a mut [f32]);

impl<'a> Cutter<'a> {
    pub(super) fn cut(&mut self, len: usize) -> &'a mut [f32] {
        let (front, rest) = std::mem::take(&mut self.0).split_at_mut(len.next_multiple_of(LINE));
        self.0 = rest;
        &mut front[..len]
    }

    /// What [`Cutter::cut`] takes for `lens`.
    pub(super) fn total(lens: &[usize]) -> usize {
        lens.iter().map(|len| len.next_multiple_of(LINE)).sum()
    }
}
