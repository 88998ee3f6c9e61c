//! Checks that one replica of the fleet runs.
