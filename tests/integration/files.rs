//! Answers of a rule's own: one that it writes down, and files below the root. Asked for over real sockets.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use holdfast::routing::{
    fallback::{Fallback, Respond, StaticFiles},
    filter::{Filters, HeaderEdits},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::support::{Answer, Ending, Gateway, Peer, RuleBuilder, Server, TEXT, ask, handshake};

/// A root with files in it, and a secret beside it.
struct Root(PathBuf);

impl Root {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("holdfast-files-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let root = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(root.path()).unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        fs::write(root.0.join("secret"), "secret").unwrap();
        root
    }

    fn path(&self) -> PathBuf {
        self.0.join("root")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn files(path: &str, spa_fallback: Option<&str>) -> Fallback {
    Fallback::Static(Box::new(StaticFiles {
        path: path.into(),
        index: "index.html".into(),
        spa_fallback: spa_fallback.map(Box::from),
    }))
}

async fn start(root: &Root, prefix: &'static str, fallback: Fallback) -> (Server, Gateway) {
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.prefix = prefix;
        rule.fallback = fallback;
    });
    let gateway = Gateway::with(rule.build(), |settings| settings.static_root = Some(root.path()));
    (server, gateway)
}

async fn get(gateway: &Gateway, path: &str, more: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{more}\r\n");
    ask(gateway.address, request).await
}

const SITE: &[(&str, &str)] = &[
    ("app/index.html", "<p>index</p>"),
    ("app/main.js", "export {}"),
    ("app/notes.txt", "0123456789"),
    ("app/sub/index.html", "sub"),
    ("app/empty/x", ""),
    ("app/.env", "hidden"),
    ("app/.git/config", "hidden"),
    ("app/.well-known/security.txt", "contact"),
    ("app/with space.txt", "space"),
    ("other/index.html", "other"),
];

#[tokio::test]
async fn the_path_behind_the_prefix_is_the_file() {
    let root = Root::new(SITE);
    let (server, gateway) = start(&root, "/site", files("app", None)).await;
    for (path, text, kind) in [
        ("/site/", "<p>index</p>", "text/html; charset=utf-8"),
        ("/site/index.html", "<p>index</p>", "text/html; charset=utf-8"),
        ("/site/main.js?v=1", "export {}", "text/javascript; charset=utf-8"),
        ("/site/%6Dain.js", "export {}", "text/javascript; charset=utf-8"),
        ("/site/sub/", "sub", "text/html; charset=utf-8"),
        ("/site/sub/../notes.txt", "0123456789", "text/plain; charset=utf-8"),
        ("/site/with%20space.txt", "space", "text/plain; charset=utf-8"),
        ("/site/.well-known/security.txt", "contact", "text/plain; charset=utf-8"),
        ("/site/empty/x", "", "application/octet-stream"),
    ] {
        let answer = get(&gateway, path, "").await;
        assert_eq!((answer.status, answer.text()), (200, text), "{path}");
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        let record = gateway.record("answered").await;
        assert_eq!(record["http.response.status_code"], 200);
    }
    for (path, location) in [("/site", "/site/"), ("/site/sub?a=b", "/site/sub/?a=b")] {
        let answer = get(&gateway, path, "").await;
        assert_eq!((answer.status, answer.header("location")), (307, Some(location)));
    }
    assert_eq!(server.dialled(), 0, "no endpoint is asked");
}

#[tokio::test]
async fn nothing_else_is_reached() {
    let root = Root::new(SITE);
    symlink("../secret", root.path().join("out")).unwrap();
    symlink("../../secret", root.path().join("app/out")).unwrap();
    symlink("/etc/hostname", root.path().join("app/absolute")).unwrap();
    symlink("../other", root.path().join("app/within")).unwrap();
    let (_server, gateway) = start(&root, "/site", files("app", None)).await;
    for path in [
        "/site/none",
        "/site/none/",
        "/site/main.js/",
        "/site/main.js/x",
        "/site/empty/",
        "/site/.env",
        "/site/%2Eenv",
        "/site/.git/config",
        "/site/.git/",
        "/site//main.js",
        "/site//",
        "/site/sub%2Findex.html",
        "/site/sub%5Cindex.html",
        "/site/out",
        "/site/absolute",
        "/site/%252e%252e/secret",
        "/site/%ff",
    ] {
        let answer = get(&gateway, path, "").await;
        assert_eq!((answer.status, answer.text()), (404, "There is no such file.\n"), "{path}");
    }
    for path in [
        "/site/../../secret",
        "/site/..%2f..%2fsecret",
        "/site/..%5csecret",
        "/site/%00",
        "/../secret",
    ] {
        let answer = get(&gateway, path, "").await;
        assert_eq!(answer.status, 400, "{path}");
    }
    assert_eq!(
        get(&gateway, "/site/within/", "").await.text(),
        "other",
        "a link that stays below the root"
    );
}

