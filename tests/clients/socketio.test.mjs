// An unmodified Socket.IO client with its default transports: long polling first, then an upgrade. Three endpoints, two
// Holdfast processes behind a balancer that gives every connection to the other one. A request that reaches an endpoint
// which does not know its session is answered 400 by Socket.IO: there must be none.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server } from "socket.io";
import { io } from "socket.io-client";

const HOLDFAST = process.env.HOLDFAST ?? "../../target/debug/holdfast";
const SESSIONS = 1000;
const AT_ONCE = 50;

const endpoints = [];
const holdfasts = [];
let folder;
let balancer;

before(async () => {
  for (let number = 0; number < 3; number += 1) endpoints.push(await startEndpoint(number));
  folder = await mkdtemp(path.join(tmpdir(), "holdfast-socketio-"));
  await writeFile(path.join(folder, "route.yaml"), manifests(endpoints.map((endpoint) => endpoint.port)));
  for (let number = 0; number < 2; number += 1) holdfasts.push(await startHoldfast());
  balancer = await startBalancer(holdfasts.map((holdfast) => holdfast.port));
});

after(async () => {
  balancer?.close();
  for (const { child } of holdfasts) child.kill("SIGKILL");
  for (const endpoint of endpoints) endpoint.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

test("1,000 sessions by polling and upgrade, none answered 400", { timeout: 240_000 }, async () => {
  let next = 0;
  const worker = async () => {
    while (next < SESSIONS) await session((next += 1));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const statuses = new Map();
  const transports = new Map();
  for (const endpoint of endpoints) {
    merge(statuses, endpoint.statuses);
    merge(transports, endpoint.transports);
    assert.ok(endpoint.sessions > SESSIONS / 6, `endpoint ${endpoint.number} got ${endpoint.sessions} sessions`);
  }
  assert.equal(statuses.get(400) ?? 0, 0, `answers ${JSON.stringify([...statuses])}`);
  assert.equal(transports.get("websocket"), SESSIONS, "every session was upgraded");
});

async function session(number) {
  const socket = io(`http://127.0.0.1:${balancer.address().port}`, { forceNew: true, withCredentials: true, reconnection: false });
  try {
    await new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("connect_error", (error) => reject(new Error(`session ${number}: ${error.message} ${error.context?.status ?? ""}`)));
    });
    const text = `message ${number}`;
    assert.equal(await socket.timeout(20_000).emitWithAck("echo", text), text);
    if (socket.io.engine.transport.name !== "websocket") await once(socket.io.engine, "upgrade");
    assert.equal(await socket.timeout(20_000).emitWithAck("echo", text), text);
  } finally {
    socket.disconnect();
  }
}

async function startEndpoint(number) {
  const endpoint = { number, statuses: new Map(), transports: new Map(), sessions: 0 };
  const server = http.createServer();
  server.on("request", (request, response) => response.on("finish", () => count(endpoint.statuses, response.statusCode)));
  const socketio = new Server(server);
  socketio.on("connection", (socket) => {
    endpoint.sessions += 1;
    socket.conn.on("upgrade", (transport) => count(endpoint.transports, transport.name));
    socket.on("echo", (text, answer) => answer(text));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  endpoint.port = server.address().port;
  endpoint.stop = () => socketio.close();
  return endpoint;
}

function manifests(ports) {
  const slices = ports.map(
    (port, number) => `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: chat-${number}, labels: {kubernetes.io/service-name: chat}}
addressType: IPv4
ports: [{name: "", port: ${port}, protocol: TCP}]
endpoints: [{addresses: [127.0.0.1], conditions: {ready: true}}]
`,
  );
  return `apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: chat}
spec:
  rules:
  - backendRefs: [{name: chat, port: 80}]
  sessionPersistence: {type: Cookie}
---
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {ports: [{port: 80, protocol: TCP}]}
${slices.join("")}`;
}

async function startHoldfast() {
  const args = ["--manifests", folder, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--live", "127.0.0.1:0", "--workers", "1", "--access-log", "off"];
  const child = spawn(HOLDFAST, args, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (text) => (said += text));
  const find = (name) => said.match(new RegExp(`${name}=[^ ]*:(\\d+)`))?.[1];
  await until(() => find("http"), () => `no address in ${said}`);
  const admin = find("admin");
  await until(async () => (await fetch(`http://127.0.0.1:${admin}/readyz`)).ok, () => `not ready: ${said}`);
  return { child, port: Number(find("http")) };
}

async function startBalancer(ports) {
  let turn = 0;
  const server = net.createServer((client) => {
    const upstream = net.connect(ports[(turn += 1) % ports.length], "127.0.0.1");
    client.pipe(upstream).pipe(client);
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true);
      socket.on("error", () => {
        client.destroy();
        upstream.destroy();
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

async function until(condition, explain) {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(explain());
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function count(map, key) {
  map.set(key, (map.get(key) ?? 0) + 1);
}

function merge(into, from) {
  for (const [key, value] of from) into.set(key, (into.get(key) ?? 0) + value);
}
