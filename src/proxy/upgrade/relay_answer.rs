//! Passes an endpoint's own answer to a handshake, body included, and ends the connection behind it.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::proxy::{answer, body::Body, end::Cause, error::Reason, headers, stream::Stream, upstream::Answer};

/// Passes the answer, `finish` done to its fields. The connection cannot serve another request: what came behind this one may
/// have been meant as frames. `send`: how long the client may accept nothing; zero: for ever.
///
/// # Errors
/// The word for why it broke off.
pub async fn pass(
    client: &mut Stream,
    endpoint: &mut Stream,
    answer: Answer,
    send: Duration,
    finish: impl FnOnce(&mut HeaderMap),
) -> Result<(), &'static str> {
    let endpoint_gone = Cause::EndpointGone.word();
    let mut body = Body::of_answer(answer.status, &answer.headers);
    write(client, &write_head(answer.status, answer.headers, &body, finish), send).await?;
    let mut piece = answer.rest.to_vec();
    loop {
        let len = body.take(&piece).map_err(|_| Reason::EndpointProtocolError.word())?;
        write(client, &piece[..len], send).await?;
        if body.is_over() {
            return Ok(());
        }
        piece.resize(PIECE, 0);
        let read = timeout(QUIET, endpoint.read(&mut piece)).await;
        let read = read.map_err(|_| Cause::EndpointStalled.word())?.map_err(|_| endpoint_gone)?;
        if read == 0 {
            return if body == Body::UntilEnd { Ok(()) } else { Err(endpoint_gone) };
        }
        piece.truncate(read);
    }
}

async fn write(client: &mut Stream, mut bytes: &[u8], send: Duration) -> Result<(), &'static str> {
    while !bytes.is_empty() {
        let write = client.write(bytes);
        let written = match send {
            Duration::ZERO => write.await,
            send => timeout(send, write).await.map_err(|_| Cause::ClientStalled.word())?,
        };
        match written {
            Ok(len @ 1..) => bytes = &bytes[len..],
            Ok(0) | Err(_) => return Err(Reason::ClientGone.word()),
        }
    }
    Ok(())
}

fn write_head(status: StatusCode, mut fields: HeaderMap, body: &Body, finish: impl FnOnce(&mut HeaderMap)) -> Vec<u8> {
    headers::remove_hop_by_hop(&mut fields);
    finish(&mut fields);
    let received = format!("holdfast; received-status={}", status.as_u16());
    if let Ok(value) = received.parse() {
        fields.append(answer::PROXY_STATUS, value);
    }
    let mut out = Vec::with_capacity(512);
    answer::write_status(&mut out, status.as_u16(), status.canonical_reason().unwrap_or(""));
    if matches!(body, Body::Chunked(_)) {
        headers::write_field(&mut out, &header::TRANSFER_ENCODING, b"chunked");
        fields.remove(header::CONTENT_LENGTH);
    }
    headers::write(&mut out, &fields);
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    out
}

/// Bytes that are passed at once.
const PIECE: usize = 16 * 1024;

/// How long an endpoint may be silent in the middle of its answer.
const QUIET: Duration = Duration::from_secs(60);
