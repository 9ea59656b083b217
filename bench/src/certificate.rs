//! The certificate of the rows with TLS: P-256, made for one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, cipher_suite::TLS13_AES_128_GCM_SHA256, kx_group::X25519};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

use crate::failure::{Failure, Result};

/// The host that it is for.
pub const HOST: &str = "bench.example";

/// Files that proxies read.
pub struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// Both in one.
    pub both: PathBuf,
}

/// Makes one.
pub fn make(folder: &Path) -> Result<Files> {
    let made =
        rcgen::generate_simple_self_signed([HOST.to_owned()]).map_err(|error| Failure::new("make a certificate", error))?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        fs::write(&file, text).map_err(|error| Failure::new(format_args!("write {}", file.display()), error))?;
        Ok(file)
    };
    Ok(Files {
        both: write("both.pem", &format!("{chain}{key}"))?,
        chain: write("chain.pem", &chain)?,
        key: write("key.pem", &key)?,
    })
}

/// Clients that trust the certificate in this file. They do not resume, and offer one cipher suite and one key exchange, so that
/// every proxy does the same work.
pub fn clients(chain: &Path) -> Result<Arc<ClientConfig>> {
    let cannot = |why: &dyn std::fmt::Display| Failure::new(format_args!("trust {}", chain.display()), why);
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(chain).map_err(|error| cannot(&error))?;
    roots.add(certificate).map_err(|error| cannot(&error))?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![X25519];
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| cannot(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config.into())
}
