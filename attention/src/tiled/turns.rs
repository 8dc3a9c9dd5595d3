//! Turns at the gradients of blocks of keys: sums in one order, on any number of threads, without copies.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Looks at the count before the thread offers its core to others: some microseconds.
const SPINS: usize = 1000;

/// dK and dV of one block of keys.
struct Block<'a> {
    /// Contributions so far.
    count: AtomicUsize,
    /// Never contended: whoever has the turn is alone.
    sums: Mutex<(&'a mut [f32], &'a mut [f32])>,
}

/// dK and dV, block by block.
pub(super) struct Turns<'a> {
    blocks: Vec<Block<'a>>,
    /// Blocks of one key head.
    per_unit: usize,
    /// A task panicked, so turns will not come.
    abandoned: AtomicBool,
}

/// A block, and which contribution to it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ranked {
    block: usize,
    rank: usize,
}

/// Counts ranks, in the order in which tasks are handed out.
pub(super) struct Ranks {
    next: Vec<usize>,
    per_unit: usize,
}

impl Ranks {
    /// The next rank at `block` of `unit`.
    pub(super) fn next(&mut self, unit: usize, block: usize) -> Ranked {
        let block = unit * self.per_unit + block;
        let rank = self.next[block];
        self.next[block] += 1;
        Ranked { block, rank }
    }
}

impl<'a> Turns<'a> {
    /// Heads of `head` numbers in blocks of `block`.
    pub(super) fn new(dk: &'a mut [f32], dv: &'a mut [f32], head: usize, block: usize) -> Self {
        let heads = dk.chunks_mut(head).zip(dv.chunks_mut(head));
        let blocks = heads.flat_map(|(dk, dv)| dk.chunks_mut(block).zip(dv.chunks_mut(block)));
        let blocks = blocks.map(|sums| Block { count: AtomicUsize::new(0), sums: Mutex::new(sums) }).collect();
        Self { blocks, per_unit: head.div_ceil(block), abandoned: AtomicBool::new(false) }
    }

    /// Ranks from the start.
    pub(super) fn ranks(&self) -> Ranks {
        Ranks { next: vec![0; self.blocks.len()], per_unit: self.per_unit }
    }

    /// The turn of a contribution, to be taken later.
    pub(super) fn turn(&self, ranked: Ranked) -> Turn<'_, 'a> {
        Turn { block: &self.blocks[ranked.block], rank: ranked.rank, abandoned: &self.abandoned }
    }

    /// Tells those who wait if this thread panics before the alarm is dropped.
    pub(super) fn alarm(&self) -> Alarm<'_> {
        Alarm(&self.abandoned)
    }
}

/// See [`Turns::alarm`].
pub(super) struct Alarm<'t>(&'t AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A turn; when it is dropped, the next one comes.
pub(super) struct Turn<'t, 'a> {
    block: &'t Block<'a>,
    rank: usize,
    abandoned: &'t AtomicBool,
}

impl Turn<'_, '_> {
    /// Waits for the turn, and works on dK and dV of the block.
    pub(super) fn with(&self, work: impl FnOnce(&mut [f32], &mut [f32])) {
        self.wait();
        let mut sums = self.block.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let (dk, dv) = &mut *sums;
        work(dk, dv);
    }

    fn wait(&self) {
        wait(self.block, self.rank, self.abandoned);
    }
}

/// Waits until so many contributions have been made.
fn wait(block: &Block<'_>, rank: usize, abandoned: &AtomicBool) {
    let mut looks = 0_usize;
    while block.count.load(Ordering::Acquire) != rank {
        assert!(!abandoned.load(Ordering::Relaxed), "another thread of this backward pass panicked");
        looks += 1;
        if looks.is_multiple_of(SPINS) {
            thread::yield_now();
        } else {
            hint::spin_loop();
        }
    }
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        // A turn that was not used is still one that others wait for.
        if !thread::panicking() {
            self.wait();
            self.block.count.store(self.rank + 1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contributions_come_in_the_order_of_their_ranks_whoever_is_first() {
        let (mut dk, mut dv) = (vec![0.0_f32; 4], vec![0.0_f32; 4]);
        let turns = Turns::new(&mut dk, &mut dv, 4, 2);
        let mut ranks = turns.ranks();
        let ranked: Vec<Ranked> = (0..8).map(|_| ranks.next(0, 1)).collect();
        thread::scope(|scope| {
            for (number, ranked) in ranked.into_iter().enumerate().rev() {
                let turns = &turns;
                // Appending a digit shows the order.
                let digit = number as f32;
                scope.spawn(move || turns.turn(ranked).with(|dk, _| dk[1] = dk[1] * 8.0 + digit));
            }
        });
        drop(turns);
        let digits = (0..8).fold(0.0, |digits, digit| digits * 8.0 + digit as f32);
        assert_eq!(dk, [0.0, 0.0, 0.0, digits]);
    }

    #[test]
    fn those_who_wait_for_a_thread_that_panicked_do_not_wait_for_ever() {
        let (mut dk, mut dv) = (vec![0.0_f32; 1], vec![0.0_f32; 1]);
        let turns = Turns::new(&mut dk, &mut dv, 1, 1);
        let mut ranks = turns.ranks();
        let (first, second) = (ranks.next(0, 0), ranks.next(0, 0));
        let waits = thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.turn(second).with(|_, _| ()));
            let broken = scope.spawn(|| {
                let _alarm = turns.alarm();
                let _turn = turns.turn(first);
                panic!("as planned");
            });
            assert!(broken.join().is_err());
            waiting.join()
        });
        assert!(waits.is_err());
    }
}
