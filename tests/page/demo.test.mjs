// `make demo` in Chromium: each button is pressed, and the counters are watched.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";
import { Process, demo, holdfast, launch, shows, strike, texts, until, visit } from "./stage.mjs";

let browser;
let running;
let url;

before(async () => {
  const [http, live, page, first, second] = await Promise.all(Array.from({ length: 5 }, freePort));
  const given = fileURLToPath(new URL("../../examples/quickstart", import.meta.url));
  const ports = ["--http", http, "--live", live, "--page", page, "--endpoints", `${first},${second}`].map(String);
  running = new Process(demo, ["--holdfast", holdfast, "--manifests", given, "--no-browser", ...ports]);
  url = await running.says(/(http:\/\/localhost:\d+\/)/);
  assert.equal(url, `http://localhost:${page}/`, "the demo's own page comes first");
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await running.kill("SIGINT"); // and with it all that it has started
  await strike();
});

function freePort() {
  return new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

test("every button is pressed", async (t) => {
  const page = await visit(t, browser, url, { width: 1700, loses: true });
  const number = async (id) => Number((await texts(page, `#${id}`))[0].replaceAll(",", ""));
  const press = (act) => page.click(`[data-act="${act}"]`);
  await until("all sockets are open", async () => (await page.$$('.sockets [data-open="yes"]')).length === 12);
  const live = await (await page.waitForSelector("iframe")).contentFrame();
  await shows(live, "#contact", /^live$/);

  await press("edit");
  await shows(page, "#says", /^100 edits of route default\/edited, each of them served/);
  await shows(page, "#edits", /^100 edits$/);
  assert.ok((await number("messages")) > 100);
  assert.deepEqual([await number("lost-steady"), await number("lost-edited"), await number("ended")], [0, 0, 0]);
  await until("the live view has seen them", async () => Number((await texts(live, "#facts"))[0].match(/generation (\d+)/)[1]) >= 101);

  await press("kill");
  await shows(page, "#says", /^echo-\d+ was killed/);
  await shows(page, "#endpoints li", /^echo-\d+ killed$/);
  await shows(page, "#ends li", /(steady|edited) \d 1012 endpoint_gone, by endpoint, at echo-\d+$/);
  const killed = await number("ended");
  assert.ok(killed > 0 && killed < 12, `${killed} ended: those of the other endpoint stay`);
  await shows(live, "#ends summary", /endpoint endpoint_gone client saw 1012/);
  await until("all came back", async () => (await page.$$('.sockets [data-open="yes"]')).length === 12);

  await press("add");
  await shows(page, "#says", /^echo-\d+ is there/);
  await until("two run", async () => (await page.$$('#endpoints [data-runs="yes"]')).length === 2);
  assert.equal(await number("ended"), killed, "who comes ends nothing");

  await press("drain");
  await shows(live, "#facts", /draining since/);
  await shows(page, "#says", /^The old Holdfast has drained/);
  await shows(page, "#ends li", / 1012 drain/);
  await until("all came back once", async () => (await number("ended")) === killed + 12 && (await page.$$('.sockets [data-open="yes"]')).length === 12);
  await shows(live, "#contact", /^live$/);
  await shows(live, "#facts", /generation 1 serving connections 12/);
});

test("only the page's buttons do anything", async () => {
  const answer = await fetch(new URL("kill", url), { method: "POST" });
  assert.equal(answer.status, 403);
});
