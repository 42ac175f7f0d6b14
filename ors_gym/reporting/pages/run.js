const steps = run.steps;
const WINDOW = steps.length >= 30 ? Math.max(10, Math.round(steps.length / 100)) : steps.length >= 10 ? 5 : 1;
const running = valueOf => steps.map((_, i) => valueOf(steps.slice(Math.max(0, i + 1 - WINDOW), i + 1)));

// Charts
// A tick label; small values as powers of ten.
const written = mark => (mark !== 0 && Math.abs(mark) < 0.001 ? Number(mark.toPrecision(3)).toExponential() : String(Number(mark.toPrecision(6)))).replaceAll("-", "−");
// A chart over steps, or over rows with a `step`. lines: [{name, color, values, raw, ends, at}], where `ends` are
// interval ends and `at` the steps of a line that has its own; stacks likewise, but filled and summing to 1;
// marks: [{name, value, at, color}] (a level across the chart, or a point at step `at`).
function chart({ label, unit, rows = steps, lines = [], stacks = [], marks = [], height = 190, format = decimal, low = 0, tip }) {
  const figure = el("figure");
  const named = [...lines, ...stacks].filter(line => line.name);
  if (named.length) figure.append(el("figcaption", {}, named.map(line => el("span", {}, swatch(line.color, stacks.length), line.name))));
  const drawing = svg("svg", { tabindex: 0, role: "img", "aria-label": `${label}. Arrow keys read the values.`, height });
  const bubble = el("div", { class: "tip", hidden: true, role: "status" });
  figure.append(drawing, bubble);

  const all = [...lines.flatMap(line => [...line.values, ...(line.ends ?? []).flat()]), ...marks.map(mark => mark.value)].filter(known);
  let bottom = stacks.length ? 0 : all.reduce((a, b) => Math.min(a, b), low), top = stacks.length ? 1 : all.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!(top > bottom)) top = bottom + 1;
  if (!stacks.length) {
    const marksY = ticks(bottom, top, 4), size = marksY[1] - marksY[0];
    bottom = Math.floor(bottom / size + 1e-9) * size;
    top = Math.ceil(top / size - 1e-9) * size;
  }
  const own = lines.filter(line => line.at?.length);
  const first = Math.min(rows[0].step, ...own.map(line => line.at[0]), ...marks.filter(mark => known(mark.at)).map(mark => mark.at)), last = Math.max(rows.at(-1).step, ...own.map(line => line.at.at(-1)));
  let width = 0, index = null;

  const left = 46, right = 8, above = unit ? 24 : 8, below = 38;
  const x = step => left + (last === first ? 0.5 : (step - first) / (last - first)) * (width - left - right);
  const y = value => above + (top - value) / (top - bottom) * (height - above - below);
  function path(values, at = rows.map(row => row.step)) {
    let drawn = "", pen = false;
    values.forEach((value, i) => {
      if (!known(value)) { pen = false; return; }
      drawn += `${pen ? "L" : "M"}${x(at[i]).toFixed(1)},${y(value).toFixed(1)}`;
      if (!pen && !known(values[i + 1])) drawn += "h0.01";
      pen = true;
    });
    return drawn;
  }
  // A point's label is drawn above it, and above a level that would cross it.
  const labelAt = value => Math.min(y(value), ...marks.filter(mark => !known(mark.at)).map(mark => y(mark.value)).filter(level => Math.abs(y(value) - level) < 28)) - 9;
  function stackRects() {
    const bins = Math.min(rows.length, Math.max(10, Math.floor((width - left - right) / 5))), rects = [];
    for (let bin = 0; bin < bins; bin++) {
      const from = Math.round(bin * rows.length / bins), to = Math.round((bin + 1) * rows.length / bins);
      const step = (width - left - right) / bins;
      let base = 0;
      for (const stack of stacks) {
        const share = sum(stack.values.slice(from, to)) / (to - from);
        if (share > 0) rects.push(svg("rect", { x: left + bin * step, y: y(base + share), width: Math.max(1, step > 9 ? step - 1 : step + 0.3), height: Math.max(0, y(base) - y(base + share)), fill: `var(${stack.color})` }));
        base += share;
      }
    }
    return rects;
  }
  function draw() {
    width = figure.clientWidth;
    if (!width) return;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.replaceChildren();
    for (const mark of ticks(bottom, top, stacks.length ? 2 : 4)) drawing.append(
      svg("line", { class: "rule", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }),
      svg("text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, format === percent ? percent(mark) : written(mark)));
    const along = ticks(first, last === first ? first + 1 : last, Math.max(2, Math.min(8, width / 90))).filter(mark => Number.isInteger(mark) && mark <= last);
    if (!along.length || x(along[0]) - x(first) > 36) along.unshift(first);
    for (const mark of along) drawing.append(svg("text", { x: x(mark), y: height - 20, "text-anchor": x(mark) > width - right - 16 && mark > 999 ? "end" : "middle" }, whole(mark)));
    drawing.append(svg("text", { class: "axis", x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, "step"));
    if (unit) drawing.append(svg("text", { class: "axis", x: 0, y: 12 }, unit));
    drawing.append(...stackRects());
    for (const mark of marks) if (!known(mark.at)) drawing.append(
      svg("line", { x1: left, x2: width - right, y1: y(mark.value), y2: y(mark.value), stroke: `var(${mark.color})`, "stroke-width": 1.5, "stroke-dasharray": "5 4" }));
    for (const line of lines) {
      (line.ends ?? []).forEach(([low, high], i) => known(low) && drawing.append(
        svg("line", { x1: x(rows[i].step), x2: x(rows[i].step), y1: y(low), y2: y(high), stroke: `var(${line.color})`, "stroke-width": 2, opacity: 0.45 })));
      if (line.raw) drawing.append(svg("path", { class: "raw", d: path(line.raw), stroke: `var(${line.color})` }));
      drawing.append(svg("path", { class: "line", d: path(line.values, line.at), "stroke-dasharray": line.at ? "6 4" : null, stroke: `var(${line.color})` }));
    }
    for (const mark of marks) {
      const text = `${mark.name} ${format(mark.value)}`;
      if (known(mark.at)) drawing.append(
        svg("circle", { cx: x(mark.at), cy: y(mark.value), r: 4.5, fill: "var(--card)", stroke: `var(${mark.color})`, "stroke-width": 2 }),
        svg("text", { class: "halo", x: x(mark.at) + 10, y: labelAt(mark.value), style: { fill: `var(${mark.color})` } }, text));
      else drawing.append(svg("text", { class: "halo", x: width - right, y: y(mark.value) + (y(mark.value) < 24 ? 16 : -6), "text-anchor": "end", style: { fill: `var(${mark.color})` } }, text));
    }
    point();
  }
  function point() {
    drawing.querySelector(".cursor")?.remove();
    bubble.hidden = index === null;
    if (index === null) return;
    const at = x(rows[index].step);
    drawing.append(svg("g", { class: "cursor" },
      svg("line", { x1: at, x2: at, y1: above, y2: height - below, stroke: "var(--muted)", "stroke-width": 1 }),
      lines.filter(line => !line.at && known(line.values[index])).map(line => svg("circle", { cx: at, cy: y(line.values[index]), r: 4, fill: `var(${line.color})`, stroke: "var(--card)", "stroke-width": 1.5 }))));
    const values = tip ? tip(rows[index], index) : named.filter(line => !line.at && (line.values[index] || lines.length)).map(line => [line.name, format(line.values[index])]);
    bubble.replaceChildren(el("b", {}, `Step ${whole(rows[index].step)}`), ...values.map(([name, value]) => el("div", {}, el("span", { class: "muted" }, name), el("span", {}, value))));
    const side = at > width / 2 ? at - bubble.offsetWidth - 12 : at + 12;
    bubble.style.left = `${Math.max(0, Math.min(width - bubble.offsetWidth, side))}px`;
  }
  const show = chosen => { index = chosen; point(); };
  drawing.addEventListener("pointermove", event => {
    const at = event.clientX - drawing.getBoundingClientRect().left;
    let nearest = 0;
    rows.forEach((row, i) => { if (Math.abs(x(row.step) - at) < Math.abs(x(rows[nearest].step) - at)) nearest = i; });
    show(nearest);
  });
  drawing.addEventListener("pointerleave", () => show(null));
  drawing.addEventListener("blur", () => show(null));
  drawing.addEventListener("keydown", event => {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -rows.length, End: rows.length }[event.key];
    if (event.key === "Escape") show(null);
    if (!move) return;
    event.preventDefault();
    show(Math.max(0, Math.min(rows.length - 1, (index ?? (move > 0 ? -1 : rows.length)) + move)));
  });
  new ResizeObserver(draw).observe(figure);
  return figure;
}

// A batch that is used for several steps is one row.
const [STEP, STEPS] = steps.at(-1)?.step > steps.length ? ["batch", "batches"] : ["step", "steps"];
const smoothed = WINDOW > 1 ? `Running mean of ${WINDOW} ${STEPS}.` : "";

function headline() {
  const recent = steps.slice(-WINDOW), seconds = steps.at(-1)?.seconds, episodes = sum(steps.map(step => step.episodes));
  const now = mean(recent, "reward");
  const facts = [];
  if (steps.length) {
    const from = run.baseline && [el("span", { class: "from" }, `${decimal(run.baseline.reward)} → `)];
    const note = [run.baseline ? "random policy → " : "", WINDOW > 1 ? `last ${WINDOW} ${STEPS}` : steps.length > 1 ? `last ${STEP}` : known(steps[0].scored) ? `mean of ${plural(steps[0].scored, "scored episode")}${steps[0].unrewarded ? `, ${whole(steps[0].unrewarded)} without a reward` : ""}` : "mean of the episodes"].join("");
    facts.push(["Reward", [from, decimal(now)], note]);
    if (steps.length > 1 || run.totalSteps) {
      const all = run.totalSteps && run.totalSteps !== steps.length ? ` of ${whole(run.totalSteps)}` : "";
      facts.push([STEPS[0].toUpperCase() + STEPS.slice(1), [whole(steps.length), el("span", { class: "from" }, all)], run.ended || "so far"]);
    }
    const broken = sum(steps.flatMap(step => Object.values(step.failures)));
    facts.push(["Episodes", whole(episodes), broken ? `${plural(broken, "failure")}, never scored` : "none failed"]);
    if (steps.length === 1 && known(steps[0].turns)) facts.push(["Turns", decimal(steps[0].turns), "mean of the episodes"]);
    facts.push(["Wall time", duration(seconds), steps.length > 1 ? `${duration(seconds / steps.length)} a ${STEP}` : run.ended]);
    if (seconds > 0) facts.push(["Speed", decimal(episodes / seconds), "episodes/s"]);
  } else facts.push(["Steps", "0", run.ended || "none yet"]);
  return el("dl", { class: "headline" }, facts.map(([name, value, note], i) =>
    el("div", { class: i === 0 ? "first" : null }, el("dt", {}, name), el("dd", {}, value, note && el("span", { class: "note" }, note)))));
}

// Other runs for comparison: the same running mean, over their own steps.
const otherRuns = () => run.beside.filter(other => other.steps.length).map((other, i) => ({
  name: other.name, color: ["--c3", "--c4", "--c2"][i % 3], at: other.steps.map(row => row[0]),
  values: other.steps.map((_, n) => mean(other.steps.slice(Math.max(0, n + 1 - WINDOW), n + 1).map(([, reward, episodes]) => ({ reward, episodes })), "reward")),
}));

function rewardSection() {
  const marks = [];
  if (run.baseline) marks.push({ name: "random policy", value: run.baseline.reward, color: "--baseline" });
  if (run.afterWarmup) marks.push({ name: "after warm-up", value: run.afterWarmup.reward, at: Math.min(0, steps[0].step), color: "--c3" });
  const raw = steps.map(step => step.reward), average = running(rows => mean(rows, "reward"));
  const notes = [
    run.baseline && `The random policy's reward is the mean of ${plural(run.baseline.episodes, "episode")}.`,
    run.warmup && `Warm-up: ${run.warmup}`,
    run.afterWarmup && `The reward after it is the mean of ${plural(run.afterWarmup.episodes, "episode")}.`,
  ].filter(Boolean);
  const figure = chart({
    label: `Mean reward of each ${STEP}`, unit: "mean reward of an episode", height: 320, marks,
    lines: [...otherRuns(), { name: WINDOW > 1 ? `mean of ${WINDOW} ${STEPS}` : `mean of the ${STEP}`, color: "--c0", values: average, raw: WINDOW > 1 ? raw : null }],
    tip: (step, i) => [
      ["reward", decimal(step.reward)], WINDOW > 1 && [`mean of ${WINDOW} ${STEPS}`, decimal(average[i])],
      known(step.reward_std) && ["std", decimal(step.reward_std)], ["episodes", whole(step.episodes)], ["time", duration(step.seconds)],
    ].filter(Boolean),
  });
  if (WINDOW > 1) figure.querySelector("figcaption").append(el("span", {}, el("span", { class: "swatch", style: { background: "var(--c0)", opacity: 0.38 } }), `each ${STEP}`));
  return section("Reward", notes.join(" "), figure);
}

function lengthSections() {
  if (steps.length === 1) return [];
  return [["turns", "Turns per episode"], ["tokens", "Tokens per episode"]].filter(([field]) => steps.some(step => known(step[field]))).map(([field, title]) => {
    const average = running(rows => mean(rows, field));
    return section(title, `Mean over episodes${WINDOW > 1 ? `, running over ${WINDOW} ${STEPS}` : ""}.`, chart({
      label: title, unit: field, lines: [{ color: "--c0", values: average, raw: WINDOW > 1 ? steps.map(step => step[field]) : null }],
      tip: (step, i) => [[`this ${STEP}`, decimal(step[field])], WINDOW > 1 && [`mean of ${WINDOW} ${STEPS}`, decimal(average[i])]].filter(Boolean),
    }));
  });
}

// The trainer's own numbers, and evaluations with their intervals.
function curveSections() {
  return Object.entries(run.curves).filter(([, points]) => points.length).map(([name, points]) => {
    const values = points.map(point => point[1]), ends = points.map(point => [point[2], point[3]]);
    const withEnds = ends.some(([low]) => known(low));
    return section(name[0].toUpperCase() + name.slice(1), withEnds ? "With the 95 % interval over tasks." : null, chart({
      label: name, unit: name, rows: points.map(point => ({ step: point[0] })), low: withEnds ? 0 : Infinity, format: exact,
      lines: [{ color: withEnds ? "--c2" : "--c0", values, ends: withEnds ? ends : null }],
      tip: (row, i) => [[name, exact(values[i])], known(ends[i][0]) && ["95 % interval", `${exact(ends[i][0])} to ${exact(ends[i][1])}`]].filter(Boolean),
    }));
  });
}
// Learning rates and divergences are small.
const exact = value => known(value) ? (value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1).replace("-", "−") : decimal(value)) : "–";

