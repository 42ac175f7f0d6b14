// An evaluation: estimates with their intervals, comparisons, and every episode by task, model and epoch.
const rate = run.metric === "success";
const shownValue = value => !known(value) ? "–" : rate ? `${(100 * value).toFixed(100 * value < 1 || 100 * value > 99 ? 1 : 0).replace(/\.0$/, "")} %` : decimal(value);
const shownInterval = interval => interval ? `${shownValue(interval[0]).replace(" %", "")} to ${shownValue(interval[1])}` : "no interval";
const VERDICTS = { better: "good", worse: "bad" };

// Rows of the episodes: [model, task, epoch, value, unrewarded, failed attempts, turns, seconds, stop, block]
const [MODEL, TASK, EPOCH, VALUE, UNREWARDED, FAILURES, TURNS, SECONDS, STOP, BLOCK] = Array(10).keys();
const failed = row => row[VALUE] === null;
const solved = row => !failed(row) && row[VALUE] >= run.successAt - 1e-9;
const cells = run.tasks.map(() => run.models.map(() => []));
for (const row of run.episodes) cells[row[TASK]][row[MODEL]].push(row);
const [lowest, highest] = run.episodes.reduce(([low, high], row) => failed(row) ? [low, high] : [Math.min(low, row[VALUE]), Math.max(high, row[VALUE])], [Infinity, -Infinity]);
const worth = row => rate ? Number(solved(row)) : row[VALUE];
function cellMean(cell) {
  const scored = cell.filter(row => !failed(row));
  return scored.length ? sum(scored.map(worth)) / scored.length : null;
}
const means = cells.map(row => row.map(cellMean));

function headline() {
  const own = run.models.slice(0, run.numOwn), episodes = sum(own.map(model => model.counts.episodes));
  const broken = sum(own.map(model => model.counts.failed)), first = sum(own.map(model => model.counts.first_attempts_failed));
  const facts = [
    ["Models", whole(own.length), own.map(model => model.name).join(", ")], ["Tasks", whole(run.tasks.length), own[0].played],
    ["Episodes", whole(episodes), broken ? `${plural(broken, "failure")}, never scored` : "none failed"],
    ["First attempts that failed", whole(first), episodes ? percent(first / episodes) : ""], ["Run", run.complete ? "complete" : "not complete", run.ended],
  ];
  return el("dl", { class: "headline" }, facts.map(([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, el("span", { class: "note" }, note)))));
}

// Points with their intervals on one scale: [{name, value, interval, wide, color, note}]
function forest(rows, { low, high, zero, format }) {
  const span = high - low || 1, x = value => `${(Math.min(Math.max(value, low), high) - low) / span * 100}%`;
  const line = (interval, y, width, color) => svg("line", { x1: x(interval[0]), x2: x(interval[1]), y1: y, y2: y, stroke: color, "stroke-width": width, "stroke-linecap": "round" });
  return el("div", { class: "forest" }, rows.map(row => {
    const drawing = svg("svg", { height: 26, role: "img", "aria-label": `${row.name}: ${format(row.value)}, ${row.note}` });
    for (const mark of ticks(low, high, 5)) drawing.append(svg("line", { class: "rule", x1: x(mark), x2: x(mark), y1: 0, y2: 26 }));
    if (known(zero)) drawing.append(svg("line", { x1: x(zero), x2: x(zero), y1: 0, y2: 26, stroke: "var(--muted)" }));
    if (row.wide) drawing.append(line(row.wide, 13, 9, "color-mix(in srgb, var(--bad) 22%, transparent)"));
    if (row.interval) drawing.append(line(row.interval, 13, 3, `var(${row.color})`));
    if (known(row.value)) drawing.append(svg("circle", { cx: x(row.value), cy: 13, r: 5, fill: `var(${row.color})`, stroke: "var(--card)", "stroke-width": 1.5 }));
    return [el("span", {}, row.name), el("span", { class: "plot" }, drawing), el("b", { class: "number" }, format(row.value)), el("span", { class: "small muted number" }, row.note)];
  }), el("span"), axis(low, high, span, format), el("span"), el("span"));
}
function axis(low, high, span, format) {
  const marks = ticks(low, high, 5).map(mark => svg("text", { x: `${(mark - low) / span * 100}%`, y: 12, "text-anchor": "middle" }, format(mark)));
  return el("span", { class: "plot" }, svg("svg", { height: 16 }, marks));
}

