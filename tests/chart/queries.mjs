// Every query of the alerts, dashboards and autoscalers, as recording rules for promtool to parse; fails if one asks for a metric or a label
// that docs/reference.md does not have, or if a metric is on no panel and in no alert without a reason.
//   node queries.mjs REFERENCE FILE... > rules.yaml
import { readFileSync } from "node:fs";

const [reference, ...files] = process.argv.slice(2);

// | `name` | type | `label`, `label` | meaning |
const metrics = new Map();
for (const line of readFileSync(reference, "utf8").split("\n")) {
  const row = line.match(/^\| `((?:holdfast|process)_\w+)` \| (\w+) \| ([^|]*) \|/);
  if (row) metrics.set(row[1], { kind: row[2], labels: [...row[3].matchAll(/`(\w+)`/g)].map((label) => label[1]) });
}
// What Prometheus and its operator add to every series of a pod.
const target = ["namespace", "pod", "job", "instance", "container"];

// What nobody asks for, and why not.
const unasked = {
  process_threads: "as many as there are workers, and a few; it does not change",
  process_virtual_memory_bytes: "address space that the allocator reserves, which costs nothing",
};

const queries = [];
// What the Prometheus adapter is told to offer, and what autoscalers ask it for.
const [named, wanted] = [new Set(), new Set()];
for (const file of files) {
  const text = readFileSync(file, "utf8");
  if (file.endsWith(".json")) {
    const dashboard = JSON.parse(text);
    for (const panel of dashboard.panels)
      for (const { expr } of panel.targets ?? []) queries.push({ where: `${dashboard.title}: ${panel.title}`, expr });
    for (const { name, expr } of dashboard.annotations.list) queries.push({ where: `${dashboard.title}: ${name}`, expr });
    for (const { name, definition } of dashboard.templating.list.filter((variable) => variable.type === "query")) {
      const [, expr, label] = definition.match(/^label_values\((.*), (\w+)\)$/);
      queries.push({ where: `${dashboard.title}: variable ${name}`, expr: `sum by (${label}) (${expr})` });
    }
  } else if (file.includes("autoscaling/")) {
    for (const [, query] of text.matchAll(/^ +query: (.*)$/gm)) queries.push({ where: file, expr: query });
    // A rule of the Prometheus adapter is a template: as it asks for the metric that an autoscaler asks it for.
    for (const [, series, name, query] of text.matchAll(/^ +- seriesQuery: (.*)$[^]*?^ +name: {as: (\w+)}\n +metricsQuery: (.*)$/gm)) {
      named.add(name);
      const put = { Series: series.replace(/{.*/, ""), LabelMatchers: 'namespace="a",pod=~"b|c"', GroupBy: "pod" };
      queries.push({ where: file, expr: series }, { where: file, expr: query.replace(/<<\.(\w+)>>/g, (_, word) => put[word]) });
    }
    for (const [, name] of text.matchAll(/^ +metric: {name: (\w+)}$/gm)) wanted.add(name);
  } else {
    for (const alert of text.split(/^- alert: /m).slice(1)) {
      const expr = alert.match(/^ {2}expr: ([^]*?)\n {2}\w/m)[1].replace(/^>-\s/, "").replace(/\s+/g, " ");
      queries.push({ where: alert.split("\n")[0], expr: expr.replaceAll("%series%", 'job="a"').replace(/%\w+%/g, "1") });
    }
  }
}

let wrong = 0;
const asked = new Set();
const complain = (query, what) => (console.error(`${query.where}: ${what}`), wrong++);
for (const query of queries) {
  const used = new Set();
  for (const [name] of query.expr.replace(/"[^"]*"/g, '""').matchAll(/\b(?:holdfast|process)_\w+/g)) {
    const base = metrics.has(name) ? name : name.replace(/_(bucket|sum|count)$/, "");
    const metric = metrics.get(base);
    if (!metric || (base !== name && metric.kind !== "histogram")) complain(query, `there is no metric ${name}`);
    else asked.add(base);
    if (metric) for (const label of [...metric.labels, ...(base === name ? [] : ["le"])]) used.add(label);
  }
  if (used.size === 0 && !/\b(?:holdfast|process)_/.test(query.expr)) complain(query, "asks for nothing of ours");
  const plain = query.expr.replace(/"[^"]*"/g, '""');
  const labels = [...plain.matchAll(/\b(?:by|on|without|ignoring) \(([^)]*)\)/g)].flatMap((list) => list[1].split(/,\s*/));
  labels.push(...[...plain.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*""/g)].map((matcher) => matcher[1]));
  for (const label of labels) if (!used.has(label) && !target.includes(label)) complain(query, `its metrics have no label ${label}`);
}
for (const name of metrics.keys())
  if (asked.has(name) === name in unasked) complain({ where: name }, asked.has(name) ? "is asked for" : "nobody asks for it");
for (const name in unasked) if (!metrics.has(name)) complain({ where: name }, "is no metric");
if (String([...named]) !== String([...wanted])) complain({ where: "examples/autoscaling" }, `${[...wanted]} is not ${[...named]}`);
if (wrong > 0) process.exit(1);

console.log("groups:\n- name: queries\n  rules:");
queries.forEach(({ expr }, at) => {
  // Grafana puts these in.
  const asked = expr.replaceAll("$__rate_interval", "5m").replaceAll("$__range", "3h");
  console.log(`  - {record: "query:${at}", expr: ${JSON.stringify(asked)}}`);
});
