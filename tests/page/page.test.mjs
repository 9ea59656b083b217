// The live view in Chromium, with a real proxy and real sockets.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { client, endpoint, folder, launch, route, serve, service, shows, strike, texts, until, visit } from "./stage.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser;
let manifests;
let pods;
let proxy;

before(async () => {
  browser = await launch();
  manifests = await folder();
  pods = { "chat-0": await endpoint(), "chat-1": await endpoint() };
  await writeChat();
  proxy = await serve(manifests.path);
});

after(async () => {
  await browser?.close();
  await strike();
  await manifests?.remove();
});

function writeChat() {
  const ports = Object.fromEntries(Object.entries(pods).map(([name, { port }]) => [name, port]));
  return manifests.write("chat.yaml", route("chat", { host: "chat.example.com" }) + service("chat", ports));
}

const chat = { host: "chat.example.com", at: "/room" };

test("routes, open connections and changes of a manifest are seen as they come", async (t) => {
  const page = await visit(t, browser, proxy.url);
  await shows(page, "#contact", /^live$/);
  await shows(page, "#facts", /^holdfast-7c9d-2xk4v version \d.* mode folder generation \d+ serving/);
  await shows(page, "#routes summary", /^✓ web\/chat.* chat\.example\.com 2 of 2 ready 0$/);

  const { socket } = await client(t, proxy.http, chat);
  await shows(page, "#facts", /connections 1/);
  await shows(page, "#routes summary", /web\/chat.* 2 of 2 ready 1$/);
  await shows(page, "#plot-open strong", /^1$/);
  await until("the plot says it in words", () =>
    page.$eval("#plot-handshakes svg", (svg) => /Handshakes over the last 15 minutes: 1 accepted; 1 in the last minute/.test(svg.getAttribute("aria-label"))));

  await manifests.write("more.yaml", route("admin", { namespace: "zoo", host: "chat.example.com" }) + route("lost", { host: "lost.example.com" }));
  await shows(page, "#routes summary", /^✕ zoo\/admin ?, rejected HostnameConflict/);
  await shows(page, "#routes summary", /^! web\/lost ?, warning BackendNotFound/);
  await shows(page, "#routes-count", /^3$/);
  await shows(page, "#routes-troubled", /^1 rejected, 1 with warnings$/);
  await page.click("#routes-troubled");
  await until("only they are shown", async () => (await texts(page, "#routes summary")).every((text) => /^[!✕] /.test(text)));
  await page.click("#routes-troubled");
  await shows(page, "#routes summary", /web\/chat/);
  assert.equal(socket.readyState, socket.OPEN, "a change ends nothing");

  await page.click('#routes [data-route="zoo/admin"] summary');
  await shows(page, '#routes [data-route="zoo/admin"] .detail', /chat\.example\.com is owned by namespace web/);
  await manifests.write("more.yaml", "");
  await until("the routes are gone again", async () => (await texts(page, "#routes summary")).length === 1);
  socket.close();
});

test("a killed endpoint's connections are shown with cause and codes, and what that means", async (t) => {
  const page = await visit(t, browser, proxy.url);
  const sockets = [];
  for (let index = 0; index < 8; index += 1) sockets.push((await client(t, proxy.http, chat)).socket);
  await shows(page, "#facts", /connections 8/);
  await page.click('#routes [data-route="web/chat"] summary');
  await shows(page, '#routes [data-route="web/chat"] tbody tr', /^chat-0 127\.0\.0\.1:\d+ ready [1-8]$/);

  await pods["chat-0"].process.kill();
  await shows(page, "#ends summary", /endpoint endpoint_gone client saw 1012 endpoint saw – .* web\/chat 127\.0\.0\.1 → chat-0$/);
  await shows(page, "#causes-list", /endpoint_gone \d+ \d+%/);
  await until("the plot has them", () =>
    page.$eval("#plot-ends svg", (svg) => /Ends over the last 15 minutes: .*\d by the endpoint/.test(svg.getAttribute("aria-label"))));

  const [first] = await page.$$("#ends details");
  await (await first.$("summary")).click();
  await shows(page, "#ends details[open] .detail", /endpoint_gone: The endpoint .* What to do/);
  await shows(page, "#ends details[open] .detail", /holdfast\.connection\.id [0-9a-f]{16}/);

  // While somebody reads, nothing moves.
  const before = await texts(page, "#ends summary");
  const open = sockets.filter((socket) => socket.readyState === socket.OPEN);
  assert.ok(open.length > 0 && open.length < 8, `${open.length} are left`);
  open[0].close(4001, "enough");
  await shows(page, "#ends-held", /^1 new$/);
  assert.deepEqual(await texts(page, "#ends summary"), before);
  await page.click("#ends-held");
  await shows(page, "#ends summary", /client closed client saw 4001 endpoint saw 4001/);

  for (const socket of open) socket.close();
  pods["chat-0"] = await endpoint();
  await writeChat();
  await shows(page, "#routes tbody tr", new RegExp(`127\\.0\\.0\\.1:${pods["chat-0"].port} ready`));
});

