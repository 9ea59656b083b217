//! What a process says of itself on its live listener, and the commands that ask one.

use std::fs;

use serde_json::{Value, json};

use crate::{
    process::Holdfast,
    support::{Server, ask, tunnel_to},
};

#[tokio::test]
async fn a_process_tells_what_it_is_what_it_knows_and_how_much_room_it_has() {
    let server = Server::start().await;
    let options = [
        "--drain-delay",
        "1s",
        "--drain-window",
        "2s",
        "--grace-period",
        "40s",
        "--max-connections",
        "100",
    ];
    let holdfast = Holdfast::start(server.address, &options).await;
    let tunnel = tunnel_to(holdfast.http, &server).await;
    let state = state(&holdfast).await;
    assert_eq!(
        (&state["version"], &state["mode"], &state["ready"]),
        (&json!(1), &json!("single"), &json!(true))
    );
    assert_eq!(state["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(state["listeners"]["http"], holdfast.http.to_string());
    assert_eq!(state["headroom"]["connections"], json!({"used": 1, "allowed": 100}));
    for part in ["fds", "memory"] {
        assert!(state["headroom"][part]["used"].as_u64() > Some(3), "{state}");
    }
    assert_eq!((&state["table"]["routes"], &state["leader"]), (&json!(1), &Value::Null));
    let drain = json!({
        "stage": "serving", "since": null, "delay_seconds": 1.0, "window_seconds": 2.0, "closing_seconds": 25.0, "grace_seconds": 40.0
    });
    for (key, value) in drain.as_object().unwrap() {
        assert_eq!(&state["drain"][key], value, "{key}");
    }
    drop(tunnel);

    let (told, code) = holdfast.command(&["version", "-o", "json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &told["running"][0]["replica"]), (0, &state["replica"]));
    assert_eq!(told["replicas"]["answered"], 1);
}

#[tokio::test]
async fn tables_of_the_same_files_have_one_digest_and_an_edit_another() {
    let folder = std::env::temp_dir().join(format!("holdfast-digests-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("routes.yaml");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/filters/filters.yaml");
    let text = fs::read_to_string(example).unwrap();
    fs::write(&file, &text).unwrap();
    let one = Holdfast::start_folder(&folder, &[]).await;
    let two = Holdfast::start_folder(&folder, &["--workers", "2"]).await;
    let digest = async |holdfast: &Holdfast| state(holdfast).await["table"]["digest"].clone();
    let first = digest(&one).await;
    assert!(first.is_string());
    assert_eq!(digest(&two).await, first);
    fs::write(&file, text.replace("chat.example.com", "chat.example.org")).unwrap();
    for holdfast in [&one, &two] {
        holdfast
            .wait_for_metric("holdfast_snapshot_generation", &[], |generation| generation > 1.0)
            .await;
    }
    let second = digest(&one).await;
    assert_ne!(second, first);
    assert_eq!(digest(&two).await, second);
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn who_is_not_there_is_named_with_what_to_do() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &[]).await;
    let (told, code) = holdfast.command(&["drain", "holdfast-0"]).await;
    assert_eq!((told.as_str(), code), ("", 2), "HOLDFAST_LIVE and a pod are two things");
    let (_, code) = holdfast.command(&["version", "--live", "127.0.0.1:1"]).await;
    assert_eq!(code, 1);
    let (told, code) = holdfast.command(&["version", "--client"]).await;
    assert_eq!((told.lines().count(), code), (1, 0));
}

#[tokio::test]
async fn one_process_is_checked_by_what_it_says_itself() {
    let server = Server::start().await;
    let holdfast = Holdfast::start(server.address, &["--drain-window", "1s", "--grace-period", "30s"]).await;
    let (told, code) = holdfast.command(&["check"]).await;
    assert_eq!(code, 0, "{told}");
    for words in ["ready, ", "1 route", "grace 30s >= 0 + 1 + 25", "fds ", "1/1 replica.\n"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let (told, code) = holdfast.command(&["check", "-o", "json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &told["version"], &told["problems"]), (0, &json!(1), &json!(0)));
}

async fn state(holdfast: &Holdfast) -> Value {
    let request = "GET /state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned();
    let answer = ask(holdfast.live, request).await;
    assert_eq!(answer.status, 200);
    serde_json::from_str(answer.text()).unwrap()
}
