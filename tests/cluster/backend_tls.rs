//! TLS towards endpoints: by a Service's appProtocol or by the route, with authorities that a Secret has or has not.

use std::{net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    control_plane::on_the_cluster,
    endpoint::{Echo, PORT, pod_address},
    namespace::Namespace,
    objects::{ready, service, slice},
    replica::Replica,
};

/// Somebody who vouches for endpoints.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A Secret with its certificate alone.
    fn secret(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
            "stringData": {"ca.crt": self.0.pem(), "tls.crt": "", "tls.key": ""},
        })
    }

    /// An endpoint of a new Service that has the certificate of the Service's name, with TLS before an echo.
    async fn endpoint(&self, namespace: &Namespace, name: &str) -> Echo {
        let key = KeyPair::generate().unwrap();
        let host = format!("{name}.{}.svc", namespace.name());
        let certificate = CertificateParams::new(vec![host]).unwrap().signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let echo = Echo::start(name).await;
        let (inner, address) = (echo.address, pod_address());
        let listener = TcpListener::bind(SocketAddr::new(address, PORT)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut outer = acceptor.accept(socket).await?;
                    let mut inner = TcpStream::connect(inner).await?;
                    tokio::io::copy_bidirectional(&mut outer, &mut inner).await
                });
            }
        });
        namespace.apply(&service(name)).await;
        namespace.apply(&slice(name, name, vec![ready(address)])).await;
        echo
    }
}

fn speaking(name: &str, app_protocol: &str) -> Value {
    let mut service = service(name);
    service["spec"]["ports"][0]["appProtocol"] = json!(app_protocol);
    service
}

#[test]
fn endpoints_with_tls_are_reached_as_soon_as_the_service_says_so_and_somebody_vouches_for_them() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let (first, second) = (Authority::new(), Authority::new());
        let _echo = first.endpoint(&chat, "chat").await;
        let host = chat.host();
        let mut route = chat.route("chat", "/", "chat");
        route["spec"]["backendTLS"] = json!({"caRef": {"name": "authorities"}});
        chat.apply(&first.secret("authorities")).await; // before anybody names it
        chat.apply(&route).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        // In plain the endpoint understands nothing.
        holdfast.until_answer(&host, "/", 502, None).await;

        chat.apply(&speaking("chat", "kubernetes.io/wss")).await;
        holdfast.until_endpoint(&host, "/", "chat").await;
        chat.until_condition("chat", "ResolvedRefs", "True", "ResolvedRefs").await;
        let mut tunnel = holdfast.open(&host, "/").await;
        tunnel.exchange().await;

        // Others vouch from now on; the tunnel does not notice.
        chat.apply(&second.secret("authorities")).await;
        holdfast.until_answer(&host, "/", 502, Some("endpoint_certificate")).await;
        tunnel.exchange().await;
        let mut broken = second.secret("authorities");
        broken["stringData"]["ca.crt"] = json!("nothing");
        chat.apply(&broken).await;
        let fault = chat
            .until_condition("chat", "ResolvedRefs", "False", "InvalidCertificateRef")
            .await;
        assert!(fault.message.contains("the last good ones stay"), "{}", fault.message);
        chat.apply(&first.secret("authorities")).await;
        holdfast.until_endpoint(&host, "/", "chat").await;

        // The route's word goes before the Service's.
        route["spec"]["backendTLS"] =
            json!({"mode": "Mutual", "caRef": {"name": "authorities"}, "clientCertificateRef": {"name": "none"}});
        chat.apply(&route).await;
        holdfast.until_answer(&host, "/", 502, Some("endpoint_tls_unusable")).await;
        let missing = chat
            .until_condition("chat", "ResolvedRefs", "False", "InvalidCertificateRef")
            .await;
        assert!(missing.message.contains("there is no Secret"), "{}", missing.message);
        route["spec"]["backendTLS"] = json!({"mode": "Simple", "caRef": {"name": "authorities"}});
        chat.apply(&route).await;
        chat.apply(&speaking("chat", "http")).await;
        holdfast.until_endpoint(&host, "/", "chat").await;
        tunnel.exchange().await;
    });
}
