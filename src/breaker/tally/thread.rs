//! Numbers for threads.
//!
//! Invariant: no two living threads have the same number; what a thread wrote is seen by the one
//! that has its number next.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

/// Not a number yet.
const NONE: usize = usize::MAX;

thread_local!(static NUMBER: Cell<usize> = const { Cell::new(NONE) });

/// The present thread's number: small, and no other living thread's.
#[inline]
pub(super) fn number() -> usize {
    NUMBER.with(|number| {
        if number.get() == NONE {
            number.set(take());
        }
        number.get()
    })
}

/// Numbers of threads that have ended.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Gives its number back when its thread ends.
struct Lent(usize);

impl Drop for Lent {
    fn drop(&mut self) {
        // What its other destructors may yet record goes under a number of its own.
        NUMBER.set(NONE);
        FREE.lock().push(self.0);
    }
}

#[cold]
fn take() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static LENT: Cell<Option<Lent>> = const { Cell::new(None) });
    let free = FREE.lock().pop();
    let number = free.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
    // A thread that is ending keeps its number for good: nothing would give it back.
    let _ = LENT.try_with(|lent| lent.set(Some(Lent(number))));
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_lent_again_when_its_thread_has_ended() {
        let other = || std::thread::spawn(number).join().unwrap();
        let mine = number();
        let seen: std::collections::BTreeSet<_> = (0..100).map(|_| other()).collect();
        assert!(!seen.contains(&mine));
        assert!(seen.len() < 50, "{seen:?}");
    }
}
