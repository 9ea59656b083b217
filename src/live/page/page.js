// The page of the live view. It reads what this replica tells of itself and changes nothing.
//
// What it shows is named by others (routes, hosts, clients, pods), so text goes into the document as text nodes only.
// It fetches what is shown, with limits, whatever the size of the installation; server-sent events say when to look again.

const ROUTES = 60; // rows of routes
const ENDS = 500; // ends that are kept to be searched
const ENDS_SHOWN = 80;
const ENDPOINTS_SHOWN = 60; // of one backend
const SAMPLES = 300; // of the history
const BIN = 5; // samples in one bar of a plot
const SILENCE = 16_000; // ms without an event after which contact is lost; the server's longest pause is 5 s
const AGAIN = 3_000; // ms until the next try to get in contact
const HIDDEN = 60_000; // ms after which a page that nobody sees gives its place away
const ROUTES_EVERY = 5_000; // ms between two looks at the routes that are shown
const PROCESS_EVERY = 10_000; // ms between two looks at the process's room
const NARROW = 0.8; // of what is allowed
const SOON = 14 * 86_400; // seconds in which an expiry is worth a word
const TROUBLES = 6; // that are shown
const GAPS_EVERY = 3_000; // ms between two looks at ends that were not told one by one

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

// ---------------------------------------------------------------------------------------------------------- elements

/** An element. Children are elements or text. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return dress(element, attributes, children);
}

/** The same in SVG. */
function s(tag, attributes = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Puts these elements into `parent`, in this order, and moves none that stands right: focus and open rows stay. */
function arrange(parent, wanted) {
  const keep = new Set(wanted);
  for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const element of wanted) {
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
}

/** Puts `text` there unless it is there already, so that nothing is announced twice. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ----------------------------------------------------------------------------------------------------------- figures

function count(value) {
  return value === null || value === undefined ? "–" : number.format(value);
}

function bytes(value) {
  if (!(value >= 0)) return "–";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return `${(value / size).toFixed(value < 10 * size ? 1 : 0)} ${unit}B`;
  }
  return `${value} B`;
}

function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const parts = [["d", 86_400], ["h", 3_600], ["m", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => seconds >= size);
  return parts
    .slice(first, first + 2)
    .map(([unit, size], index) => [unit, Math.floor(index === 0 ? seconds / size : (seconds % parts[first][1]) / size)])
    .filter(([, amount], index) => index === 0 || amount > 0)
    .map(([unit, amount]) => `${amount} ${unit}`)
    .join(" ");
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clock = (at) => clockFormat.format(at);

// --------------------------------------------------------------------------------------------------- what is known

const known = {
  state: undefined, // the last state that was told
  process: undefined, // more of it, asked for now and then: room, certificates, how old the view is
  samples: [], // of all routes, or of the one that is looked at: {number, at, open, handshakes: Map, ends: Map}
  routes: undefined, // the last document of routes
  ends: [], // newest first
  lastEnd: 0,
  held: 0, // ends that have come while somebody reads
  hasGaps: false, // whether ends have come of which some were not told
  words: new Map(),
};

/** What is looked at. The address has it, so that it can be sent to somebody. */
const view = { search: "", route: "", cause: "", troubled: "" };

async function get(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** Calls `ask` at once, or once more when the call under way has ended: never two at a time. */
function single(ask) {
  let running = false;
  let again = false;
  return async function run() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await ask();
    } catch (error) {
      contact.doubt(error);
    }
    running = false;
    if (again) {
      again = false;
      run();
    }
  };
}

const loadHistory = single(async () => {
  const route = view.route;
  const document = await get(route ? `history?route=${encodeURIComponent(route)}` : "history");
  if (route !== view.route) return;
  const groups = (rows, key) => rows.map((row) => [key(row), row.counts]);
  const handshakes = groups(document.handshakes, (row) => row.outcome);
  const ends = groups(document.ends, endKey);
  const at = (columns, index) => new Map(columns.map(([key, counts]) => [key, counts[index]]).filter(([, n]) => n > 0));
  known.samples = document.at.map((time, index) => ({
    number: document.last - document.at.length + 1 + index,
    at: time * 1000,
    open: document.open[index],
    handshakes: at(handshakes, index),
    ends: at(ends, index),
  }));
  drawHistory();
});

const loadRoutes = single(async () => {
  const asked = new URLSearchParams({ limit: String(ROUTES) });
  if (view.search || !view.route) asked.set("search", view.search);
  else asked.set("route", view.route);
  if (view.troubled) asked.set("troubled", "true");
  const started = performance.now();
  const document = await get(`routes?${asked}`);
  // A large installation is not asked more often than it can answer with ease.
  loadRoutes.pause = Math.max(ROUTES_EVERY, 20 * (performance.now() - started));
  loadRoutes.at = performance.now();
  known.routes = document;
  drawRoutes();
});
loadRoutes.pause = ROUTES_EVERY;
loadRoutes.at = 0;