test("keys: search from anywhere, rows by arrows, and the way back", async (t) => {
  await manifests.write("more.yaml", route("lobby", { host: "lobby.example.com", service: "chat" }));
  const { socket } = await client(t, proxy.http, chat);
  socket.close(1000);
  assert.equal((await client(t, proxy.http, { host: "chat.example.org" })).status, 404);
  const page = await visit(t, browser, proxy.url);
  await shows(page, "#routes summary", /web\/lobby/);
  await shows(page, "#ends summary", /Holdfast no_route client saw 404/);
  const focused = () => page.evaluate(() => document.activeElement.closest("[data-route]")?.dataset.route ?? document.activeElement.id);

  await page.keyboard.press("/");
  assert.equal(await focused(), "search");
  await page.keyboard.type("lobby");
  await until("only it is shown", async () => (await texts(page, "#routes summary")).join().startsWith("✓ web/lobby"));
  assert.equal((await texts(page, "#ends summary")).length, 0);
  assert.equal(await page.$eval("#search", (input) => input.value), "lobby", "a / in the text is text");
  await page.keyboard.press("ArrowDown");
  assert.equal(await focused(), "web/lobby");
  await page.keyboard.press("Enter");
  await shows(page, "#routes .detail", /Programmed True/);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await shows(page, "#filters", /route web\/lobby/);
  assert.match(page.url(), /#search=lobby&route=web%2Flobby$/);
  await page.keyboard.press("Escape");
  assert.equal(await page.$("#routes details[open]"), null);
  await page.keyboard.press("Escape");
  await until("the search is forgotten", () => page.$eval("#search", (input) => input.value === ""));
  await page.keyboard.press("Escape");
  await until("the filter is gone", async () => (await texts(page, "#filters")).join() === "");
  await shows(page, "#routes summary", /web\/chat/);

  await page.keyboard.press("/");
  await page.keyboard.type("no_route");
  await until("only refusals are shown", async () => {
    const rows = await texts(page, "#ends summary");
    return rows.length > 0 && rows.every((row) => row.includes("no_route"));
  });
  await page.keyboard.press("Escape");
  const causes = await page.$$("#causes-list button");
  assert.ok(causes.length > 1);
  await causes[0].focus();
  await page.keyboard.press("Space");
  await shows(page, "#filters", /^cause /);
});

test("what others name is text, whatever is in it", async (t) => {
  const page = await visit(t, browser, proxy.url);
  await client(t, proxy.http, { host: "nowhere.example", at: "/<img/src=x/onerror=alert(1)>" }).catch(() => {});
  await client(t, proxy.http, { host: "nowhere.example", at: "/%3Cimg%20src=x%20onerror=alert(1)%3E" });
  await shows(page, "#ends summary", /no_route/);
  await (await page.$("#ends summary")).click();
  await shows(page, "#ends .detail", /url\.path \/.*img/);
  assert.equal(await page.$("#ends img, #ends script"), null);
});

for (const [scheme, width] of [["light", 1440], ["dark", 1440], ["light", 320], ["dark", 700]]) {
  test(`${scheme}, ${width} wide: no scrolling sideways, and nothing that axe finds`, async (t) => {
    const page = await visit(t, browser, proxy.url, { scheme, width });
    await shows(page, "#contact", /^live$/);
    await shows(page, "#causes-list", /endpoint_gone/);
    for (const list of ["routes", "ends"]) {
      await (await page.waitForSelector(`#${list} summary`)).click();
      await page.waitForSelector(`#${list} details[open] .detail *`);
    }
    const [wide, inner] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
    assert.ok(wide <= inner, `${wide} in ${inner}`);
    // Not from within the page: its policy lets no other script in.
    await page.setBypassCSP(true);
    const session = await page.createCDPSession();
    await session.send("Runtime.evaluate", { expression: axe });
    const { result } = await session.send("Runtime.evaluate", {
      expression: "axe.run(document, {resultTypes: ['violations']}).then((found) => JSON.stringify(found.violations.map((v) => [v.id, v.nodes.map((n) => n.failureSummary + ' ' + n.html)])))",
      awaitPromise: true,
      returnByValue: true,
    });
    assert.deepEqual(JSON.parse(result.value), []);
      });
}

test("with thousands of routes, some are shown and the others are found", async (t) => {
  const many = Array.from({ length: MANY }, (_, index) => route(`r${index}`, { host: `r${index}.example.com`, service: "chat" }));
  await manifests.write("many.yaml", many.join(""));
  const page = await visit(t, browser, proxy.url);
  await shows(page, "#routes-more", /\d more; search to see them\./);
  assert.ok((await texts(page, "#routes summary")).length <= 100);
  await page.keyboard.press("/");
  await page.keyboard.type(`r${MANY - 1}.example`);
  await shows(page, "#routes summary", new RegExp(`web/r${MANY - 1} `));
  await manifests.write("many.yaml", "");
});

const MANY = 3000;

test("it says when contact is lost, and finds it again", async (t) => {
  const page = await visit(t, browser, proxy.url, { loses: true });
  await shows(page, "#contact", /^live$/);
  proxy.process.child.kill("SIGSTOP"); // sockets stay open: only silence tells
  await shows(page, "#contact", /^lost contact since \d\d:\d\d:\d\d$/);
  proxy.process.child.kill("SIGCONT");
  await shows(page, "#contact", /^live$/);
  await proxy.process.kill();
  await shows(page, "#contact", /^lost contact since/);
});
