// What the tests of the page are made of: a real Holdfast on a folder of manifests, endpoints that echo, clients, and Chromium.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import puppeteer from "puppeteer-core";
import WebSocket from "ws";

const PATIENCE = Number(process.env.PATIENCE ?? 30_000); // ms for anything that should take much less

const target = path.join(process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL("../../target", import.meta.url)), "debug");
export const holdfast = path.join(target, "holdfast");
export const demo = path.join(target, "holdfast-demo");

/** Waits until `look` says something true, and returns it. */
export async function until(what, look) {
  const since = Date.now();
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() - since > PATIENCE) throw new Error(`waited in vain until ${typeof what === "function" ? await what() : what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** A process; what it says is kept and can be waited for. */
export class Process {
  constructor(program, args) {
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HOLDFAST_") && name !== "KUBECONFIG"));
    this.said = "";
    this.child = spawn(program, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => (this.said += `${line}\n`));
    }
    this.ended = new Promise((done) => this.child.once("exit", done));
    Process.all.add(this);
  }

  static all = new Set();

  /** The first part in parentheses of what it says. */
  async says(pattern) {
    const found = await until(`${pattern} is said, not only ${this.said}`, () => this.said.match(pattern));
    return found[1];
  }

  async kill(signal = "SIGKILL") {
    this.child.kill(signal);
    await this.ended;
    Process.all.delete(this);
  }
}

export async function endpoint() {
  const process = new Process(holdfast, ["echo", "--quiet", "--listen", "127.0.0.1:0"]);
  const port = Number(await process.says(/listening on ws:\/\/127\.0\.0\.1:(\d+)/));
  return { process, port };
}

/** A folder of manifests. */
export async function folder() {
  const at = await mkdtemp(path.join(tmpdir(), "holdfast-page-"));
  return {
    path: at,
    async write(name, text) {
      await writeFile(path.join(at, `.${name}`), text);
      await rename(path.join(at, `.${name}`), path.join(at, name));
    },
    remove: () => rm(at, { recursive: true }),
  };
}

export function route(name, { namespace = "web", host, prefix = "/", service = name } = {}) {
  const hosts = host ? `\n  hostnames: [${host}]` : "";
  return `apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: ${name}, namespace: ${namespace}}
spec:${hosts}
  rules:
  - name: all
    matches: [{path: {type: PathPrefix, value: ${prefix}}}]
    backendRefs: [{name: ${service}, port: 80}]
---
`;
}

/** A Service and its endpoints: `{name: port}`. */
export function service(name, pods, namespace = "web") {
  const slices = Object.entries(pods).map(
    ([pod, port]) => `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ${pod}, namespace: ${namespace}, labels: {kubernetes.io/service-name: ${name}}}
addressType: IPv4
ports: [{port: ${port}}]
endpoints:
- {addresses: [127.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: ${pod}, uid: ${pod}}}
`,
  );
  return `apiVersion: v1
kind: Service
metadata: {name: ${name}, namespace: ${namespace}}
spec: {ports: [{port: 80}]}
${slices.join("")}---
`;
}

export async function serve(manifests, more = []) {
  const any = ["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--live", "127.0.0.1:0"];
  const process = new Process(holdfast, ["--manifests", manifests, "--access-log", "off", "--pod-name", "holdfast-7c9d-2xk4v", ...any, ...more]);
  const http = Number(await process.says(/serving http=127\.0\.0\.1:(\d+)/));
  const live = Number(await process.says(/ live=127\.0\.0\.1:(\d+)/));
  await process.says(/(routes published)/);
  return { process, http, live, url: `http://localhost:${live}/` };
}

/** A client whose handshake has been answered; `status` is 101 or that of the refusal. */
export function client(test, port, { host = "localhost", at = "/", headers = {} } = {}) {
  return new Promise((done, fail) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}${at}`, { headers: { ...headers, host } });
    socket.closed = new Promise((closed) => socket.once("close", closed));
    test.after(() => socket.terminate());
    socket.once("open", () => done({ socket, status: 101 }));
    socket.once("unexpected-response", (_, answer) => {
      answer.resume();
      done({ socket: undefined, status: answer.statusCode });
    });
    socket.on("error", fail);
  });
}

export function launch() {
  return puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--disable-dev-shm-usage", "--force-color-profile=srgb", ...(process.getuid() === 0 ? ["--no-sandbox"] : [])],
  });
}

/**
 * A tab on this page, closed when the test is over, which fails if anything goes wrong in the tab or it asks another host.
 * `loses`: the process that it asks goes away.
 */
export async function visit(test, browser, url, { width = 1440, height = 1000, scheme = "light", loses = false } = {}) {
  const page = await browser.newPage();
  const complaints = [];
  test.after(async () => {
    await page.close();
    assert.deepEqual(complaints, []);
  });
  page.setDefaultTimeout(PATIENCE);
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  page.on("console", (message) => {
    if (loses && message.text().startsWith("Failed to load resource: ")) return;
    if (["error", "warning"].includes(message.type())) complaints.push(`${message.type()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (asked.protocol.startsWith("http") && asked.host !== new URL(url).host) complaints.push(`asks ${asked.host}`);
  });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  return page;
}

/** The text of each element, without spaces that are not seen. */
export function texts(page, selector) {
  return page.$$eval(selector, (found) => found.map((element) => element.innerText.replace(/\s+/g, " ").trim()));
}

/** Waits until an element has this text in it. */
export function shows(page, selector, pattern) {
  const shown = () => texts(page, selector);
  return until(
    async () => `${selector} shows ${pattern}; there is ${JSON.stringify(await shown())}`,
    async () => (await shown()).some((text) => pattern.test(text)),
  );
}

/** Ends every process; those that stay would keep the tests from ending. */
export async function strike() {
  for (const process of [...Process.all]) await process.kill();
}