// For a run without steps, such as a rollout: the distribution of the returns.
function returnSection() {
  if (steps.length > 1 || !run.returns.length) return null;
  const count = sum(run.returns.map(row => row[2]));
  return section("Returns", `${plural(count, "scored episode")}. Bars count episodes.`,
    bars(run.returns.map(([low, high, number]) => [low === high ? decimal(low) : `${decimal(low)} to ${decimal(high)}`, number])));
}

function endSection() {
  const totals = new Map(counts(steps, "stop_reasons"));
  if (!totals.size) return null;
  const seen = [...STOP_REASONS.filter(([reason]) => totals.has(reason)), ...[...totals.keys()].filter(reason => !STOP_REASONS.some(row => row[0] === reason)).map(reason => [reason, reason, "--c5"])];
  const share = (step, reason) => countOf(step.stop_reasons, reason) / Math.max(1, sum(Object.values(step.stop_reasons)));
  if (steps.length === 1) return section("How episodes ended", null, bars(seen.map(([reason, name, color]) => [name, totals.get(reason), color])));
  return section("How episodes ended", `Share of each ${STEP}'s episodes.`, chart({
    label: "How episodes ended", unit: "share of episodes", format: percent,
    stacks: seen.map(([reason, name, color]) => ({ name, color, values: steps.map(step => share(step, reason)) })),
  }));
}

