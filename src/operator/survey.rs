//! Reading many circuits in batches.
//!
//! Owns how circuits are read, and how those that could not be read are reported.

use tokio::time::Instant;

use super::{Operator, PIECE, View};
use crate::{Name, State, StoreError, store::in_words};

/// Which circuits to read, and how much of each.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::{State, operator::{Ask, Operator}};
///
/// let mut ask = Ask::all(0);
/// ask.state = Some(State::Open);
/// for view in Operator::of(&circuits).survey(&ask).await?.circuits {
///     println!("{} is open", view.name);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Ask {
    /// How many slices of each circuit's past to read.
    pub slices: usize,
    /// Only circuits whose name contains this, in upper or lower case.
    pub part: String,
    /// Only circuits in this state.
    pub state: Option<State>,
    /// At most this many circuits, ordered by name; `None` reads all, worst first.
    pub limit: Option<usize>,
    /// Only circuits whose names sort after this one.
    pub after: String,
}

impl Ask {
    /// All circuits, each with this many slices of its past.
    #[must_use]
    pub fn all(slices: usize) -> Self {
        Self {
            slices,
            ..Self::default()
        }
    }

    fn names(&self, name: &Name) -> bool {
        let name = name.as_str();
        name > self.after.as_str()
            && (self.part.is_empty() || name.to_lowercase().contains(&self.part))
    }
}

/// The circuits that were read, and what is missing.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use commontrip::{Commontrip, Policy};
/// # let circuits = Commontrip::embedded()?;
/// # let payments = circuits.circuit("payments", Policy::default())?;
/// use commontrip::operator::{Ask, Operator};
///
/// let survey = Operator::of(&circuits).survey(&Ask::all(0)).await?;
/// if let Some(why) = &survey.incomplete {
///     println!("some circuits are missing: {why}");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Survey {
    /// The circuits.
    pub circuits: Vec<View>,
    /// Circuits that cannot be read, because something else is stored under their names, with the
    /// store's error.
    pub unreadable: Vec<(Name, StoreError)>,
    /// Why circuits other than the unreadable ones are missing; `None` if none are.
    pub incomplete: Option<String>,
    /// The [`after`](Ask::after) of the next page, if the limit left circuits for one.
    pub next: Option<Name>,
    /// Circuits that were not read in time.
    pub(super) unread: usize,
}

impl Operator {
    /// Reads the listed circuits in bounded batches within the operator's
    /// [`timeout`](Self::timeout), and reports whether some are missing.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer at all.
    pub async fn survey(&self, ask: &Ask) -> Result<Survey, StoreError> {
        let until = Instant::now() + self.timeout;
        let (mut names, incomplete) = self.index().await?;
        let ask = &Ask {
            part: ask.part.to_lowercase(),
            ..ask.clone()
        };
        names.retain(|name| ask.names(name));
        let mut survey = Survey {
            incomplete,
            ..Survey::default()
        };
        let mut read = 0;
        while read < names.len() && survey.next.is_none() {
            let piece = &names[read..names.len().min(read + PIECE)];
            let views = match Instant::now() < until || read == 0 {
                true => self.piece(piece, ask.slices).await,
                false => Err(StoreError::Timeout(self.timeout)),
            };
            match views {
                Ok(views) => {
                    for (name, view) in piece.iter().zip(views) {
                        survey.take(ask, name, view);
                    }
                    read += piece.len();
                }
                Err(error) if read == 0 => return Err(error),
                Err(error) => {
                    let (unread, all) = (names.len() - read, names.len());
                    let why = in_words(&error);
                    survey.incomplete =
                        Some(format!("{unread} of {all} circuits were not read: {why}"));
                    survey.unread = unread;
                    survey.next = ask.limit.map(|_| names[read - 1].clone());
                    break;
                }
            }
        }
        if ask.limit.is_none() {
            survey.circuits.sort_by(View::worst_first);
        }
        Ok(survey)
    }

    /// Reads one batch; an error if the store is unavailable.
    async fn piece(&self, names: &[Name], slices: usize) -> Result<Vec<Seen>, StoreError> {
        let views = self.views(names, slices).await?;
        let unavailable = views
            .iter()
            .find_map(|view| view.as_ref().err().filter(|e| e.is_unavailable()));
        match unavailable {
            Some(error) => Err(error.clone()),
            None => Ok(views),
        }
    }
}

type Seen = Result<Option<View>, StoreError>;

impl Survey {
    /// Adds a circuit, unless the page is full: then the circuit belongs to the next page.
    fn take(&mut self, ask: &Ask, name: &Name, seen: Seen) {
        if self.next.is_some() {
            return;
        }
        match seen {
            Ok(Some(view)) if ask.state.is_none_or(|state| view.snapshot.state == state) => {
                match self.circuits.last() {
                    Some(last) if ask.limit.is_some_and(|limit| self.circuits.len() >= limit) => {
                        self.next = Some(last.name.clone());
                    }
                    _ => self.circuits.push(view),
                }
            }
            Ok(_) => {}
            Err(error) => self.unreadable.push((name.clone(), error)),
        }
    }
}