const loadEnds = single(async () => {
  const [route, cause] = [view.route, view.cause];
  const query = new URLSearchParams({ limit: String(ENDS) });
  if (route) query.set("route", route);
  if (cause) query.set("cause", cause);
  const document = await get(`ends?${query}`);
  if (route !== view.route || cause !== view.cause) return;
  known.ends = document.ends;
  known.lastEnd = document.last;
  drawEnds();
});

const loadProcess = single(async () => {
  known.process = await get("state");
  if (known.state) drawState();
});

const loadWords = single(async () => {
  const document = await get("words");
  for (const word of document.words) known.words.set(word.word, word);
});

function loadAll() {
  loadProcess();
  loadHistory();
  loadRoutes();
  loadEnds();
  if (known.words.size === 0) loadWords();
}

const endKey = (row) => `${row["holdfast.end.initiator"]} ${row["holdfast.end.cause"]}`;

// ----------------------------------------------------------------------------------------------------------- contact

/** The events, and whether they come. */
const contact = {
  source: undefined,
  heard: 0, // when something was heard last, by the clock of the page
  timer: undefined,

  open() {
    this.source?.close();
    const source = new EventSource("events");
    this.source = source;
    source.addEventListener("open", loadAll);
    source.addEventListener("state", (event) => this.tell(event, onState));
    source.addEventListener("sample", (event) => this.tell(event, onSample));
    source.addEventListener("ends", (event) => this.tell(event, onEnds));
    source.addEventListener("error", () => this.lost());
  },

  close(text) {
    this.source?.close();
    this.source = undefined;
    this.show("waiting", text);
  },

  tell(event, to) {
    this.heard = Date.now();
    this.show("live", "live");
    to(JSON.parse(event.data));
  },

  /** An answer did not come. The events decide whether that is a loss. */
  doubt(error) {
    console.info(error.message);
  },

  lost() {
    const since = this.heard ? `lost contact since ${clock(this.heard)}` : "no contact";
    this.show("lost", since);
    // The browser tries again by itself after a broken connection, and not after a refusal.
    if (this.source?.readyState === EventSource.CLOSED) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.open(), AGAIN);
    }
  },

  show(kind, text) {
    byId("contact").dataset.contact = kind;
    say(byId("contact-text"), text);
  },

  /** A connection may be dead without an error: a laptop that slept, a port-forward that hangs. */
  watch() {
    if (!this.source || !this.heard || Date.now() - this.heard < SILENCE) return;
    this.lost();
    if (Date.now() - this.heard > 2 * SILENCE && this.source.readyState === EventSource.OPEN) this.open();
  },
};

function onState(state) {
  const before = known.state;
  known.state = state;
  drawState();
  if (before && before["service.version"] !== state["service.version"]) {
    notice("This page is of another build than the process that answers now.", ["Load it anew", () => location.reload()]);
  }
  if (before && (before.generation !== state.generation || before.replica !== state.replica)) loadRoutes();
}

function onSample(sample) {
  let shown = sample;
  if (view.route) {
    shown = sample.routes.find((row) => routeName(row) === view.route);
    shown ??= { open: sample.routes_left_out ? null : 0, handshakes: [], ends: [] };
  }
  const last = known.samples.at(-1);
  if (last && sample.sample > last.number + 1) {
    loadHistory(); // some were missed
    return;
  }
  if (last && sample.sample <= last.number) return;
  known.samples.push({
    number: sample.sample,
    at: sample.at * 1000,
    open: shown.open,
    handshakes: new Map(shown.handshakes.map((row) => [row.outcome, row.count])),
    ends: new Map(shown.ends.map((row) => [endKey(row), row.count])),
  });
  known.samples.splice(0, known.samples.length - SAMPLES);
  drawHistory();
}

/** New ends, newest first; where there were more than are told at once, not all of them. */
function onEnds(news) {
  const wanted = news.ends.filter((end) => isLookedAt(end) && end.sequence > known.lastEnd);
  known.lastEnd = Math.max(known.lastEnd, news.last);
  if (wanted.length === 0 && !news.more) return;
  known.ends = [...wanted, ...known.ends].slice(0, ENDS);
  known.hasGaps ||= news.more;
  if (isReading()) {
    known.held += wanted.length;
    drawHeld();
  } else {
    drawEnds(new Set(wanted.map((end) => end.sequence)));
  }
}

/** What was not told is asked for, at a pace that a storm of ends does not set. */
function fillGaps() {
  if (!known.hasGaps || isReading() || document.hidden) return;
  known.hasGaps = false;
  loadEnds();
}

