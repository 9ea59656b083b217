//! A stand-in kubelet, without a container runtime: the pods of a node run as processes of this machine, each pod in a network and
//! each container in a mount namespace of its own, with the files of its image and its volumes and no others, as its user.
//!
//! It keeps the real one's order and words where Holdfast and its chart could tell the difference: init containers and sidecars,
//! environment, volumes, tokens, ports of the node, probes, hooks, grace periods, restarts, status, logs and port-forwards. It knows no cgroups, no
//! `fsGroup`, no `hostNetwork` and no `kubectl exec`; the only image is that of [`image`].

mod container;
mod environment;
mod forward;
mod image;
mod node;
mod place;
mod pod;
mod probe;
mod server;
mod status;
mod volumes;

pub use container::Container;
pub use node::Node;
pub use pod::Pod;
