//! recloser: a ring of the last 100 calls, without a time window.

use std::sync::Arc;

use recloser::{AsyncRecloser, Error, Recloser};

use crate::{
    call::{Refused, refuse, upstream, upstream_async},
    subject::{FAILURES, LONG, State, Subject},
};

fn breaker(state: State) -> Recloser {
    let breaker = Recloser::custom().open_wait(LONG).build();
    if state == State::Open {
        for _ in 0..FAILURES {
            let _ = breaker.call(refuse);
        }
    }
    breaker
}

fn rejected(error: &Error<Refused>) -> bool {
    matches!(error, Error::Rejected)
}

pub fn subjects(state: State) -> Vec<Subject> {
    let name = "recloser";
    let blocking = Arc::new(breaker(state));
    let awaited = Arc::new(AsyncRecloser::from(breaker(state)));
    vec![
        Subject::blocking(name, state, blocking, |b| b.call(upstream), rejected),
        Subject::awaited(
            name,
            state,
            awaited,
            async |b: &mut Arc<AsyncRecloser>| b.call(upstream_async()).await,
            rejected,
        ),
    ]
}