// ------------------------------------------------------------------------------------------------------------- state

function drawState() {
  const state = known.state;
  const fact = (value, before = "", level) => h("span", { "data-level": level }, before, h("b", {}, value));
  const facts = [fact(state.replica), fact(state["service.version"], "version ")];
  if (known.process) facts.push(fact(known.process.mode, "mode "));
  facts.push(fact(count(state.generation), "generation "));
  const stages = { serving: "serving", announced: "drain announced", closing: "draining", drained: "drained" };
  const since = state.since ? ` since ${clock(state.since * 1000)}` : "";
  facts.push(fact(`${stages[state.stage] ?? state.stage}${since}`, "", state.stage === "serving" ? undefined : "warn"));
  facts.push(fact(count(state.connections), "connections "));
  for (const trouble of troubles(known.process)) facts.push(fact(trouble, "", "warn"));
  const text = facts.map((element) => element.textContent).join();
  if (byId("facts").dataset.text === text) return;
  byId("facts").dataset.text = text;
  byId("facts").replaceChildren(...facts);
  document.title = `${state.replica} · Holdfast`;
}

/** What somebody should look at before it becomes worse. */
function troubles(process) {
  if (!process) return [];
  const found = [];
  if (!process.ready) found.push(`not ready: waits for ${process.waiting_for.join(", ")}`);
  for (const [name, room] of Object.entries(process.headroom)) {
    if (room.allowed && room.used / room.allowed >= NARROW) found.push(`${name} ${Math.round((100 * room.used) / room.allowed)}% used`);
  }
  for (const view of process.views) {
    if (view.failure) found.push(`cannot watch ${view.of}: ${view.failure}`);
  }
  for (const certificate of process.certificates) {
    const left = certificate.expires - Date.now() / 1000;
    if (left < SOON) found.push(left > 0 ? `${certificate.secret} expires in ${duration(left)}` : `${certificate.secret} has expired`);
  }
  return found.slice(0, TROUBLES);
}

function notice(text, [label, action]) {
  byId("notice").replaceChildren(text, " ", h("button", { type: "button", click: action }, label));
  byId("notice").hidden = false;
}

// ------------------------------------------------------------------------------------------------------------- plots

const PLOT = { width: 300, height: 84 };

/** A card with a title, the value of now, a drawing, and what its colours mean. */
class Plot {
  constructor(figure, title) {
    this.value = h("strong");
    this.unit = h("span", { class: "quiet" });
    this.drawing = s("svg", { role: "img", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, preserveAspectRatio: "none" });
    this.legend = h("ul", { class: "legend" });
    this.max = h("span");
    this.title = title;
    figure.append(
      h("figcaption", {}, h("h3", {}, title), this.value, this.unit),
      this.drawing,
      h("p", { class: "axis", "aria-hidden": "true" }, h("span", {}, "15 min ago"), this.max, h("span", {}, "now")),
      this.legend,
    );
    this.drawing.addEventListener("pointermove", (event) => this.point(event.offsetX / this.drawing.clientWidth));
    this.drawing.addEventListener("pointerleave", () => this.point(undefined));
  }

  /** `bins`: what is drawn, oldest first, with `at`, `until` and `values` by series. */
  draw({ bins, series, value, unit, label, max, shapes, legend }) {
    this.bins = bins;
    this.series = series;
    this.shapes = shapes;
    this.sum = legend;
    say(this.value, value);
    say(this.unit, unit);
    say(this.max, max);
    this.drawing.setAttribute("aria-label", label);
    this.redraw();
  }

  point(share) {
    this.at = share;
    if (this.bins) this.redraw();
  }

  redraw() {
    const { width, height } = PLOT;
    const base = s("line", { class: "base", x1: 0, x2: width, y1: height, y2: height, "vector-effect": "non-scaling-stroke" });
    const index = this.at === undefined ? undefined : Math.floor(this.at * BINS) - (BINS - this.bins.length);
    const bin = this.bins[index];
    const x = bin && ((index + BINS - this.bins.length + 0.5) * width) / BINS;
    const cursor = bin && s("line", { class: "cursor", x1: x, x2: x, y1: 0, y2: height, "vector-effect": "non-scaling-stroke" });
    this.drawing.replaceChildren(base, ...this.shapes, ...(cursor ? [cursor] : []));
    const values = bin ? bin.values : this.sum;
    const rows = this.series.map((name) => h("li", { "data-series": name }, `${SERIES[name] ?? name} `, h("b", {}, count(values[name]))));
    if (bin) rows.push(h("li", { class: "when" }, `${clock(bin.at)} – ${clock(bin.until)}`));
    this.legend.replaceChildren(...rows);
  }
}

