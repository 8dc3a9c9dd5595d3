//! Work on the threads that libtorch's own kernels run on.
//!
//! libtorch shares its loops out among a team of OpenMP threads, which wait for the next loop by spinning for a while. Work on
//! other threads in between would share its cores with theirs; hence [`together`] borrows the team. Every thread that calls
//! libtorch has a team of its own, as large as `tch::set_num_threads` says there. Where libtorch runs on something else than
//! OpenMP there is nobody to borrow.

use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `GOMP_parallel` of GNU's OpenMP: runs a function on a team of so many threads, the caller among them, and returns when
/// all are done.
type Parallel = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

/// The function that libtorch's kernels call; none where they run on something else.
fn parallel() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: a search for a name among the libraries that are loaded; the answer is a function or null.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        // SAFETY: whoever exports this name has this signature, which GNU's OpenMP has kept since 2013; others export it for
        // programs that were compiled for that one.
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Parallel>(found) })
    })
}

/// What the team does, and the first panic of it.
struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Threads that libtorch's kernels run on when this thread calls them, this one among them.
#[must_use]
pub fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1)
}

/// Runs `work` once on each thread of libtorch's team, side by side, this thread among them; returns when all are done. Threads
/// are as many as [`threads`] says, or fewer: within a loop of the team itself there is this one alone. False, and nothing was
/// done, where there is no such team.
///
/// The size is always the whole team's: OpenMP ends and starts threads when it changes.
///
/// # Panics
///
/// With what the first of them panicked with.
pub fn together(work: &(dyn Fn() + Sync)) -> bool {
    let (Some(parallel), Ok(count)) = (parallel(), c_uint::try_from(threads())) else { return false };
    let job = Job { work, panic: Mutex::new(None) };
    // SAFETY: `run` takes a job, which outlives the call, since the call ends when every thread is done with it.
    unsafe { parallel(run, (&raw const job).cast_mut().cast(), count, 0) };
    if let Some(payload) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(payload);
    }
    true
}

/// One thread's part.
///
/// # Safety
///
/// `data` points at a [`Job`] that lives until this returns.
unsafe extern "C" fn run(data: *mut c_void) {
    // SAFETY: the caller's word; a job is shared, not changed.
    let job = unsafe { &*data.cast_const().cast::<Job<'_>>() };
    // A panic must not unwind into C.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (job.work)())) {
        job.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A loop of libtorch's, so that its library is loaded whatever the linker left out.
    fn woken() {
        let _ = tch::Tensor::ones([8], (tch::Kind::Float, tch::Device::Cpu)).sum(tch::Kind::Float);
    }

    /// What `work` answers on a thread of its own, whose team has so many threads.
    fn with_team<R: Send>(threads: i32, work: impl FnOnce() -> R + Send) -> R {
        let answer = std::thread::scope(|scope| {
            let running = scope.spawn(move || {
                tch::set_num_threads(threads);
                work()
            });
            running.join()
        });
        answer.unwrap()
    }

    #[test]
    fn every_thread_of_the_team_does_its_part_and_a_panic_comes_back() {
        woken();
        with_team(3, || {
            let count = AtomicUsize::new(0);
            let done = together(&|| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            println!("a team: {done}");
            assert_eq!(count.into_inner(), if done { threads() } else { 0 });
            if done {
                let caught = catch_unwind(|| together(&|| panic!("not today")));
                assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"not today"));
                assert!(together(&|| ()), "the team outlives a panic");
            }
        });
    }

    #[test]
    fn within_the_team_there_is_one_thread_and_other_threads_have_teams_of_their_own() {
        woken();
        let (inner, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let both = || {
            let _ = together(&|| {
                calls.fetch_add(1, Ordering::Relaxed);
                together(&|| {
                    inner.fetch_add(1, Ordering::Relaxed);
                });
            });
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(|| with_team(2, both)))));
        assert_eq!(inner.into_inner(), calls.into_inner());
    }
}
