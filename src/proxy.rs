//! The data plane: takes connections, upgrades them and relays their frames.

pub mod end;
pub mod error;
pub mod frame;
