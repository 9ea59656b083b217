//! Load balancers that nobody told us of: their word is not taken, which is counted, and said once with the flag to set.

use std::{
    net::SocketAddr,
    sync::{Once, atomic::Ordering::Relaxed},
};

use super::{Shared, client::is_private};

/// What has been said already.
#[derive(Debug)]
pub(super) struct Untrusted {
    forwarded_for: Once,
    proxy_header: Once,
    proxy: Once,
}

impl Default for Untrusted {
    fn default() -> Self {
        Self {
            forwarded_for: Once::new(),
            proxy_header: Once::new(),
            proxy: Once::new(),
        }
    }
}

impl Untrusted {
    /// `X-Forwarded-For` came from a peer that is no trusted proxy.
    pub fn forwarded_for(&self, shared: &Shared, peer: SocketAddr) {
        if !is_private(peer.ip()) {
            return; // anybody on the internet may send one
        }
        shared.metrics.shared().untrusted_forwarders.fetch_add(1, Relaxed);
        self.forwarded_for.call_once(|| {
            tracing::warn!(
                peer = %peer.ip().to_canonical(),
                "X-Forwarded-For from a private address that is no trusted proxy is dropped; if it is your load balancer, \
                 name its network with --trusted-proxies"
            );
        });
    }

    /// A PROXY protocol header came where none is expected.
    pub fn proxy_header(&self, shared: &Shared, peer: SocketAddr) {
        if !is_private(peer.ip()) {
            return;
        }
        shared.metrics.shared().untrusted_forwarders.fetch_add(1, Relaxed);
        self.proxy_header.call_once(|| {
            tracing::warn!(
                peer = %peer.ip().to_canonical(),
                "a PROXY protocol header came from a private address and was refused; if your load balancer sends them, \
                 switch on --proxy-protocol"
            );
        });
    }

    /// A connection that should begin with a PROXY protocol header came from a peer that is no trusted proxy.
    pub fn proxy(&self, shared: &Shared, peer: SocketAddr) {
        if !is_private(peer.ip()) {
            return;
        }
        shared.metrics.shared().untrusted_forwarders.fetch_add(1, Relaxed);
        self.proxy.call_once(|| {
            tracing::warn!(
                peer = %peer.ip().to_canonical(),
                "a connection from a private address that is no trusted proxy was refused, because --proxy-protocol is on; if \
                 it is your load balancer, name its network with --trusted-proxies"
            );
        });
    }
}