function toolSection() {
  const totals = counts(steps, "tool_calls");
  if (!totals.length) return section("Tool calls", "No tool was called.");
  const colors = ["--c0", "--c1", "--c2", "--c3", "--c4"];
  // A learning model invents tool names: rare ones are shown together.
  const all = sum(totals.map(([, count]) => count)), frequent = totals.filter(([, count], i) => i < 5 && count >= all * 0.01);
  const rare = totals.slice(frequent.length).map(([name]) => name);
  const shown = frequent.map(([name], i) => ({ name: name.length > 40 ? `${name.slice(0, 39)}…` : name, color: colors[i], of: step => countOf(step.tool_calls, name) }));
  if (rare.length) shown.push({ name: plural(rare.length, "rarer name"), color: "--c5", of: step => sum(rare.map(name => countOf(step.tool_calls, name))) });
  if (steps.length === 1) return section("Tool calls", null, bars(shown.map(({ name, color, of }) => [name, of(steps[0]), color])));
  return section("Tool calls per episode", smoothed, chart({
    label: "Tool calls per episode", unit: "calls",
    lines: shown.map(({ name, color, of }) => ({ name, color, values: running(rows => sum(rows.map(of)) / Math.max(1, sum(rows.map(row => row.episodes)))) })),
  }));
}

