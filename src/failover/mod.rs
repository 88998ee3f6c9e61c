//! An ordered chain of stages.
