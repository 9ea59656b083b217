// Takes the commands out of the documents, and runs them: run.sh says where.
//   node run.mjs [DOCUMENT...]
//
// A fence says what it holds. `console`: lines that begin with "$ " are commands, the lines below are what they say. `sh`: commands.
// Both are run, in the order of the document, in one shell for each document, in a copy of the tree. Every command must succeed.
// Comments on the line above a fence change that:
//   <!-- not run: WHY -->            it is not run, and the document says why
//   <!-- run by PATH: TEXT -->       that test runs it: TEXT is in it
//   <!-- exits N -->                 its last command ends with this code
//   <!-- file: NAME -->              it is no command: it is put into this file for the commands below
// Whole objects in `yaml` are shown to the API server, which must take them.
// What is shown must be what is said. "…" stands for any text, and on a line of its own for any lines. Numbers with a point, and ages
// such as 3h12m, are not compared. Commands within sentences are run too, without being compared, with names for words in capitals;
// `unsaid` below has those that cannot be. Every metric that a document names must exist.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";

const documents = ["README.md", "CONTRIBUTING.md", "charts/holdfast/README.md", "bench/README.md", ...guides()];
const languages = ["console", "sh", "yaml", "text", "promql", "nginx"];

// For words in capitals in commands within sentences.
const names = { NAMESPACE: "default", ROUTE: "chat", SERVICE: "chat", WORD: "no_route", URL: "wss://chat.example.com/", DIR: "examples/limits" };

// Commands within sentences that are not run, and why not.
const way = "a way to do something, named for a reason, not a command";
const removes = "removes what the other documents need; tests/chart/cluster.sh does the like";
const pods = "there are no nodes here, so there are no pods; tests/e2e has them";
const unsaid = {
  "kubectl apply -k": way,
  "helm install --take-ownership": "is run by tests/chart/cluster.sh",
  "kubectl apply -k deploy/minimal": "what the release has would be taken from it; tests/chart/cluster.sh applies it",
  "kubectl delete -k deploy/minimal": removes,
  "kubectl delete crd websocketroutes.holdfast.dev": removes,
  "kubectl -n holdfast-system logs holdfast-test": pods,
  "kubectl get pod POD -o jsonpath='{.spec.securityContext.sysctls}'": pods,
  "kubectl -n holdfast-system rollout undo deployment/holdfast": "only once there was a rollout; the document says when",
  "kubectl -n NAMESPACE describe certificate": "cert-manager is not there",
  "kubectl create secret tls": way,
  "holdfast ping --verbose": "the same with a URL is run in this document",
  "holdfast check --defaults FILE --effective": "is run by tests/files.rs",
  "holdfast ping --count 0 ws://localhost:8080/echo": "goes on until it is stopped; tests/cli.rs runs it",
  "holdfast --to 127.0.0.1:9000 --route NAMESPACE/NAME": "serves until it is stopped; tests/cluster/sidecar.rs runs it",
  "holdfast drain POD": "asks a pod; tests/cluster/asking.rs runs it",
  "holdfast drain --wait": "would end the Holdfast that the other commands ask; tests/integration runs it",
};

const only = process.argv.slice(2);
let failures = 0;
let passed = 0;

for (const document of only.length ? only : documents) await check(document);
console.log(`docs: ${passed} passed${failures ? `, ${failures} failed` : ""}`);
process.exit(failures ? 1 : 0);

// Documents in docs/, which has pictures too.
function guides() {
  return readdirSync("docs").filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`);
}

async function check(document) {
  const text = readFileSync(document, "utf8");
  const blocks = fences(document, text);
  const steps = blocks.flatMap((block) => planned(document, block));
  const said = prose(text);
  for (const command of sentences(said)) {
    if (command in unsaid) reasoned(`${document} ${command}`, unsaid[command]);
    else steps.push({ command: command.replace(/\b[A-Z]{3,}\b/g, (word) => names[word] ?? word), shown: null, code: 0, quoted: true });
  }
  metrics(document, text);
  await run(document, steps);
}

// The fenced blocks of a document, with the comment above each.
function fences(document, text) {
  const found = [];
  let block = null;
  let above = "";
  text.split("\n").forEach((line, at) => {
    const fence = line.match(/^( *)```(.*)$/);
    if (block && fence) {
      found.push(block);
      block = null;
      above = "";
    } else if (block) block.lines.push(line.slice(block.indent));
    else if (fence) {
      block = { line: at + 1, language: fence[2], indent: fence[1].length, lines: [], mark: above.match(/^ *<!-- (.*) -->$/)?.[1] ?? "" };
      if (!languages.includes(block.language)) fail(`${document}:${block.line}`, `a fence says one of ${languages.join(", ")}, not "${block.language}"`);
    } else above = line;
  });
  return found;
}

