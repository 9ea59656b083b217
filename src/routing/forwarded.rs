//! What endpoints are told of who the client is.

/// By which fields, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub x_forwarded_for: Mode,
    pub x_real_ip: bool,
    /// RFC 7239.
    pub forwarded: Mode,
}

/// What becomes of a field. What somebody untrusted said of it is gone before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The address that the connection came from comes behind what a trusted proxy said.
    Append,
    /// The client's address, and nothing else.
    Replace,
    /// What a trusted proxy said passes.
    None,
}

impl Forwarded {
    /// What holds where nobody says anything.
    pub const BUILT_IN: Self = Self {
        x_forwarded_for: Mode::Append,
        x_real_ip: true,
        forwarded: Mode::None,
    };
}
