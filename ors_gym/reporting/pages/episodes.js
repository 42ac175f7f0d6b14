// Episodes
const labelOf = sample => sample.label || (known(sample.step) ? `Step ${whole(sample.step)}` : "Episode");
const reasonOf = sample => sample.failure ? `failed: ${sample.failure.kind}` : STOP_REASONS.find(([reason]) => reason === sample.stopReason)?.[1] ?? sample.stopReason;
const textsOf = value => typeof value === "string" ? value : value && typeof value === "object" ? (value.image ? "" : Object.values(value).map(textsOf).join("\n")) : "";
const rewardClass = value => !known(value) ? "muted" : value > 0 ? "good" : value < 0 ? "bad" : "";

function partNodes(parts) {
  return parts.map(part => part.image ? el("img", { src: part.image, alt: "image from the environment" })
    : part.left_out ? el("p", { class: "small muted" }, `Image left out: ${part.left_out}`)
    : [el("pre", { class: part.reasoning ? "reasoning" : null }, part.text), part.cut && el("p", { class: "small muted" }, `… ${plural(part.cut, "more character")}, left out of this page`)]);
}
function callNodes(event) {
  const short = event.arguments.every(([, value]) => !value.cut && !value.text.includes("\n")) && sum(event.arguments.map(([name, value]) => name.length + value.text.length)) < 90;
  const inline = short ? event.arguments.flatMap(([name, value], i) => [i ? ", " : "", el("span", { class: "muted" }, `${name}: `), value.text]) : [];
  const given = event.kind === "call" && el("span", { class: `given ${rewardClass(event.reward)}` }, known(event.reward) ? `reward ${decimal(event.reward)}` : el("span", { class: "muted", style: { "font-weight": 400 } }, "no reward given"));
  return [
    el("div", { class: "call" }, el("code", {}, el("span", { class: "name" }, event.name), short ? ["(", inline, ")"] : ""), given),
    !short && event.arguments.map(([name, value]) => el("div", { class: "argument" }, el("span", { class: "mono" }, name), partNodes([value]))),
  ];
}
function eventNode(event, previousTurn) {
  const turn = event.turn >= 0 && event.turn !== previousTurn ? `turn ${event.turn + 1}` : "";
  if (event.kind === "message") {
    const who = event.role === "assistant" ? (event.turn >= 0 ? turn || "model" : "assistant") : event.turn < 0 ? (event.role === "system" ? "system" : "prompt") : "reply";
    return el("div", { class: "event" }, el("div", { class: "who" }, who), el("div", {}, partNodes(event.parts)));
  }
  const result = event.kind === "unanswered" ? el("div", { class: "result" }, el("p", { class: "small muted" }, "No result: the episode ended here."))
    : el("div", { class: event.ok ? "result" : "result refused" },
      !event.ok && el("p", { class: "small bad" }, `refused${event.reason ? `: ${event.reason.replaceAll("_", " ")}` : ""}`),
      event.parts.length ? partNodes(event.parts) : el("p", { class: "small muted" }, "empty result"));
  return el("div", { class: "event" }, el("div", { class: "who" }, turn), el("div", {}, callNodes(event), result));
}
function episodeNode(sample) {
  const facts = [
    [known(sample.return) ? el("b", { class: rewardClass(sample.return) }, `return ${decimal(sample.return)}`) : el("b", {}, "no return")],
    known(sample.advantage) && [`advantage ${decimal(sample.advantage)}`], [plural(sample.turns, "turn")], [duration(sample.seconds)],
    sample.attempt > 0 && [`attempt ${sample.attempt + 1}`], sample.group && [`group ${sample.group}`], [el("span", { class: "mono" }, sample.id)],
  ].filter(Boolean);
  let turn = -1;
  const events = sample.events.map(event => { const node = eventNode(event, turn); turn = Math.max(turn, event.turn); return node; });
  const reasons = {
    finished: "The environment ended the episode.", policy_stopped: "The policy ended the episode with a plain message.", max_turns: "Truncated: the turn limit was reached.",
    environment_limit: "Truncated: the environment's own limit was reached.",
    max_tokens: "Truncated: the token limit was reached.", max_episode_seconds: "Truncated: the time limit was reached.",
  };
  const end = sample.failure ? [el("p", { class: "bad" }, `Failed (${sample.failure.kind}), so it has no return.`), partNodes([sample.failure.message])] : [el("p", {}, reasons[sample.stopReason] ?? sample.stopReason)];
  return [el("h3", {}, `${labelOf(sample)} · ${sample.task.text}`), el("div", { class: "facts" }, facts.map(fact => el("span", {}, fact))), ...events,
    el("div", { class: "event end" }, el("div", { class: "who" }, "end"), el("div", {}, end))];
}
