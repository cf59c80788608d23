//! The faces from outside, over real sockets, in front of the real task that owns the state.

mod rest;
mod support;
