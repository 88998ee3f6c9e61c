//! For tests of code that uses circuits.
