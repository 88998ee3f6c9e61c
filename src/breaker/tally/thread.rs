//! Numbers for threads.
//!
//! Invariant: no two living threads have the same number; a thread sees what the previous holder of
//! its number wrote.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

/// No number yet.
const NONE: usize = usize::MAX;

thread_local!(static NUMBER: Cell<usize> = const { Cell::new(NONE) });

/// The current thread's number: small, and unique among living threads.
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

/// Gives the number back when its thread ends.
struct Lent(usize);

impl Drop for Lent {
    fn drop(&mut self) {
        // Whatever the thread's other destructors still record goes under a new number.
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
