//! Circuits around reqwest clients.
