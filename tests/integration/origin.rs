//! Who the client is: the peer, or whom a trusted proxy or a PROXY protocol header speaks for.

use holdfast::proxy::Trust;

use crate::support::{Gateway, Peer, RuleBuilder, Server, ask, handshake, header_values};

/// A data plane that trusts these networks.
async fn start(proxies: &[&str], proxy_protocol: bool) -> (Server, Gateway) {
    let server = Server::start().await;
    let trust = Trust {
        proxies: proxies.iter().map(|network| network.parse().unwrap()).collect(),
        proxy_protocol,
    };
    let gateway = Gateway::with(RuleBuilder::to(&[server.address]).build(), |settings| settings.trust = trust);
    (server, gateway)
}

/// What the endpoint reads of a handshake behind `prefix`.
async fn asked(gateway: &Gateway, server: &Server, prefix: &[u8], more: &str) -> String {
    let mut client = Peer::connect(gateway.address).await;
    client.write([prefix, handshake("/", more).as_bytes()].concat()).await;
    let (_endpoint, asked) = server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    asked
}

fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    header.extend((addresses.len() as u16).to_be_bytes());
    header.extend(addresses);
    header
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let (server, gateway) = start(&["127.0.0.0/8", "10.0.0.0/8"], false).await;
    let claims = "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outside\r\n\
                  X-Request-Id: theirs\r\nForwarded: for=203.0.113.7\r\nX-Real-IP: 6.6.6.6\r\n";
    let asked = asked(&gateway, &server, b"", claims).await;
    for (name, value) in [
        ("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 10.1.1.1, 127.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "outside"),
        ("X-Request-Id", "theirs"),
        ("X-Real-IP", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7"),
    ] {
        assert_eq!(header_values(&asked, name), [value], "{name} in {asked}");
    }
    let opened = gateway.record("opened").await;
    assert_eq!(opened["client.address"], "203.0.113.7");
    assert_eq!(opened["network.peer.address"], "127.0.0.1");
    assert_eq!(opened["http.request.id"], "theirs");
    assert_eq!(opened["url.scheme"], "https");
    assert_eq!(gateway.metric("holdfast_untrusted_forwarders_total", &[]), 0.0);
}

#[tokio::test]
async fn a_stranger_is_not_believed_and_counted_if_it_could_be_a_load_balancer() {
    let (server, gateway) = start(&["192.0.2.0/24"], false).await;
    let asked = asked(&gateway, &server, b"", "X-Forwarded-For: 203.0.113.7\r\n").await;
    assert_eq!(header_values(&asked, "X-Forwarded-For"), ["127.0.0.1"]);
    let opened = gateway.record("opened").await;
    assert_eq!(opened["client.address"], "127.0.0.1");
    assert_eq!(gateway.metric("holdfast_untrusted_forwarders_total", &[]), 1.0);
    let refused = ask(
        gateway.address,
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
    )
    .await;
    assert_eq!((refused.status, refused.reason()), (400, Some("malformed_request")));
    assert_eq!(gateway.metric("holdfast_untrusted_forwarders_total", &[]), 2.0);
    let v2 = v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80]);
    assert_eq!(
        ask(gateway.address, [&v2[..], b"GET / HTTP/1.1\r\n\r\n"].concat())
            .await
            .status,
        400
    );
    assert_eq!(gateway.metric("holdfast_untrusted_forwarders_total", &[]), 3.0);
}

#[tokio::test]
async fn a_proxy_protocol_header_names_the_client() {
    let (server, gateway) = start(&[], true).await;
    let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
    let mut v6 = [0_u8; 36];
    v6[..2].copy_from_slice(&[0x20, 0x01]);
    v6[15] = 7;
    v6[32..34].copy_from_slice(&4711_u16.to_be_bytes());
    let with_tlv = [&v4[..], &[0x04, 0, 2, 1, 2]].concat();
    for (header, client, port) in [
        (
            b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n".to_vec(),
            "203.0.113.7",
            Some(4711),
        ),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), "2001:db8::7", Some(4711)),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", None),
        (v2(1, 0x11, &v4), "203.0.113.7", Some(4711)),
        (v2(1, 0x11, &with_tlv), "203.0.113.7", Some(4711)),
        (v2(1, 0x21, &v6), "2001::7", Some(4711)),
        (v2(0, 0, &[]), "127.0.0.1", None), // a health check of the load balancer
        (v2(0, 0x11, &v4), "127.0.0.1", None),
        (v2(1, 0, &[]), "127.0.0.1", None), // unspecified
    ] {
        // X-Forwarded-For comes from whom the header names, who is not trusted.
        let asked = asked(&gateway, &server, &header, "X-Forwarded-For: 6.6.6.6\r\n").await;
        assert_eq!(header_values(&asked, "X-Forwarded-For"), [client], "{header:?}");
        assert_eq!(header_values(&asked, "X-Real-IP"), [client]);
        let opened = gateway.record("opened").await;
        assert_eq!(opened["client.address"], client);
        if let Some(port) = port {
            assert_eq!(opened["client.port"], port);
            assert_eq!(opened["network.peer.address"], "127.0.0.1");
        }
    }
    // In pieces.
    let mut client = Peer::connect(gateway.address).await;
    for byte in [&v2(1, 0x11, &v4)[..], handshake("/", "").as_bytes()].concat() {
        client.write([byte]).await;
        tokio::task::yield_now().await;
    }
    let (_endpoint, asked) = server.accept().await;
    assert_eq!(header_values(&asked, "X-Real-IP"), ["203.0.113.7"]);
}

#[tokio::test]
async fn a_connection_without_its_proxy_protocol_header_is_refused() {
    let (server, gateway) = start(&[], true).await;
    for bad in [
        handshake("/", "").into_bytes(),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 99999999 1\r\n".to_vec(),
        v2(5, 0x11, &[0; 12]),
        v2(1, 0x11, &[0; 3]),
        vec![b'P'; 200],
    ] {
        let answer = ask(gateway.address, &bad).await;
        assert_eq!((answer.status, answer.reason()), (400, Some("malformed_request")), "{bad:?}");
    }
    assert_eq!(server.dialled(), 0);
}

#[tokio::test]
async fn a_stranger_may_not_name_a_client_either() {
    let (server, gateway) = start(&["192.0.2.0/24"], true).await;
    let header = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n";
    let answer = ask(gateway.address, [&header[..], handshake("/", "").as_bytes()].concat()).await;
    assert_eq!((answer.status, answer.reason()), (400, Some("malformed_request")));
    assert_eq!(server.dialled(), 0);
    assert_eq!(
        gateway.metric("holdfast_untrusted_forwarders_total", &[]),
        1.0,
        "it could be the load balancer"
    );
}

#[tokio::test]
async fn both_name_the_client_together() {
    // A layer 4 load balancer in front of a layer 7 one.
    let (server, gateway) = start(&["127.0.0.0/8", "10.0.0.0/8"], true).await;
    let header = b"PROXY TCP4 10.0.0.9 10.0.0.1 4711 80\r\n";
    let asked = asked(&gateway, &server, header, "X-Forwarded-For: 203.0.113.7\r\n").await;
    assert_eq!(header_values(&asked, "X-Forwarded-For"), ["203.0.113.7, 10.0.0.9"]);
    assert_eq!(header_values(&asked, "X-Real-IP"), ["203.0.113.7"]);
}