const BINS = SAMPLES / BIN;
const SERIES = { accepted: "accepted", client: "client", endpoint: "endpoint", holdfast: "Holdfast", open: "most open" };
const plots = {
  open: new Plot(byId("plot-open"), "Open connections"),
  handshakes: new Plot(byId("plot-handshakes"), "Handshakes"),
  ends: new Plot(byId("plot-ends"), "Ends"),
};

/** Who refused: the endpoint by its own answer, a client that left, or Holdfast. */
function refusedBy(outcome) {
  if (outcome === "accepted") return "accepted";
  if (outcome === "endpoint") return "endpoint";
  return outcome === "client_gone" ? "client" : "holdfast";
}

const endedBy = (key) => key.split(" ")[0];

/** The samples in bars that do not shift against each other as time goes on. */
function bins(of, group, names) {
  const all = [];
  for (const sample of known.samples) {
    const slot = Math.floor(sample.number / BIN);
    if (all.at(-1)?.slot !== slot) {
      all.push({ slot, at: sample.at, until: sample.at, values: Object.fromEntries(names.map((name) => [name, 0])) });
    }
    const bin = all.at(-1);
    bin.until = sample.at;
    for (const [key, amount] of sample[of]) bin.values[group(key)] += amount;
  }
  return all.slice(-BINS);
}

function bars(all, names) {
  const most = Math.max(1, ...all.map((bin) => names.reduce((sum, name) => sum + bin.values[name], 0)));
  const step = PLOT.width / BINS;
  const shapes = [];
  all.forEach((bin, index) => {
    let y = PLOT.height;
    for (const name of names) {
      const height = (bin.values[name] / most) * (PLOT.height - 4);
      if (height === 0) continue;
      const drawn = Math.max(height, 1.5); // one of a thousand is seen, too
      y -= drawn;
      const x = (index + BINS - all.length) * step + 0.4;
      shapes.push(s("rect", { "data-series": name, x, y, width: step - 0.8, height: drawn }));
    }
  });
  return { most, shapes };
}

function drawHistory() {
  drawOpen();
  drawCounts(plots.handshakes, "handshakes", refusedBy, ["accepted", "endpoint", "holdfast", "client"], {
    accepted: "accepted", endpoint: "refused by the endpoint", holdfast: "refused by Holdfast", client: "left by the client",
  });
  drawCounts(plots.ends, "ends", endedBy, ["client", "endpoint", "holdfast"], {
    client: "by the client", endpoint: "by the endpoint", holdfast: "by Holdfast",
  });
  drawCauses();
}

function drawOpen() {
  const last = known.samples.at(-1);
  const peak = Math.max(0, ...known.samples.map((sample) => sample.open ?? 0));
  const all = [];
  for (const sample of known.samples) {
    const slot = Math.floor(sample.number / BIN);
    if (all.at(-1)?.slot !== slot) all.push({ slot, at: sample.at, until: sample.at, values: { open: null } });
    const bin = all.at(-1);
    bin.until = sample.at;
    if (sample.open !== null) bin.values.open = Math.max(bin.values.open ?? 0, sample.open);
  }
  const shown = all.slice(-BINS);
  const step = PLOT.width / BINS;
  const runs = [];
  shown.forEach((bin, index) => {
    if (bin.values.open === null) return; // not known: a gap
    const x = (index + BINS - shown.length + 0.5) * step;
    const y = PLOT.height - (bin.values.open / Math.max(1, peak)) * (PLOT.height - 4);
    if (index === 0 || shown[index - 1].values.open === null) runs.push([]);
    runs.at(-1).push([x, y]);
  });
  const shapes = runs.flatMap((run) => {
    const line = run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
    const area = `M${run[0][0]} ${PLOT.height}L${line}L${run.at(-1)[0]} ${PLOT.height}Z`;
    return [s("path", { class: "area", d: area }), s("path", { class: "curve", d: `M${line}`, "vector-effect": "non-scaling-stroke" })];
  });
  plots.open.draw({
    bins: shown,
    series: ["open"],
    legend: { open: peak },
    value: count(last?.open),
    unit: "",
    max: "",
    label: `Open connections over the last 15 minutes: ${count(last?.open)} now, ${count(peak)} at most.`,
    shapes,
  });
}

function drawCounts(plot, of, group, names, words) {
  const all = bins(of, group, names);
  const totals = Object.fromEntries(names.map((name) => [name, all.reduce((sum, bin) => sum + bin.values[name], 0)]));
  const used = names.filter((name) => totals[name] > 0 || name === names[0]);
  const minute = known.samples.slice(-20).reduce((sum, sample) => sum + [...sample[of].values()].reduce((a, b) => a + b, 0), 0);
  const { most, shapes } = bars(all, names);
  const told = names.filter((name) => totals[name] > 0).map((name) => `${count(totals[name])} ${words[name]}`);
  plot.draw({
    bins: all,
    series: used,
    legend: totals,
    value: count(minute),
    unit: "last minute",
    max: `up to ${count(most)} in ${BIN * 3} s`,
    label: `${plot.title} over the last 15 minutes: ${told.join(", ") || "none"}; ${count(minute)} in the last minute.`,
    shapes,
  });
}

