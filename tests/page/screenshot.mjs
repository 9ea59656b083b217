// Writes docs/images/live.png and live-dark.png: the live view of a Holdfast that some clients have used for a few minutes.
//   run.sh --screenshot      MINUTES=5 for more of a past

import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { client, endpoint, folder, launch, route, serve, service, shows, strike, visit } from "./stage.mjs";

const minutes = Number(process.env.MINUTES ?? 5);
const images = fileURLToPath(new URL("../../docs/images/", import.meta.url));
const routes = {
  "chat/chat": { host: "chat.example.com", share: 0.55 },
  "chat/presence": { host: '"*.rt.example.com"', share: 0.25 },
  "shop/orders": { host: "orders.example.com", share: 0.15 },
};

const pods = {};
for (const [name, { host }] of Object.entries(routes)) {
  const [namespace, app] = name.split("/");
  pods[name] = Object.fromEntries(await Promise.all([0, 1, 2].map(async (index) => [`${app}-${index}`, await endpoint()])));
  routes[name].text = () => {
    const ports = Object.entries(pods[name]).map(([pod, { port }]) => [pod, port]);
    return route(app, { namespace, host }) + service(app, Object.fromEntries(ports), namespace);
  };
}
const manifests = await folder();
const write = () => manifests.write("routes.yaml", Object.values(routes).map(({ text }) => text()).join("")
  + route("front", { namespace: "shop", host: "chat.example.com" })
  + route("support", { namespace: "shop", host: "support.example.com" }));
await write();
const proxy = await serve(manifests.path, ["--trusted-proxies", "127.0.0.0/8"]);
const leave = { after() {} }; // clients end with the process

const open = new Map(Object.keys(routes).map((name) => [name, []]));
const random = (most) => Math.floor(Math.random() * most);

async function come() {
  let pick = Math.random();
  for (const [name, { host, share }] of Object.entries(routes)) {
    pick -= share;
    if (pick > 0) continue;
    const address = `${["198.51.100", "203.0.113", "192.0.2"][random(3)]}.${1 + random(250)}`;
    const { socket } = await client(leave, proxy.http, { host: host.replace('"*', "a").replace('"', ""), headers: { "X-Forwarded-For": address } });
    if (socket) open.get(name).push(socket);
    socket?.on("message", () => {});
    return;
  }
  await client(leave, proxy.http, { host: "chat.example.org", at: "/caht", headers: { "X-Forwarded-For": "192.0.2.33" } });
}

async function go() {
  const all = [...open.values()].flat();
  if (all.length < 60) return;
  const socket = all[random(all.length)];
  for (const sockets of open.values()) if (sockets.includes(socket)) sockets.splice(sockets.indexOf(socket), 1);
  if (Math.random() < 0.15) socket.terminate();
  else socket.close(Math.random() < 0.7 ? 1000 : 1001);
}

const until = Date.now() + minutes * 60_000;
for (let step = 0; Date.now() < until; step += 1) {
  const wave = 1 + Math.sin(step / 12) * 0.6;
  for (let index = 0; index < 3 * wave; index += 1) await come().catch(() => {});
  for (let index = 0; index < 2.4 * wave; index += 1) await go();
  await new Promise((done) => setTimeout(done, 500));
}

// An endpoint dies at the end, so that it is what is seen first.
await pods["chat/presence"]["presence-1"].process.kill();
const browser = await launch();
await mkdir(images, { recursive: true });
for (const [name, scheme] of [["live", "light"], ["live-dark", "dark"]]) {
  const close = [];
  const page = await visit({ after: (end) => close.push(end) }, browser, proxy.url, { width: 1280, height: 800, scheme });
  await shows(page, "#contact", /^live$/);
  await page.click('#routes [data-route="chat/chat"] summary');
  await (await page.evaluateHandle(() =>
    [...document.querySelectorAll("#ends summary")].find((row) => row.textContent.includes("endpoint_gone")) ?? document.querySelector("#ends summary"))).focus();
  await page.keyboard.press("Enter");
  await page.evaluate(() => document.activeElement.blur());
  await page.evaluate(() => scrollTo(0, 0));
  await shows(page, "#causes-list", /endpoint_gone/);
  await page.screenshot({ path: `${images}${name}.png`, optimizeForSpeed: false });
  for (const end of close) await end();
}
await browser.close();
await strike();
await manifests.remove();
process.exit(0);