function timeSection() {
  const total = field => steps.some(step => known(step[field])) ? sum(steps.map(step => step[field])) : null;
  const rollout = total("rollout_seconds"), generation = total("generation_seconds"), environment = total("environment_seconds"), training = total("training_seconds");
  const parts = [["model, sampling", generation, "--c0"], ["environment", environment, "--c2"]];
  if (known(rollout)) parts.push([known(generation) || known(environment) ? "rest of the rollout" : "rollout", Math.max(0, rollout - (generation ?? 0) - (environment ?? 0)), "--c3"]);
  parts.push(["training", training, "--c1"]);
  const measured = parts.filter(part => known(part[1]));
  if (!measured.length) return null;
  const elsewhere = (steps.at(-1).seconds ?? 0) - sum(measured.map(part => part[1]));
  if (elsewhere > 0) measured.push(["everything else", elsewhere, "--c5"]);
  const all = sum(measured.map(part => part[1]));
  return section("Where the time went", null, bars(measured.filter(part => part[1] / all >= 0.0005), seconds => `${duration(seconds)} · ${percent(seconds / all)}`));
}

function failureSection() {
  const totals = counts(steps, "failures"), dropped = sum(steps.map(step => step.dropped_groups)), episodes = sum(steps.map(step => step.episodes));
  const groups = dropped ? `${plural(dropped, "group")} had too few valid members and ${dropped === 1 ? "was" : "were"} dropped.` : "No group was dropped.";
  if (!totals.length) return section("Failures", `None in ${plural(episodes, "episode")}: no attempt failed. ${dropped ? groups : ""}`);
  return section("Failures", `Infrastructure failures, not caused by the policy: never scored, and retried in a fresh session within the budget. ${groups}`,
    el("table", { class: "kinds" }, el("thead", {}, el("tr", {}, ["kind", "attempts", steps.length > 1 && "steps"].filter(Boolean).map(name => el("th", { scope: "col" }, name)))),
      el("tbody", {}, totals.map(([name, count]) => {
        const at = steps.filter(step => countOf(step.failures, name)).map(step => step.step), [first, last] = [at[0], at.at(-1)];
        return el("tr", {}, el("td", {}, el("code", {}, name)), el("td", {}, whole(count)), steps.length > 1 && el("td", {}, first === last ? whole(first) : `${whole(first)}–${whole(last)}`));
      }))));
}