/** Which causes and reasons there were, most first. */
function drawCauses() {
  const sums = new Map();
  const sum = (word, by, amount) => {
    const row = sums.get(word) ?? { word, by, amount: 0 };
    row.amount += amount;
    sums.set(word, row);
  };
  for (const sample of known.samples) {
    for (const [key, amount] of sample.ends) sum(key.split(" ")[1], endedBy(key), amount);
    for (const [outcome, amount] of sample.handshakes) {
      if (outcome !== "accepted") sum(outcome === "endpoint" ? "refused by endpoint" : outcome, refusedBy(outcome), amount);
    }
  }
  const rows = [...sums.values()].sort((a, b) => b.amount - a.amount || a.word.localeCompare(b.word));
  const all = rows.reduce((total, row) => total + row.amount, 0);
  const shown = rows.slice(0, 5);
  const list = byId("causes-list");
  const buttons = new Map([...list.children].map((item) => [item.dataset.word, item]));
  arrange(list, shown.map((row) => {
    const item = buttons.get(row.word) ?? causeItem(row.word);
    const button = item.firstElementChild;
    button.dataset.series = row.by;
    button.setAttribute("aria-pressed", String(view.cause === row.word));
    const [, amount, share, bar] = button.children;
    say(amount, count(row.amount));
    say(share, `${Math.round((100 * row.amount) / all)}%`);
    bar.children[1].setAttribute("width", ((100 * row.amount) / shown[0].amount).toFixed(1));
    return item;
  }));
  const more = rows.slice(5).reduce((total, row) => total + row.amount, 0);
  say(byId("causes-more"), rows.length === 0 ? "None." : more ? `${count(more)} by ${rows.length - 5} more causes` : "");
}

function causeItem(word) {
  const press = () => look({ cause: view.cause === word ? "" : word });
  return h("li", { "data-word": word },
    h("button", { type: "button", click: press },
      h("span", {}, word), h("span", { class: "number" }), h("span", { class: "number quiet" }), barOf()));
}

