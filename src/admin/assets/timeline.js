// The last generations: what made each, and what it changed.

import { clock, el, empty, fill, hash, pct, section, svg, ms } from "./dom.js";

const wish = { text: "", quiet: false, cause: "" };
const CAUSES = ["start", "interval", "reload", "endpoints", "health", "latency", "errors"];
const MAX_WEIGHTS = 3, NOTABLE = 0.02, MAX_ROWS = 120, MAX_BARS = 240;

const largest = c => c.moved.reduce((most, m) => Math.max(most, Math.abs(m.to - m.from)), 0);

/// With each change what differs from the one before it.
export function told(changes) {
  return changes.map((c, i) => {
    const before = changes[i - 1];
    const stepped = before && before.rung !== c.rung ? before.rung : null;
    const other = before && before.model?.digest !== c.model?.digest ? before.model : undefined;
    const notable = c.cause !== "interval" || stepped !== null || other !== undefined || c.health.length > 0 || largest(c) >= NOTABLE;
    return { ...c, stepped, other, notable };
  });
}

export function words(c) {
  const out = [];
  const say = (...line) => out.push(el("li", {}, ...line));
  if (c.stepped !== null) say(el("b", { class: c.rung === "model" ? "good" : "warn" }, `${c.stepped} → ${c.rung}`), ": ", c.rung_reason);
  if (c.other !== undefined) say(c.model ? `model ${c.model.name} (${c.model.digest.slice(0, 12)}) on ${c.model.engine}` : "no model's scores");
  for (const t of c.triggers) say(el("b", {}, "because "), `${t.source} → ${t.destination} `, t.what === "errors" ? `failed ${pct(t.error_rate)} of its calls` : `took ${ms(t.observed_ms)} ms where ${ms(t.predicted_ms)} ms were predicted`);
  for (const h of c.health) say(el("b", {}, "health "), `${h.cluster} ${h.endpoint}: ${h.from} → ${h.to}`);
  for (const [name, those] of [["appeared", c.appeared], ["disappeared", c.disappeared]]) if (those.length) say(el("b", {}, name + " "), those.map(e => `${e.cluster} ${e.endpoint}`).join(", "));
  const weight = m => el("li", {}, el("b", {}, "weight "), el("a", { href: hash("explain", m.workload, m.cluster) }, `${m.workload} → ${m.cluster}`), ` ${m.endpoint}: ${pct(m.from)} → ${pct(m.to)} `, el("span", { class: "soft" }, m.reason));
  out.push(...c.moved.slice(0, MAX_WEIGHTS).map(weight));
  if (c.moved.length > MAX_WEIGHTS) out.push(el("li", {}, el("details", {}, el("summary", {}, `${c.moved.length - MAX_WEIGHTS} more weights moved less`), el("ul", {}, c.moved.slice(MAX_WEIGHTS).map(weight)))));
  if (!out.length) say(el("span", { class: "soft" }, "no weight moved by half a percent"));
  return out;
}

/// A bar a generation: how far the weight that moved most moved; a mark where something made it happen, a colour off the model's rung.
function strip(changes) {
  const those = changes.slice(-MAX_BARS), most = Math.max(0.1, ...those.map(largest)), places = Math.max(60, those.length), wide = 1000 / places;
  const x = i => (places - those.length + i) * wide;
  return svg("svg", { class: "strip", viewBox: "0 0 1000 64", preserveAspectRatio: "none", role: "img", "aria-label": `the last ${those.length} generations; the largest move of a weight was ${pct(Math.max(0, ...those.map(largest)))}` },
    those.map((c, i) => [
      svg("rect", { x: x(i), width: wide * 0.75, y: 61, height: 3, class: c.rung === "model" ? "quiet" : "down" }),
      svg("rect", { x: x(i), width: wide * 0.75, y: 58 - 44 * largest(c) / most, height: 44 * largest(c) / most, class: c.rung === "model" ? "" : "down" }),
      c.cause !== "interval" && svg("rect", { x: x(i), width: wide * 0.75, y: 0, height: 8, class: "mark" }),
    ]));
}

function build(box, context) {
  const search = el("input", { type: "search", placeholder: "endpoint, cluster, reason", "aria-label": "Search the changes", id: "search" });
  const cause = el("select", { "aria-label": "Cause", id: "cause" }, el("option", { value: "" }, "every cause"), CAUSES.map(c => el("option", { value: c }, c)));
  const quiet = el("input", { type: "checkbox", id: "quiet" });
  box.replaceChildren(el("div", { class: "controls" }, search, cause, el("label", {}, quiet, "quiet ticks, too"), el("span", { class: "soft", id: "count" })), el("div", { id: "strip" }), el("div", { id: "changes" }));
  Object.assign(search, { value: wish.text });
  Object.assign(cause, { value: wish.cause });
  Object.assign(quiet, { checked: wish.quiet });
  search.addEventListener("input", () => { wish.text = search.value; show(box, context); });
  cause.addEventListener("change", () => { wish.cause = cause.value; show(box, context); });
  quiet.addEventListener("change", () => { wish.quiet = quiet.checked; show(box, context); });
}

function show(box, { live }) {
  const all = told(live.changes);
  const needles = wish.text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = all.filter(c => (wish.quiet || c.notable) && (!wish.cause || c.cause === wish.cause)).reverse()
    .map(c => ({ c, lines: words(c) })).filter(({ c, lines }) => !needles.length || needles.every(n => `${c.cause} ${c.rung} ${lines.map(l => l.textContent).join(" ")}`.toLowerCase().includes(n)));
  box.querySelector("#count").textContent = `${rows.length} of ${all.length} generations that are remembered`;
  fill(box.querySelector("#strip"), section("The last generations", `${all.length ? `${clock(all.slice(-MAX_BARS)[0].made_at)} to ${clock(all.at(-1).made_at)}; ` : ""}height: the weight that moved most; a mark above: something made it happen; below: the ladder`, strip(all)));
  fill(box.querySelector("#changes"), section("What changed, and why", null, rows.length ? el("ol", { class: "changes" }, rows.slice(0, MAX_ROWS).map(({ c, lines }) => el("li", { "data-key": String(c.generation) },
    el("span", {}, el("b", {}, `#${c.generation}`), " ", el("time", { datetime: c.made_at, class: "soft" }, clock(c.made_at))),
    el("span", {}, el("span", { class: "tag " + (c.cause === "interval" ? "soft" : "warn") }, c.cause), c.early && el("span", { class: "soft" }, " at once")),
    el("ul", {}, lines)))) : empty(all.length ? "Nothing but quiet ticks: no weight moved by 2% or more, nothing failed, nothing was changed." : "No generation has been published yet.")));
}

export default {
  title: "Timeline",
  needs: () => ({}),
  draw(box, answers, params, context) {
    if (!box.querySelector("#changes")) build(box, context);
    show(box, context);
  },
};
