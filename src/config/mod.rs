//! Policies from files and from the environment.
