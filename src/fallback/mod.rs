//! What to answer when a call fails or is rejected.
