//! Which alerts of a circuit somebody sends, or has sent.
//!
//! Owns who may send one: one replica of the fleet, and another when that did not say in time that it
//! has. Knows no states. Twin: `lua/claim.lua`.

use std::collections::HashMap;

use serde::Serialize;

/// Asks to send an alert, or says that it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Claim {
    /// Unix ms, for tests; 0 = the store's clock.
    pub now_ms: u64,
    /// Names the rule, 1 to 200 bytes.
    pub rule: String,
    /// What the alert is about, such as the generation in which a circuit opened: it is sent once.
    pub episode: u64,
    /// How long the claim lasts; when it was sent, how long no other alert of the rule is.
    pub for_ms: u64,
    /// Whether it was sent.
    pub sent: bool,
}

impl Claim {
    /// Asks to send the alert of a rule about an episode, within so many ms.
    #[must_use]
    pub fn new(rule: &str, episode: u64, for_ms: u64) -> Self {
        Self {
            rule: rule.to_owned(),
            episode,
            for_ms,
            ..Self::default()
        }
    }

    /// Says that it was sent, and that no other of the rule is to be for so many ms.
    #[must_use]
    pub fn sent(self, for_ms: u64) -> Self {
        Self {
            for_ms,
            sent: true,
            ..self
        }
    }
}

/// Rule -> episode, until when nobody else may ask, and whether it was sent.
#[derive(Clone, Debug, Default)]
pub struct Claims(HashMap<String, (u64, u64, bool)>);

impl Claims {
    /// 0 where the caller is to send the alert, else how many ms to wait before asking again.
    pub fn claim(&mut self, claim: &Claim, now: u64) -> u64 {
        if let Some((episode, until, sent)) = self.0.get(&claim.rule)
            && !claim.sent
        {
            if *until > now {
                return until - now;
            }
            if *sent && *episode == claim.episode {
                return claim.for_ms.max(1);
            }
        }
        let until = now.saturating_add(claim.for_ms);
        self.0
            .insert(claim.rule.clone(), (claim.episode, until, claim.sent));
        0
    }
}
