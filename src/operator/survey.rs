//! Many circuits, read in pieces.
//!
//! Owns how they are read and what is said of those that were not.

use tokio::time::Instant;

use super::{Operator, PIECE, View};
use crate::{Name, State, StoreError, store::in_words};

/// Which circuits to read, and how much of each.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Ask {
    /// How many slices of each one's past.
    pub slices: usize,
    /// Only those that have this in their name, in upper or lower case.
    pub part: String,
    /// Only those in this state.
    pub state: Option<State>,
    /// At most so many, in the order of their names; without, all, worst first.
    pub limit: Option<usize>,
    /// Only those whose names come after this one.
    pub after: String,
}

impl Ask {
    /// All, with so much of their past.
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

/// What was read.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Survey {
    /// The circuits.
    pub circuits: Vec<View>,
    /// Those that cannot be read, because something else is stored under their names, with what the
    /// store says of it.
    pub unreadable: Vec<(Name, StoreError)>,
    /// Why circuits are missing that should be here; `None` when none is, but for those above.
    pub incomplete: Option<String>,
    /// What the next page comes after, where a limit left circuits for it.
    pub next: Option<Name>,
}

impl Operator {
    /// Circuits that are listed, read in bounded pieces within the operator's
    /// [`timeout`](Self::timeout), and whether some are missing.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer at all.
    pub async fn survey(&self, ask: &Ask) -> Result<Survey, StoreError> {
        let until = Instant::now() + self.timeout;
        let (mut names, more) = self.index().await?;
        let ask = &Ask {
            part: ask.part.to_lowercase(),
            ..ask.clone()
        };
        names.retain(|name| ask.names(name));
        let mut survey = Survey::default();
        if more {
            let most = crate::store::MOST_CIRCUITS;
            let words =
                format!("the index has more than {most} names; only those used last are read");
            survey.incomplete = Some(words);
        }
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
                    let (left, all) = (names.len() - read, names.len());
                    let why = in_words(&error);
                    survey.incomplete =
                        Some(format!("{left} of {all} circuits were not read: {why}"));
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

    /// A few circuits; an error when the store is away.
    async fn piece(&self, names: &[Name], slices: usize) -> Result<Vec<Seen>, StoreError> {
        let views = self.views(names, slices).await?;
        let away = views
            .iter()
            .find_map(|view| view.as_ref().err().filter(|e| e.is_away()));
        match away {
            Some(error) => Err(error.clone()),
            None => Ok(views),
        }
    }
}

type Seen = Result<Option<View>, StoreError>;

impl Survey {
    /// Takes a circuit in, unless the page is full: then it is the next one's.
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
