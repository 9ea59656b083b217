// The demo's page: sockets that number their messages, and buttons.

const SOCKETS = 6; // on each route
const PACE = 250; // ms between two messages of a socket
const LOOK = 500; // ms between two looks at what the demo does
const ENDS = 40; // ended sockets that are listed

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const total = { messages: 0, lost: { steady: 0, edited: 0 }, ended: 0 };

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A socket that is opened again whenever it ends. */
class Socket {
  constructor(route, index, http) {
    this.route = route;
    this.name = `${route} ${index + 1}`;
    this.http = http;
    this.messages = 0;
    this.row = h("li", { "data-open": "no" }, h("span", {}, `socket ${index + 1}`), h("b"), h("span", { class: "last" }));
    byId(route).append(this.row);
    this.open();
  }

  open() {
    const path = `/${this.route}/${crypto.randomUUID()}`;
    const socket = new WebSocket(`ws://localhost:${this.http}${path}`);
    let timer;
    let sent = 0;
    let received = 0;
    let wasOpen = false;
    socket.onopen = () => {
      wasOpen = true;
      this.row.dataset.open = "yes";
      timer = setInterval(() => {
        if (socket.readyState === WebSocket.OPEN) socket.send(String(++sent));
      }, PACE);
    };
    socket.onmessage = (event) => {
      const at = Number(event.data);
      this.lose(at - received - 1); // numbers that were left out
      received = at;
      this.messages += 1;
      total.messages += 1;
      this.draw();
    };
    socket.onclose = (event) => {
      clearInterval(timer);
      this.row.dataset.open = "no";
      if (wasOpen) {
        this.lose(sent - received); // that no answer came to
        this.ended(event, path);
      }
      setTimeout(() => this.open(), 200 + Math.random() * 800);
    };
  }

  lose(messages) {
    if (messages > 0) total.lost[this.route] += messages;
  }

  /** What the browser was told. Holdfast's Close says the cause; its live view says who moved first. */
  async ended(event, path) {
    total.ended += 1;
    say(this.row.querySelector(".last"), `${event.code} ${event.reason}`);
    const cause = h("span", {}, event.reason || (event.code === 1006 ? "no Close came" : ""));
    const row = h("li", {}, h("span", {}, clock.format(new Date())), h("span", {}, this.name), h("b", {}, String(event.code)), cause);
    const list = byId("ends");
    list.querySelector(".quiet")?.remove();
    list.prepend(row);
    while (list.children.length > ENDS) list.lastElementChild.remove();
    const answer = await fetch("live/ends?since=60&limit=200").catch(() => undefined);
    if (!answer?.ok) return;
    const { ends } = await answer.json();
    const end = ends.find((candidate) => candidate["url.path"] === path);
    if (end) say(cause, `${end["holdfast.end.cause"]}, by ${end["holdfast.end.initiator"]}, at ${end["holdfast.endpoint.pod"]}`);
  }

  draw() {
    say(this.row.querySelector("b"), number.format(this.messages));
  }
}

function drawTotals() {
  say(byId("messages"), number.format(total.messages));
  for (const route of ["steady", "edited"]) {
    const element = byId(`lost-${route}`);
    say(element, number.format(total.lost[route]));
    element.dataset.level = total.lost[route] ? "bad" : "ok";
  }
  say(byId("ended"), number.format(total.ended));
}

function drawState(state) {
  say(byId("says"), state.says);
  for (const button of document.querySelectorAll("[data-act]")) button.disabled = state.busy;
  say(byId("edits"), state.edits ? `${number.format(state.edits)} edits` : "");
  const rows = state.endpoints.map((endpoint) => h("li", { "data-runs": endpoint.runs ? "yes" : "no" }, endpoint.name, endpoint.runs ? "" : " killed"));
  const text = rows.map((row) => row.textContent).join();
  if (byId("endpoints").dataset.text === text) return;
  byId("endpoints").dataset.text = text;
  byId("endpoints").replaceChildren(...rows);
}

async function look() {
  try {
    const state = await (await fetch("state", { cache: "no-store" })).json();
    drawState(state);
    return state;
  } catch {
    say(byId("says"), "The demo has ended.");
    return undefined;
  }
}

for (const button of document.querySelectorAll("[data-act]")) {
  button.addEventListener("click", async () => {
    const answer = await fetch(button.dataset.act, { method: "POST", headers: { demo: "1" } });
    if (answer.ok) setTimeout(look, 100);
  });
}

const first = await look();
if (first) for (const route of ["steady", "edited"]) for (let index = 0; index < SOCKETS; index += 1) new Socket(route, index, first.http);
setInterval(look, LOOK);
setInterval(drawTotals, PACE);
