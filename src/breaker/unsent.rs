//! How far the end of a registry has progressed, and what it could not send.
//!
//! Owns the types; `ending` acts on them.

/// What a registry could not send before it was shut down, or what was not confirmed in time.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// let unsent = circuits.shutdown().await;
/// if !unsent.is_empty() {
///     eprintln!("{} outcomes of {} circuits were not sent", unsent.outcomes, unsent.circuits);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsent {
    /// Circuits with something that was not sent.
    pub circuits: usize,
    /// Outcomes of their calls, including rejections.
    pub outcomes: u64,
}

impl Unsent {
    /// Whether everything was sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.circuits == 0
    }
}

/// Work of another module that `shutdown` waits for.
#[cfg(feature = "fallback")]
pub(crate) trait Unfinished: Send + Sync {
    /// Completes when nothing is left to do, or at the deadline; then it logs what is lost.
    fn finish(&self, deadline: tokio::time::Instant) -> futures_util::future::BoxFuture<'_, ()>;
}

/// How far the end of a registry has progressed.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Why reporting has ended, once it has.
    pub(super) why: Option<&'static str>,
    /// Whether nobody holds the registry, one of its circuits or a permit any more.
    pub(super) left: bool,
}
