//! The data plane over real sockets: each rule of a tunnel's life, read and written byte by byte from both of its sides.
//!
//! Every test starts a data plane of its own on a free port; nothing is shared, and all run at once.

mod support;

mod causes;
mod closing;
mod dialling;
mod handshake;
mod injecting;
mod libraries;
mod pings;
mod refusals;
mod relay;
mod timeouts;