function barOf() {
  return s("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "rest", width: 100, height: 4 }), s("rect", { height: 4, width: 0 }));
}

// ------------------------------------------------------------------------------------------------------------ routes

/** Empty where no rule serves it. */
const routeName = (row) => (row["holdfast.route.name"] ? `${row["holdfast.route.namespace"]}/${row["holdfast.route.name"]}` : "");
const routeRows = new Map();

/** Which of its conditions is the one to tell, and how bad it is. */
function judge(route) {
  const bad = route.conditions.find((condition) => isBad(condition));
  if (!bad) return { level: "ok", word: "" };
  return { level: route.accepted ? "warn" : "bad", word: bad.reason };
}

/** Conflicted is the one condition that is good when it is False. */
function isBad(condition) {
  return condition.status !== (condition.type === "Conflicted" ? "False" : "True");
}

const GLYPHS = { ok: "✓", warn: "!", bad: "✕" };
const LEVELS = { ok: "in order", warn: "warning", bad: "rejected" };

function drawRoutes() {
  const document = known.routes;
  const routes = view.route ? document.routes.filter((route) => routeName(route) === view.route) : document.routes;
  const rows = routes.map((route) => {
    const key = routeName(route);
    const row = routeRows.get(key) ?? routeRow(key);
    routeRows.set(key, row);
    row.update(route);
    return row.element;
  });
  const shown = new Set(routes.map(routeName));
  for (const key of routeRows.keys()) if (!shown.has(key)) routeRows.delete(key);
  arrange(byId("routes"), rows);
  say(byId("routes-count"), count(document.total));
  const troubles = [];
  if (document.rejected) troubles.push(`${count(document.rejected)} rejected`);
  if (document.warnings) troubles.push(`${count(document.warnings)} with warnings`);
  const button = byId("routes-troubled");
  say(button, troubles.join(", ") || "all");
  button.hidden = troubles.length === 0 && !view.troubled;
  button.setAttribute("aria-pressed", String(view.troubled !== ""));
  const more = document.omitted ? `${count(document.omitted)} more; search to see them.` : "";
  say(byId("routes-more"), rows.length === 0 ? (view.search ? "No route has this in it." : view.troubled ? "All are in order." : "No routes.") : more);
}

function routeRow(key) {
  const glyph = h("span", { class: "glyph" });
  const level = h("span", { class: "hidden" });
  const hosts = h("span", { class: "hosts" });
  const word = h("span", { class: "level" });
  const endpoints = h("span", {});
  const open = h("span", { class: "number" });
  const summary = h("summary", { class: "routes-grid" },
    glyph, h("span", { class: "name" }, h("b", {}, key), level, " ", word, " ", hosts), endpoints, open);
  const detail = h("div", { class: "detail" });
  const element = h("details", { "data-route": key, toggle: () => fill() }, summary, detail);
  let route;
  let drawn;
  function fill() {
    const text = element.open ? JSON.stringify(route) : "";
    if (text === drawn) return;
    drawn = text;
    detail.replaceChildren(...(element.open ? routeDetail(route) : []));
  }
  return {
    element,
    update(now) {
      route = now;
      const verdict = judge(route);
      say(glyph, GLYPHS[verdict.level]);
      glyph.dataset.level = verdict.level;
      word.dataset.level = verdict.level;
      glyph.setAttribute("aria-hidden", "true");
      say(level, `, ${LEVELS[verdict.level]}`);
      say(word, verdict.word);
      say(hosts, route.hostnames.length ? route.hostnames.join(", ") : "every host");
      // Several rules may lead to one Service.
      const backends = [...new Map(route.rules.flatMap((rule) => rule.backends).map((backend) => [backend.service, backend])).values()];
      const usable = backends.reduce((sum, backend) => sum + backend.endpoints_usable, 0);
      const total = backends.reduce((sum, backend) => sum + backend.endpoints_total, 0);
      say(endpoints, route.accepted ? `${count(usable)} of ${count(total)} ready` : "–");
      endpoints.className = route.accepted && usable === 0 && backends.length ? "level" : "";
      endpoints.dataset.level = "bad";
      say(open, count(route.open));
      if (!detail.contains(document.activeElement)) fill();
    },
  };
}

function routeDetail(route) {
  const name = routeName(route);
  const isOnly = view.route === name;
  const only = h("button", { type: "button", click: () => look({ route: isOnly ? "" : name }) },
    isOnly ? "Show all routes" : `Only ${name}, in plots and ends too`);
  const conditions = route.conditions.map((condition) => {
    const level = isBad(condition) ? (route.accepted ? "warn" : "bad") : "ok";
    return h("div", { class: "condition" },
      h("span", { class: "glyph", "data-level": level, "aria-hidden": "true" }, GLYPHS[level]),
      h("span", {}, `${condition.type} `, h("b", {}, condition.reason === condition.type ? condition.status : condition.reason)),
      h("span", { class: "where" }, condition.message));
  });
  const tls = route.tls.map((entry) => h("p", { class: entry.usable ? "" : "level", "data-level": "bad" },
    `Certificate ${entry.secret} for ${entry.hosts.join(", ")}: `, entry.usable ? `until ${entry.expires}` : "cannot be used"));
  const limits = route.limits.filter((limit) => limit.allowed !== null || limit.refused).map((limit) =>
    h("p", {}, `Limit ${limit.limit}: ${limit.used === null ? "" : `${count(limit.used)} of `}${count(limit.allowed)}`,
      limit.refused ? `, refused ${count(limit.refused)}${limit.dry_run ? " (dry run)" : ""}` : ""));
  return [
    h("div", { class: "act" }, only),
    h("div", {}, conditions),
    ...tls,
    ...limits,
    ...route.rules.map(ruleDetail),
  ];
}

function ruleDetail(rule) {
  const pairs = (counts) => Object.entries(counts).map(([word, amount]) => `${word} ${count(amount)}`).join(", ");
  const told = [
    ["Handshakes", pairs(rule.handshakes)],
    ["Refusals", pairs(rule.refusals)],
    ["Ends", pairs(rule.ends)],
  ].filter(([, text]) => text);
  return h("div", { class: "rule" },
    h("h3", {}, rule["holdfast.rule.name"], " ", h("span", { class: "quiet mono" }, rule.matches.join("  or  "))),
    told.length > 0 && h("dl", { class: "pairs" }, told.flatMap(([term, text]) => [h("dt", {}, term), h("dd", {}, text)])),
    rule.backends.map(backendDetail));
}

function backendDetail(backend) {
  const head = h("p", {}, "Service ", h("b", {}, backend.service), ` weight ${backend.weight}`,
    !backend.resolved && h("span", { class: "level", "data-level": "bad" }, " cannot be resolved"));
  if (backend.endpoints.length === 0) return h("div", {}, head, h("p", { class: "quiet" }, "No endpoints."));
  const most = Math.max(1, ...backend.endpoints.map((endpoint) => endpoint.open));
  const rows = backend.endpoints.slice(0, ENDPOINTS_SHOWN).map((endpoint) => {
    const bar = barOf();
    bar.children[1].setAttribute("width", ((100 * endpoint.open) / most).toFixed(1));
    const level = { ready: "ok", serving: "ok", ejected: "bad", gone: "warn" }[endpoint.state] ?? "warn";
    const why = endpoint.ejected_for ? ` for ${endpoint.ejected_for}, ${duration(endpoint.ejected_seconds_left)} left` : "";
    return h("tr", {},
      h("td", {}, endpoint["holdfast.endpoint.pod"]),
      h("td", { class: "mono" }, endpoint["destination.address"]),
      h("td", {}, h("span", { class: "level", "data-level": level }, endpoint.state), why),
      h("td", { class: "number" }, count(endpoint.open)),
      h("td", { class: "share", "data-series": "open" }, bar));
  });
  const left = backend.endpoints_total - rows.length;
  const columns = ["Endpoint", "Address", "State", "Open", ""].map((text, index) =>
    text ? h("th", { scope: "col", class: index === 3 ? "number" : "" }, text) : h("td", {}));
  return h("div", {}, head,
    h("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": `Endpoints of ${backend.service}` }, h("table", {}, h("thead", {}, h("tr", {}, columns)), h("tbody", {}, rows))),
    left > 0 && h("p", { class: "quiet" }, `and ${count(left)} more`));
}