// What is to be done for a block: files to write, commands to run.
function planned(document, { line, language, lines, mark }) {
  const where = `${document}:${line}`;
  const [, word, rest] = mark.match(/^(not run|run by|exits|file):? (.*)$/) ?? [];
  const body = lines.join("\n");
  if (language === "yaml" && !word && /^apiVersion:/m.test(body) && !/^kind: Kustomization$/m.test(body))
    return [{ command: `kubectl apply --dry-run=server -f - <<'END OF FILE'\n${body}\nEND OF FILE`, shown: null, code: 0, where }];
  if (word === "file") return [{ file: rest, text: lines.map((it) => `${it}\n`).join(""), where }];
  if (language !== "console" && language !== "sh") return [];
  if (word === "not run") return reasoned(where, rest), [];
  if (word === "run by") {
    const [, path, needle] = rest.match(/^(\S+): (.*)$/) ?? [rest, rest, ""];
    if (!needle || !existsSync(path) || !readFileSync(path, "utf8").includes(needle)) fail(where, `"${needle}" is not in ${path}`);
    else ok(where, `is run by ${path}`);
    return [];
  }
  const commands = [];
  for (const it of lines) {
    const last = commands.at(-1);
    if (last?.command.endsWith("\\")) last.command += `\n${it}`;
    else if (language === "sh" ? it.trim() : it.startsWith("$ ")) commands.push({ command: it.replace(/^\$ /, ""), shown: language === "sh" ? null : [], code: 0, where });
    else if (last?.shown) last.shown.push(it);
    else if (it.trim()) fail(where, `no command says this: ${it}`);
  }
  if (word === "exits") commands.at(-1).code = Number(rest);
  // A command that shows nothing is not compared.
  for (const it of commands) if (it.shown?.length === 0) it.shown = null;
  return commands;
}

// Something is not run for a reason. Tests that the reason names must be there.
function reasoned(where, reason) {
  const missing = [...reason.matchAll(/\b(?:tests|scripts|docs)\/[\w./]*\w/g)].map(([path]) => path).filter((path) => !existsSync(path));
  if (missing.length) fail(where, `there is no ${missing.join(", ")}`);
  else ok(where, `is not run: ${reason}`);
}

function prose(text) {
  return text.replace(/^( *)```[^]*?^ *```$/gm, "");
}

// Commands within sentences: a program with at least two words more.
function sentences(text) {
  const spans = [...text.matchAll(/`([^`]+)`/g)].map(([, span]) => span.replace(/\s+/g, " "));
  return [...new Set(spans.filter((span) => /^(holdfast|kubectl|helm) \S+ \S/.test(span)))];
}

function metrics(document, text) {
  const reference = readFileSync("docs/reference.md", "utf8");
  for (const [name] of text.matchAll(/\bholdfast_[a-z_]+[a-z]/g)) {
    const base = name.replace(/_(bucket|sum|count)$/, "");
    if (!reference.includes(`| \`${name}\` |`) && !reference.includes(`| \`${base}\` | histogram`)) fail(document, `there is no metric ${name}`);
  }
}

// Runs all of them in one shell, and compares.
async function run(document, steps) {
  if (steps.length === 0) return;
  const place = mkdtempSync(`${tmpdir()}/docs-`);
  const script = steps.map((step, at) => {
    if (step.file) return `cat >'${step.file}' <<'END OF FILE'\n${step.text}END OF FILE\n`;
    return `{ ${step.command}\n} >'${place}/${at}' 2>&1 </dev/null; echo "${at} $?"\n`;
  });
  const shell = spawn("bash", ["-c", `set -o pipefail\n${script.join("")}`], { stdio: ["ignore", "pipe", "inherit"], detached: true });
  const timer = setTimeout(() => process.kill(-shell.pid, "SIGKILL"), 300_000);
  let out = "";
  shell.stdout.on("data", (data) => (out += data));
  await new Promise((done) => shell.on("exit", done));
  clearTimeout(timer);
  const codes = new Map(out.trim().split("\n").map((line) => line.split(" ").map(Number)));
  steps.forEach((step, at) => {
    if (step.file) return;
    const where = step.where ?? document;
    const code = codes.get(at);
    const said = code === undefined ? "" : readFileSync(`${place}/${at}`, "utf8");
    const first = step.command.split("\n")[0];
    if (code === undefined) fail(where, `has not ended: ${first}`);
    else if (code !== step.code) fail(where, `ends with ${code}: ${first}\n${said}`);
    else if (step.shown && !matches(step.shown, said)) fail(where, `${first}\nis shown to say:\n${step.shown.join("\n")}\nand says:\n${said}`);
    else ok(where, first);
  });
}

// Whether what is said is what is shown.
function matches(shown, said) {
  const lines = shown.join("\n").trimEnd().split("\n");
  const pattern = lines.map((line) => (line.trim() === "…" ? "(?:.*\\n)*" : `${line.trim().split(/…/).map(literal).join(".*")} *\\n`));
  return new RegExp(`^${pattern.join("")}$`).test(`${said.trimEnd()}\n`.replace(/^ +/gm, ""));
}

function literal(text) {
  const parts = text.split(/(\d+(?:\.\d+)+|\b(?:\d+(?:ms|[smhd]))+\b|\s+)/);
  return parts.map((part, at) => (at % 2 === 0 ? part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") : /\s/.test(part) ? "\\s+" : "[\\d.smhd]+")).join("");
}

function ok(where, what) {
  console.log(`ok   ${where} ${what}`);
  passed++;
}

function fail(where, what) {
  console.log(`FAIL ${where} ${what}`);
  failures++;
}
