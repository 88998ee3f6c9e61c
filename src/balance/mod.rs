//! Several equal upstreams, each with a circuit.
