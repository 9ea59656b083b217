//! TLS of a ping: whom it trusts, and a stream that may have it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// A connection, with TLS or without.
pub(in crate::cli) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Whom to trust.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Trust {
    /// Trust the certificates in this PEM file instead of the system's, for wss.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<std::path::PathBuf>,
    /// Trust every certificate, for wss.
    #[arg(long)]
    insecure: bool,
}

impl Trust {
    /// Whoever it is: for looking who answers, and nothing else.
    pub(in crate::cli) fn to_anybody() -> Self {
        Self {
            cacert: None,
            insecure: true,
        }
    }

    /// What makes TLS connections.
    ///
    /// # Errors
    /// When there is nobody to trust; says what to do.
    pub(in crate::cli) fn connector(&self) -> Result<TlsConnector, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = if self.insecure {
            let anybody = Arc::new(Anybody(provider));
            config
                .dangerous()
                .with_custom_certificate_verifier(anybody)
                .with_no_client_auth()
        } else {
            let roots = match &self.cacert {
                Some(file) => of_file(file)?,
                None => of_system()?,
            };
            config.with_root_certificates(roots).with_no_client_auth()
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn of_file(file: &Path) -> Result<RootCertStore, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("--cacert {}: {error}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| cannot(&error))? {
        let certificate = certificate.map_err(|error| cannot(&error))?;
        roots.add(certificate).map_err(|error| cannot(&error))?;
    }
    match roots.is_empty() {
        true => Err(cannot(&"it has no certificate in PEM form")),
        false => Ok(roots),
    }
}

fn of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err("this system has no certificates to trust; name some with --cacert, or use --insecure".to_owned()),
        false => Ok(roots),
    }
}

/// Takes every certificate for good.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
