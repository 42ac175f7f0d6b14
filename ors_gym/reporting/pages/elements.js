"use strict";
const run = JSON.parse(document.getElementById("run").textContent);
const STOP_REASONS = [
  ["finished", "finished", "--c2"], ["policy_stopped", "policy stopped", "--c0"], ["max_turns", "turn limit", "--c1"],
  ["environment_limit", "the environment's limit", "--c6"],
  ["max_tokens", "token limit", "--c3"], ["max_episode_seconds", "time limit", "--c5"], ["failed", "failed", "--c4"],
];

// Elements. Strings become text nodes: no content of a run is parsed as HTML.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "style") for (const [property, setting] of Object.entries(value)) node.style.setProperty(property, setting);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const swatch = (color, block) => el("span", { class: block ? "swatch block" : "swatch", style: { background: `var(${color})` } });

// Models and servers choose the names: `__proto__` and `constructor` are names like any other.
const countOf = (counts, name) => Object.hasOwn(counts, name) ? counts[name] : 0;

// Numbers
const known = value => value !== null && value !== undefined;
const whole = value => known(value) ? Math.round(value).toLocaleString("en-US").replace("-", "−") : "–";
function decimal(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  const text = size >= 1000 ? whole(size) : size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1)
    : size >= 0.005 || size === 0 ? size.toFixed(2) : size.toPrecision(1);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}
const percent = value => value > 0 && value < 0.01 ? "<1 %" : `${Math.round(value * 100)} %`;
function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 100) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60) % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
const sum = values => values.reduce((total, value) => total + (value ?? 0), 0);
function mean(rows, field) {  // over episodes, so weighted by their number
  const measured = rows.filter(row => known(row[field]));
  const weight = row => row.episodes || 1;
  return measured.length ? sum(measured.map(row => row[field] * weight(row))) / sum(measured.map(weight)) : null;
}
function counts(rows, field) {
  const totals = new Map();
  for (const row of rows) for (const [name, count] of Object.entries(row[field])) totals.set(name, (totals.get(name) ?? 0) + count);
  return [...totals].sort((a, b) => b[1] - a[1]);
}

// Names with counts, as bars: [[name, count, color]]
function bars(rows, format = whole) {
  const most = Math.max(...rows.map(row => row[1]));
  return el("div", { class: "bars" }, rows.map(([name, count, color]) => [
    el("span", {}, name),
    el("span", { class: "track" }, el("i", { style: { width: `${count / most * 100}%`, background: `var(${color ?? "--c0"})` } })),
    el("span", {}, format(count)),
  ]));
}
const section = (title, note, ...children) => el("section", {}, el("h2", {}, title), note && el("p", { class: "small muted" }, note), children);

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 2.5, 5, 10].map(factor => factor * power).find(candidate => candidate >= rough * 0.999);
  const marks = [];
  for (let mark = Math.ceil(low / size - 1e-9) * size; mark <= high + size * 1e-6; mark += size) marks.push(Math.abs(mark) < size * 1e-6 ? 0 : mark);
  return marks;
}

function settingsSection() {
  if (!run.settings.length) return null;
  return section("Settings", null, el("dl", { class: "settings" }, run.settings.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { class: "mono" }, value)))));
}

// Only a relative path becomes a link; a URL stays text.
function provenanceSection() {
  const rows = [...run.provenance];
  if (run.records) rows.push(["episodes", el("a", { href: /^[a-z][a-z0-9+.-]*:/i.test(run.records) ? null : run.records }, run.records)]);
  for (const other of run.beside ?? []) rows.push([`beside: ${other.name}`, other.title]);
  if (!rows.length) return null;
  return section("Provenance", null, el("dl", { class: "settings" }, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { class: "mono" }, value)))));
}