function tableSection() {
  const columns = [["step", whole], ["seconds", decimal], ["episodes", whole], ["reward", decimal], ["reward_std", decimal], ["turns", decimal], ["tokens", decimal],
    ["dropped_groups", whole], ["rollout_seconds", decimal], ["generation_seconds", decimal], ["environment_seconds", decimal], ["training_seconds", decimal]]
    .filter(([field]) => steps.some(step => known(step[field])));
  const details = el("details", {}, el("summary", {}, "All steps as a table"));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const head = el("tr", {}, columns.map(([field]) => el("th", { scope: "col" }, field.replaceAll("_", " "))));
    details.append(el("div", { class: "scroll", tabindex: 0 }, el("table", { id: "steps" }, el("thead", {}, head),
      el("tbody", {}, steps.map(step => el("tr", {}, columns.map(([field, format]) => el("td", {}, format(step[field])))))))));
  });
  return el("section", {}, details);
}

function episodeSection() {
  if (!run.samples.length) return section("Episodes", "No trajectory was kept.");
  const choice = (label, entries) => el("select", { "aria-label": label }, entries.map(([value, name]) => el("option", { value }, name)));
  const distinct = of => [...new Set(run.samples.map(of))];
  const search = el("input", { type: "search", placeholder: "Search prompts, calls, results", "aria-label": "Search" });
  const byStep = choice("Step", [["", run.samples.some(sample => sample.label) ? "all" : "all steps"], ...distinct(labelOf).map(name => [name, name])]);
  const byReason = choice("End", [["", "all ends"], ...distinct(reasonOf).map(name => [name, name])]);
  const byReturn = choice("Return", [["", "all returns"], ["positive", "positive"], ["zero", "zero"], ["negative", "negative"], ["none", "no return"]]);
  const order = choice("Order", [["", "latest first"], ["time", "earliest first"], ["best", "best first"], ["worst", "worst first"], ["long", "longest first"]]);
  const count = el("p", { class: "small muted", role: "status" });
  const list = el("ul", { class: "list", role: "listbox", tabindex: 0, "aria-label": "Episodes" });
  const detail = el("div", { class: "episode", tabindex: 0, "aria-label": "Episode" });
  const haystacks = run.samples.map(sample => textsOf({ ...sample, stopReason: reasonOf(sample), label: labelOf(sample) }).toLowerCase());
  const rows = run.samples.map((sample, i) => el("li", { role: "option", id: `episode-${i}` },
    el("span", {}, labelOf(sample)), el("span", { class: `reward number ${rewardClass(sample.return)}` }, known(sample.return) ? decimal(sample.return) : "no return"),
    el("span", { class: "small muted" }, sample.task.text), el("span", { class: "small muted" }, sample.failure ? "failed" : reasonOf(sample))));
  let visible = [], selected = null;

  function select(i, reveal) {
    if (selected !== null) rows[selected].removeAttribute("aria-selected");
    selected = i;
    if (i === undefined || i === null) { selected = null; detail.replaceChildren(el("p", { class: "muted" }, "No episode matches.")); list.removeAttribute("aria-activedescendant"); return; }
    rows[i].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", rows[i].id);
    detail.replaceChildren(...episodeNode(run.samples[i]));
    detail.scrollTop = 0;
    if (reveal) list.scrollTop = Math.min(rows[i].offsetTop - list.offsetTop, Math.max(list.scrollTop, rows[i].offsetTop - list.offsetTop + rows[i].offsetHeight - list.clientHeight));
  }
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const sign = value => !known(value) ? "none" : value > 0 ? "positive" : value < 0 ? "negative" : "zero";
    visible = run.samples.map((_, i) => i).filter(i => (!byStep.value || labelOf(run.samples[i]) === byStep.value) && (!byReason.value || reasonOf(run.samples[i]) === byReason.value)
      && (!byReturn.value || sign(run.samples[i].return) === byReturn.value) && words.every(word => haystacks[i].includes(word)));
    const size = { best: i => -(run.samples[i].return ?? -Infinity), worst: i => run.samples[i].return ?? Infinity, long: i => -run.samples[i].turns }[order.value];
    if (!order.value) visible.reverse();
    if (size) visible.sort((a, b) => size(a) - size(b) || a - b);
    list.replaceChildren(...visible.map(i => rows[i]));
    const kept = run.numSamples > run.samples.length ? ` shown, spread evenly over the ${whole(run.numSamples)} recorded` : "";
    count.textContent = visible.length === run.samples.length ? `${plural(run.samples.length, "trajectory").replace("trajectorys", "trajectories")}${kept}` : `${whole(visible.length)} of ${whole(run.samples.length)}${kept}`;
    if (!visible.includes(selected)) select(visible[0], true);
  }
  rows.forEach((row, i) => row.addEventListener("click", () => select(i)));
  list.addEventListener("keydown", event => {
    const move = { ArrowUp: -1, k: -1, ArrowDown: 1, j: 1, PageUp: -8, PageDown: 8, Home: -Infinity, End: Infinity }[event.key];
    if (!move || !visible.length || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    select(visible[Math.max(0, Math.min(visible.length - 1, visible.indexOf(selected) + move))], true);
  });
  for (const control of [search, byStep, byReason, byReturn, order]) control.addEventListener("input", filter);
  filter();
  return el("section", { id: "episodes" }, el("div", { class: "toolbar" }, el("h2", {}, "Episodes"), count, el("div", { class: "filters" }, search, byStep, byReason, byReturn, order)), el("div", { class: "browser" }, list, detail));
}

document.getElementById("page").replaceChildren(...[
  el("header", {}, el("h1", {}, run.title), run.description && el("p", { class: "muted" }, run.description)),
  headline(),
  steps.length > 1 && rewardSection(),
  steps.length && el("div", { class: "grid" }, ...[returnSection(), ...curveSections(), ...lengthSections(), toolSection(), endSection(), timeSection(), failureSection()].filter(Boolean)),
  episodeSection(), settingsSection(), provenanceSection(), steps.length > 1 && tableSection(),
  el("footer", {}, "Written by ors-gym. This page is self-contained and loads nothing."),
].filter(Boolean));