function resultSection() {
  const ends = run.models.flatMap(model => [model.main.value, ...(model.main.interval ?? []), ...(model.withFailures ?? [])]).filter(known);
  const scale = rate ? { low: 0, high: 1 } : { low: Math.min(0, ...ends), high: Math.max(0, ...ends) };
  const rows = run.models.map((model, i) => ({
    name: model.name, value: model.main.value, interval: model.main.interval, color: `--c${i % 6}`,
    wide: model.counts.failed ? model.withFailures : null, note: `${shownInterval(model.main.interval)} · n = ${whole(model.main.tasks)} tasks`,
  }));
  const note = `${rate ? `Success rate: share of episodes with a return of at least ${decimal(run.successAt)}` : "Mean return"}, mean over tasks, with the 95 % interval.`;
  return section("Results", `${note}${run.models.some(model => model.counts.failed) ? " The wide bar covers all failed episodes being unsolved or solved." : ""}`,
    forest(rows, { ...scale, format: shownValue }), el("div", { class: "sentences" }, run.models.map(model => el("p", {}, model.sentence))));
}

function comparisonSection() {
  if (!run.comparisons.length) return null;
  const points = value => !known(value) ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${rate ? (100 * Math.abs(value)).toFixed(1) : decimal(Math.abs(value))}`;
  const clipped = interval => interval && rate ? [Math.max(-1, interval[0]), Math.min(1, interval[1])] : interval;
  const far = Math.max(0.01, ...run.comparisons.flatMap(each => [each.value, ...(clipped(each.interval) ?? [])]).filter(known).map(Math.abs));
  const rows = run.comparisons.map(each => {
    const interval = clipped(each.interval);
    return { name: `${each.other} − ${each.base}`, value: each.value, interval, color: each.verdict === "better" ? "--good" : each.verdict === "worse" ? "--bad" : "--c5", note: interval ? `${points(interval[0])} to ${points(interval[1])}` : "no interval" };
  });
  return section("Comparisons", `Differences by task${rate ? ", in points" : ""}, with the 95 % interval: the verdict follows from this interval, never from whether two intervals above overlap.`,
    forest(rows, { low: -far, high: far, zero: 0, format: points }),
    el("div", { class: "sentences" }, run.comparisons.map((each, i) => {
      const flips = [["better", "better on"], ["worse", "worse on"]].map(([side, words]) => each[side].length
        ? el("button", { type: "button", "data-comparison": i, "data-side": side }, `${words} ${plural(each[side].length, "task")}`) : null);
      const tests = Object.entries(each.tests).map(([name, p]) => `${name}: p ${p < 0.001 ? "< 0.001" : `= ${p.toPrecision(2)}`}`).join(", ");
      return el("p", {}, el("b", { class: VERDICTS[each.verdict] }, each.verdict), ` · ${each.sentence} `, el("span", { class: "muted" }, tests), " ", flips);
    })));
}

function outcomeSection() {
  const used = [["mean_turns", "turns"], ["mean_calls", "calls"], ["mean_refused_calls", "refused"], ["mean_tool_errors", "tool errors"], ["mean_input_tokens", "tokens read"], ["mean_cached_tokens", "cached"], ["mean_output_tokens", "written"], ["mean_reasoning_tokens", "reasoning"], ["mean_seconds", "seconds"], ["cost", "cost, $"]]
    .filter(([name]) => run.models.some(model => known(model.usage[name])));
  const columns = ["model", "scored", "unrewarded", "failed", "first attempts failed", ...used.map(([, title]) => title)];
  return section("Outcomes", "Unrewarded episodes are scored as the rules define; failed ones have no return. Usage is the mean per episode.", el("div", { class: "scroll" }, el("table", { class: "kinds" },
    el("thead", {}, el("tr", {}, columns.map(name => el("th", { scope: "col" }, name)))),
    el("tbody", {}, run.models.map(model => el("tr", {}, el("td", {}, model.name), ["scored", "unrewarded", "failed", "first_attempts_failed"].map(name => el("td", { class: name === "failed" && model.tooManyFailed ? "bad" : null }, whole(model.counts[name]))),
      used.map(([name]) => el("td", {}, decimal(model.usage[name])))))))));
}

function passSection() {
  const names = [...new Set(run.models.flatMap(model => Object.keys(model.passes)))];
  const groups = [...new Set(run.models.flatMap(model => Object.keys(model.groups)))];
  const table = (title, note, rows) => section(title, note, el("div", { class: "scroll" }, el("table", { class: "kinds" },
    el("thead", {}, el("tr", {}, el("th", {}, ""), run.models.map(model => el("th", { scope: "col" }, model.name)))),
    el("tbody", {}, rows.map(([name, values]) => el("tr", {}, el("td", {}, name), values.map(value => el("td", {}, value))))))));
  const share = estimate => !estimate || !known(estimate.value) || estimate.notes.length ? "–" : `${percent(estimate.value)} (${percent(estimate.interval[0])} to ${percent(estimate.interval[1])})`;
  return [
    names.length ? table("Several attempts", "pass@k: at least one of k episodes of a task succeeds; pass^k: all of them do.", names.map(name => [name, run.models.map(model => share(model.passes[name]))])) : null,
    groups.length ? table("By group", null, groups.map(name => [name, run.models.map(model => Object.hasOwn(model.groups, name) ? shownValue(model.groups[name]) : "–")])) : null,
  ];
}

// A row for each task, with a square for each episode of each model.
const ROW = 30;
function squareStyle(row) {
  if (failed(row)) return { background: "repeating-linear-gradient(45deg, var(--bad) 0 2px, transparent 2px 5px)" };
  const share = rate ? (solved(row) ? 1 : row[VALUE] > 0 ? 0.3 : 0) : highest > lowest ? (row[VALUE] - lowest) / (highest - lowest) : 0.5;
  return { background: `color-mix(in srgb, var(${rate ? "--good" : "--c0"}) ${Math.round(share * 100)}%, var(--faint))` };
}
const squareTitle = row => `${run.models[row[MODEL]].name}, epoch ${row[EPOCH] + 1}: ${failed(row) ? "failed" : `return ${decimal(row[VALUE])}${row[UNREWARDED] ? ", no reward given" : ""}`}, ${plural(row[TURNS], "turn")}${row[FAILURES] && !failed(row) ? `, after ${plural(row[FAILURES], "failed attempt")}` : ""}`;

function matrixSection() {
  const choice = (label, entries) => el("select", { "aria-label": label }, entries.map(([value, name]) => el("option", { value }, name)));
  const search = el("input", { type: "search", placeholder: "Search tasks", "aria-label": "Search tasks" });
  const sides = run.comparisons.flatMap((each, i) => [[`${i}:better`, `${each.other} better than ${each.base}`], [`${i}:worse`, `${each.other} worse than ${each.base}`]]);
  const show = choice("Show", [["", "all tasks"], ...(run.models.length > 1 ? [["differ", "models differ"]] : []), ...sides, ["none", "solved by no model"], ["all", "solved every time"], ["some", "solved sometimes"], ["failed", "with failed episodes"], ["unrewarded", "with unrewarded episodes"]].filter(([value]) => rate || !["none", "all", "some"].includes(value)));
  const ends = choice("End", [["", "all ends"], ...run.stops.map((stop, i) => [String(i), STOP_REASONS.find(([reason]) => reason === stop)?.[1] ?? stop])]);
  const order = choice("Order", [["", "in order"], ["hard", "hardest first"], ["easy", "easiest first"], ["apart", "largest difference first"]]);
  const count = el("p", { class: "small muted", role: "status" });
  const inner = el("div", { class: "inner" }), list = el("div", { class: "list matrix", tabindex: 0, role: "grid", "aria-label": "Tasks and episodes", "aria-rowcount": run.tasks.length }, inner);
  const detail = el("div", { class: "episode", tabindex: 0, "aria-label": "Episode" });
  const names = el("div", { class: "matrixhead small muted" }, el("span", {}, "task"), run.models.map(model => el("span", { title: model.name }, model.name)));
  for (const part of [list, names]) part.style.setProperty("--models", run.models.length);
  const flips = run.comparisons.map(each => ({ better: new Set(each.better), worse: new Set(each.worse) }));
  const TESTS = {
    differ: i => new Set(means[i].filter(known)).size > 1, none: i => cells[i].flat().every(row => !solved(row)), all: i => cells[i].flat().every(solved),
    some: i => new Set(cells[i].flat().filter(row => !failed(row)).map(solved)).size > 1, failed: i => cells[i].flat().some(failed), unrewarded: i => cells[i].flat().some(row => row[UNREWARDED]),
  };
  const overall = i => { const scored = means[i].filter(known); return scored.length ? sum(scored) / scored.length : Infinity; };
  const apart = i => { const scored = means[i].filter(known); return scored.length ? Math.max(...scored) - Math.min(...scored) : 0; };
  let visible = [], selected = null;

  function draw() {
    inner.style.height = `${visible.length * ROW}px`;
    const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 5), to = Math.min(visible.length, from + Math.ceil(list.clientHeight / ROW) + 12);
    inner.replaceChildren(...visible.slice(from, to).map((i, k) => el("div", { class: "row", role: "row", "aria-selected": selected && selected[TASK] === i ? "true" : null, style: { top: `${(from + k) * ROW}px` } },
      el("span", { class: "mono" }, run.tasks[i]),
      cells[i].map((cell, model) => el("span", { class: "cell" }, cell.map(row => {
        const square = el("i", { title: squareTitle(row), class: row === selected ? "chosen" : null, style: squareStyle(row) });
        square.row = row;
        return square;
      }), el("span", { class: "small muted number" }, cell.length > 1 ? shownValue(means[i][model]) : ""))))));
  }
  // While the flips of a comparison are shown, the other model's episode is shown below the chosen one.
  function counterpart(row) {
    const [at, side] = show.value.split(":"), names = side && [run.comparisons[at].base, run.comparisons[at].other];
    const models = names ? names.map(name => run.models.findIndex(model => model.name === name)) : [];
    const other = models.find(model => model !== row[MODEL]);
    if (!models.includes(row[MODEL]) || other === undefined) return null;
    const cell = cells[row[TASK]][other];
    return cell.find(each => each[EPOCH] === row[EPOCH]) ?? cell[0];
  }
  let asked = 0;
  async function select(row, reveal) {
    selected = row;
    if (row && reveal) {
      const at = visible.indexOf(row[TASK]) * ROW;
      if (at < list.scrollTop || at + ROW > list.scrollTop + list.clientHeight) list.scrollTop = at - list.clientHeight / 2;
    }
    draw();
    const mine = ++asked;
    if (!row) return detail.replaceChildren(el("p", { class: "muted" }, "No task matches."));
    if (row[BLOCK] < 0) return detail.replaceChildren(el("p", {}, squareTitle(row)), el("p", { class: "muted" }, "This page does not contain the episode; see the run's file."));
    const shown = [row, counterpart(row)].filter(other => other && other[BLOCK] >= 0);
    const samples = await Promise.all(shown.map(other => unpack(other[BLOCK])));
    if (mine !== asked) return;
    samples.forEach((sample, i) => { sample.return = shown[i][VALUE]; });
    detail.replaceChildren(...samples.flatMap((sample, i) => [i ? el("hr") : null, ...episodeNode(sample)]).filter(Boolean));
    detail.scrollTop = 0;
  }
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [at, side] = show.value.split(":");
    const test = side ? i => flips[at][side].has(run.tasks[i]) : TESTS[show.value] ?? (() => true);
    const ended = i => !ends.value || cells[i].flat().some(row => row[STOP] === Number(ends.value));
    visible = run.tasks.map((_, i) => i).filter(i => words.every(word => run.tasks[i].toLowerCase().includes(word)) && ended(i) && test(i));
    const key = { hard: overall, easy: i => overall(i) === Infinity ? Infinity : -overall(i), apart: i => -apart(i) }[order.value];
    if (key) visible.sort((a, b) => key(a) - key(b) || a - b);
    count.textContent = visible.length === run.tasks.length ? `${plural(run.tasks.length, "task")}, a square for each episode` : `${whole(visible.length)} of ${plural(run.tasks.length, "task")}`;
    list.scrollTop = 0;
    const of = side && run.models.findIndex(model => model.name === run.comparisons[at].other);
    const first = visible.map(i => (side ? cells[i][of] : cells[i].flat())[0]).find(Boolean);
    select(selected && visible.includes(selected[TASK]) && !side ? selected : first ?? null);
  }
  list.addEventListener("scroll", draw);
  list.addEventListener("click", event => event.target.row && select(event.target.row));
  list.addEventListener("keydown", event => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-10, 0], PageDown: [10, 0], Home: [-Infinity, 0], End: [Infinity, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!(down || right) || !selected || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const at = Math.max(0, Math.min(visible.length - 1, visible.indexOf(selected[TASK]) + down)), row = cells[visible[at]].flat();
    const column = cells[selected[TASK]].flat().indexOf(selected) + right;
    select(row[Math.max(0, Math.min(row.length - 1, column))], true);
  });
  for (const control of [search, show, ends, order]) control.addEventListener("input", filter);
  document.addEventListener("click", event => {
    const { comparison, side } = event.target.dataset ?? {};
    if (!side) return;
    show.value = `${comparison}:${side}`;
    filter();
    document.getElementById("episodes").scrollIntoView({ behavior: "smooth" });
  });
  new ResizeObserver(draw).observe(list);
  filter();
  return el("section", { id: "episodes" }, el("div", { class: "toolbar" }, el("h2", {}, "Tasks and episodes"), count, el("div", { class: "filters" }, search, show, ends, order)),
    el("div", { class: "browser wide" }, el("div", {}, names, list), detail));
}
async function unpack(number) {
  const bytes = Uint8Array.from(atob(document.getElementById(`block-${number}`).textContent), character => character.charCodeAt(0));
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text());
}

document.getElementById("page").replaceChildren(...[
  el("header", {}, el("h1", {}, run.title), !run.complete && el("p", { class: "bad" }, `The run is not complete (${run.ended}): there is no verdict.`)),
  headline(), resultSection(), comparisonSection(), matrixSection(), outcomeSection(), ...passSection(), settingsSection(), provenanceSection(),
  el("footer", {}, "Written by ors-gym. This page is self-contained and loads nothing."),
].filter(Boolean));
