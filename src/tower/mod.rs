//! Circuits around tower services.
