//! Durable work for when a circuit is open.