#[tokio::test]
async fn a_file_that_the_client_has_is_not_sent_again() {
    let root = Root::new(SITE);
    let (_server, gateway) = start(&root, "/", files("app", None)).await;
    let answer = get(&gateway, "/notes.txt", "").await;
    let etag = answer.header("etag").unwrap().to_owned();
    let modified = answer.header("last-modified").unwrap().to_owned();
    for condition in [
        format!("If-None-Match: {etag}\r\n"),
        format!("If-None-Match: \"x\", W/{etag}\r\n"),
        format!("If-Modified-Since: {modified}\r\n"),
    ] {
        let answer = get(&gateway, "/notes.txt", &condition).await;
        assert_eq!((answer.status, answer.header("etag")), (304, Some(&*etag)), "{condition}");
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
    }
    let file = File::options().write(true).open(root.path().join("app/notes.txt")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let answer = get(&gateway, "/notes.txt", &format!("If-None-Match: {etag}\r\n")).await;
    assert_eq!(answer.status, 200);
    // A time that every file of a reproducible image has says nothing.
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    let answer = get(&gateway, "/notes.txt", "").await;
    assert_eq!((answer.header("etag"), answer.header("last-modified")), (None, None));
}

#[tokio::test]
async fn parts_heads_and_methods() {
    let root = Root::new(SITE);
    let (_server, gateway) = start(&root, "/", files("app", None)).await;
    for (range, status, text, content_range) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=8-", 206, "89", Some("bytes 8-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=0-1,4-5", 200, "0123456789", None),
    ] {
        let answer = get(&gateway, "/notes.txt", &format!("Range: {range}\r\n")).await;
        assert_eq!((answer.status, answer.text()), (status, text), "{range}");
        assert_eq!(answer.header("content-range"), content_range, "{range}");
    }
    // Who has a part of another file gets the whole of this one.
    let answer = get(&gateway, "/notes.txt", "").await;
    let own = [answer.header("etag").unwrap(), answer.header("last-modified").unwrap()];
    for (condition, status) in [
        (own[0], 206),
        (own[1], 206),
        ("\"other\"", 200),
        ("Sat, 01 Jan 2000 00:00:00 GMT", 200),
    ] {
        let fields = format!("Range: bytes=8-\r\nIf-Range: {condition}\r\n");
        assert_eq!(get(&gateway, "/notes.txt", &fields).await.status, status, "{condition}");
    }
    let weak = format!("Range: bytes=8-\r\nIf-Range: W/{}\r\n", own[0]);
    assert_eq!(get(&gateway, "/notes.txt", &weak).await.status, 200);
    let mut client = Peer::connect(gateway.address).await;
    client.write("HEAD /notes.txt HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: 10\r\n"),
        "{head}"
    );
    // The next one on the same connection.
    client
        .write("POST /notes.txt HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET,HEAD")));
}

#[tokio::test]
async fn files_compressed_beforehand_are_sent_to_whom_takes_them() {
    let compressed = [
        ("app/main.js", "plain"),
        ("app/main.js.br", "brotli"),
        ("app/main.js.gz", "gzip"),
        ("app/main.js.zst", "zstd"),
        ("app/index.html", "plain"),
        ("app/index.html.gz", "gzip"),
    ];
    let root = Root::new(&compressed);
    let (_server, gateway) = start(&root, "/", files("app", None)).await;
    for (path, accept, text, encoding) in [
        ("/main.js", "Accept-Encoding: gzip, br, zstd\r\n", "zstd", Some("zstd")),
        ("/main.js", "Accept-Encoding: gzip;q=1, br;q=0.5\r\n", "gzip", Some("gzip")),
        ("/main.js", "Accept-Encoding: gzip, br\r\n", "brotli", Some("br")),
        ("/main.js", "Accept-Encoding: deflate\r\n", "plain", None),
        ("/main.js", "", "plain", None),
        ("/", "Accept-Encoding: br, gzip\r\n", "gzip", Some("gzip")),
    ] {
        let answer = get(&gateway, path, accept).await;
        assert_eq!(
            (answer.text(), answer.header("content-encoding")),
            (text, encoding),
            "{path} {accept}"
        );
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        let kind = answer.header("content-type").unwrap();
        assert!(kind.starts_with("text/"), "the file's, not its coding's: {kind}");
    }
}