// -------------------------------------------------------------------------------------------------------------- ends

const endRows = new Map();

function isLookedAt(end) {
  return (!view.route || routeName(end) === view.route) && (!view.cause || causeOf(end) === view.cause);
}

/** A refusal's reason is its cause. */
const causeOf = (end) => end["holdfast.end.cause"] ?? end["error.type"] ?? "";
const codeOf = (end, side) => {
  const code = end[`holdfast.close.${side}.code`];
  return code === undefined || code === null ? "–" : String(code);
};

function drawEnds(fresh = new Set()) {
  known.held = 0;
  drawHeld();
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = known.ends.filter((end) => words.every((word) => textOf(end).includes(word)));
  const shown = found.slice(0, ENDS_SHOWN);
  const rows = shown.map((end) => {
    const row = endRows.get(end.sequence) ?? endRow(end);
    endRows.set(end.sequence, row);
    row.toggleAttribute("data-new", fresh.has(end.sequence));
    return row;
  });
  const keep = new Set(shown.map((end) => end.sequence));
  for (const seq of endRows.keys()) if (!keep.has(seq)) endRows.delete(seq);
  arrange(byId("ends"), rows);
  say(byId("ends-count"), known.ends.length ? `${count(found.length)} of the last ${count(known.ends.length)}` : "");
  const more = found.length > shown.length ? `${count(found.length - shown.length)} older ones; search to see them.` : "";
  const none = known.ends.length ? "None of them has this in it." : "None yet.";
  say(byId("ends-more"), rows.length === 0 ? none : more);
}

function drawHeld() {
  const button = byId("ends-held");
  button.hidden = known.held === 0;
  say(button, known.held ? `${count(known.held)} new` : "");
}

/** Rows do not move while somebody has one open or stands on one. */
function isReading() {
  const list = byId("ends");
  return list.contains(document.activeElement) || list.querySelector("details[open]") !== null;
}

/** What a search looks at. */
function textOf(end) {
  end.text ??= Object.entries(end)
    .filter(([name]) => name !== "sequence" && name !== "timestamp")
    .map(([, value]) => String(value))
    .concat(routeName(end))
    .join(" ")
    .toLowerCase();
  return end.text;
}

function endRow(end) {
  const at = new Date(end.timestamp);
  const by = end["holdfast.end.initiator"] ?? "holdfast";
  const side = (name) => h("span", { class: "code mono", "data-side": `${name} saw` },
    h("span", { class: "hidden" }, `${name} saw `), sawOf(end, name));
  const endpoint = end["holdfast.endpoint.pod"];
  const where = [routeName(end) && h("b", {}, routeName(end)), `${end["client.address"]}${endpoint ? ` → ${endpoint}` : ""}`]
    .filter(Boolean).flatMap((part) => [h("span", {}, part), " "]);
  const isFailure = end["error.type"] !== undefined;
  const summary = h("summary", { class: "ends-grid" },
    h("time", { datetime: end.timestamp, title: end.timestamp }, clock(at)),
    h("span", { class: "who", "data-series": by }, by === "holdfast" ? "Holdfast" : by),
    h("span", { class: isFailure ? "cause failure" : "cause" }, causeOf(end)),
    side("client"), side("endpoint"),
    h("span", { class: "age number" }, duration(end["holdfast.duration_seconds"])),
    h("span", { class: "where" }, where));
  const detail = h("div", { class: "detail" });
  const element = h("details", { "data-seq": end.sequence, toggle: () => {
    detail.replaceChildren(...(element.open ? endDetail(end) : []));
    if (!isReading() && known.held) drawEnds();
  } }, summary, detail);
  return element;
}