#[tokio::test]
async fn an_application_with_pages_of_its_own_making_answers_everywhere() {
    let root = Root::new(SITE);
    let (_server, gateway) = start(&root, "/", files("app", Some("index.html"))).await;
    for path in ["/rooms/7", "/rooms/", "/.env", "/a%2Fb", "/main.js/"] {
        let answer = get(&gateway, path, "").await;
        assert_eq!((answer.status, answer.text()), (200, "<p>index</p>"), "{path}");
    }
    assert_eq!(get(&gateway, "/main.js", "").await.text(), "export {}");
}

#[tokio::test]
async fn one_file_can_be_named() {
    let root = Root::new(SITE);
    let (_server, gateway) = start(&root, "/notes", files("app/notes.txt", None)).await;
    assert_eq!(get(&gateway, "/notes", "").await.text(), "0123456789");
    assert_eq!(get(&gateway, "/notes/x", "").await.status, 404);
}

#[tokio::test]
async fn without_a_root_that_can_be_read_the_answer_says_so() {
    let server = Server::start().await;
    let rule = || RuleBuilder::to(&[server.address]).change(|rule| rule.fallback = files("", None));
    let gone = Root::new(&[]).path();
    for root in [None, Some(gone)] {
        let gateway = Gateway::with(rule().build(), |settings| settings.static_root = root);
        let answer = get(&gateway, "/x", "").await;
        assert_eq!((answer.status, answer.reason()), (500, Some("static_unavailable")));
        assert_eq!(gateway.record("refused").await["error.type"], "static_unavailable");
    }
}

#[tokio::test]
async fn a_large_file_to_a_slow_reader_holds_up_no_tunnel() {
    let root = Root::new(&[]);
    let large: Vec<u8> = (0..8_u32 << 20).map(|at| (at % 251) as u8).collect();
    fs::write(root.path().join("large"), &large).unwrap();
    let (server, gateway) = start(&root, "/", files("", None)).await;
    let mut reader = Peer::connect(gateway.address).await;
    reader.write("GET /large HTTP/1.1\r\nHost: test\r\n\r\n").await;
    reader.head().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write(handshake("/", "")).await;
    let (mut endpoint, _) = server.accept().await;
    client.head().await;
    client.send(TEXT, "while it waits").await;
    assert_eq!(endpoint.frame().await.payload, b"while it waits");
    assert!(reader.bytes(large.len()).await == large);
}

#[tokio::test]
async fn a_rule_may_write_its_answer_down() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let respond = Respond {
        status: StatusCode::IM_A_TEAPOT,
        headers,
        body: "{\"short\": true}".into(),
    };
    let server = Server::start().await;
    let rule = RuleBuilder::to(&[server.address]).change(|rule| {
        rule.fallback = Fallback::Respond(Box::new(respond));
        rule.filters = Some(Box::new(Filters {
            response: HeaderEdits {
                add: Box::new([(HeaderName::from_static("x-more"), HeaderValue::from_static("1"))]),
                ..HeaderEdits::default()
            },
            ..Filters::default()
        }));
    });
    let gateway = Gateway::start(rule.build());
    let mut client = Peer::connect(gateway.address).await;
    for _ in 0..2 {
        client
            .write("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (418, "{\"short\": true}"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-more"), Some("1"));
        assert_eq!(answer.header("proxy-status"), None, "it is no refusal");
    }
    client.write("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 418 ") && head.contains("content-length: 15\r\n"),
        "{head}"
    );
    gateway
        .wait_for_metric("holdfast_fallback_requests_total", &["code=\"418\""], |count| count == 3.0)
        .await;
    client.write(handshake("/", "")).await;
    let (mut endpoint, _) = server.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    client.close(1000).await;
    assert_eq!(endpoint.frame().await.code(), 1000);
}

#[tokio::test]
async fn a_drain_refuses_what_needs_no_endpoint_too() {
    let root = Root::new(SITE);
    let (server, mut gateway) = start(&root, "/", files("app", None)).await;
    let mut held = Peer::connect(gateway.address).await;
    held.write(handshake("/", "")).await;
    let (_endpoint, _) = server.accept().await;
    held.head().await;
    let mut client = Peer::connect(gateway.address).await;
    client.write("GET /notes.txt HTTP/1.1\r\nHost: test\r\n").await;
    gateway.drain(Duration::from_secs(600));
    client.write("\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (503, Some("draining")));
    assert_eq!(client.ending().await, Ending::InOrder);
}