/** The code that a side saw: of a Close, or of the answer to a handshake. */
function sawOf(end, side) {
  if (side === "client" && end["http.response.status_code"] && end["event.name"]?.endsWith("refused")) {
    return String(end["http.response.status_code"]);
  }
  return codeOf(end, side);
}

function endDetail(end) {
  const word = known.words.get(causeOf(end));
  const told = word ? [["Client sees", word.client_sees], ["Endpoint sees", word.endpoint_sees], ["What to do", word.what_to_do]] : [];
  const rows = Object.entries(end)
    .filter(([name, value]) => !["sequence", "text"].includes(name) && value !== null && value !== "")
    .filter(([name, value]) => name !== "client.port" || value !== 0) // a proxy in front did not say
    .map(([name, value]) => [name, name.includes("bytes") ? bytes(value) : name.endsWith("seconds") ? duration(value) : String(value)]);
  const pairs = (list) => h("dl", { class: "pairs" }, list.filter(([, text]) => text)
    .flatMap(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]));
  const client = end["client.address"];
  const act = [
    routeName(end) && h("button", { type: "button", click: () => look({ route: routeName(end) }) }, `Only route ${routeName(end)}`),
    client && h("button", { type: "button", click: () => look({ search: client }) }, `Only client ${client}`),
  ];
  return [
    word && h("p", {}, h("b", {}, causeOf(end)), ": ", word.meaning),
    told.length > 0 && pairs(told),
    h("div", { class: "act" }, act.filter(Boolean)),
    h("dl", { class: "fields mono" }, rows.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))),
  ].filter(Boolean);
}

// ------------------------------------------------------------------------------------------------------ what is asked

function look(change) {
  const before = { ...view };
  Object.assign(view, change);
  const address = new URLSearchParams(Object.entries(view).filter(([, value]) => value)).toString();
  history.replaceState(null, "", address ? `#${address}` : location.pathname);
  if (byId("search").value !== view.search) byId("search").value = view.search;
  drawFilters();
  if (view.route !== before.route) {
    known.samples = [];
    loadHistory();
  }
  if (view.route !== before.route || view.search !== before.search || view.troubled !== before.troubled) loadRoutes();
  if (view.route !== before.route || view.cause !== before.cause) loadEnds();
  else if (view.search !== before.search) drawEnds();
  drawCauses();
}

function drawFilters() {
  const chips = ["route", "cause"].filter((name) => view[name]).map((name) =>
    h("li", {}, h("button", { type: "button", click: () => look({ [name]: "" }), "aria-label": `Remove the filter: ${name} ${view[name]}` },
      `${name} `, h("b", {}, view[name]), " ✕")));
  byId("filters").replaceChildren(...chips);
  say(byId("plots-of"), view.route ? ` of ${view.route}` : "");
}

let typing;
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => look({ search: byId("search").value.trim() }), 150);
});
byId("routes-troubled").addEventListener("click", () => look({ troubled: view.troubled ? "" : "yes" }));
byId("ends-held").addEventListener("click", () => drawEnds());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  const isTyping = target instanceof HTMLInputElement;
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("search").focus();
    byId("search").select();
  } else if (event.key === "Escape") {
    back(target, isTyping);
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && target.closest?.("summary, #search")) {
    const rows = [...document.querySelectorAll("#routes summary, #ends summary")];
    const at = isTyping ? -1 : rows.indexOf(target.closest("summary"));
    const next = rows[at + (event.key === "ArrowDown" ? 1 : -1)];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
});

/** Escape: closes what is open, then forgets what was searched, then the filters. */
function back(target, isTyping) {
  const open = target.closest?.("details[open]");
  if (open) {
    open.open = false;
    open.querySelector("summary").focus();
  } else if (view.search || (isTyping && target.value)) {
    byId("search").value = "";
    look({ search: "" });
  } else if (isTyping) {
    target.blur();
  } else {
    look({ route: "", cause: "", troubled: "" });
  }
}

// Nobody may have more than a few connections to one address; a page that nobody sees needs none.
let hidden;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(() => contact.close("paused while hidden"), HIDDEN);
  else if (!contact.source) contact.open();
});

Object.assign(view, Object.fromEntries([...new URLSearchParams(location.hash.slice(1))].filter(([name]) => name in view)));
byId("search").value = view.search;
drawFilters();
contact.open();
setInterval(() => contact.watch(), 1_000);
setInterval(fillGaps, GAPS_EVERY);
setInterval(() => {
  if (!document.hidden && contact.source) loadProcess();
}, PROCESS_EVERY);
setInterval(() => {
  if (!document.hidden && contact.source && performance.now() - loadRoutes.at >= loadRoutes.pause) loadRoutes();
}, 1_000);
