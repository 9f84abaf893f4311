// The model's trial: both arms side by side, and the intervals by which it is judged.

import { bar, el, empty, fill, hash, known, ms, num, pct, section } from "./dom.js";

/// More than nothing has its sign, too.
const signed = v => (v > 0 ? "+" : "") + pct(v);

/// An interval with its mean on a scale of its own around zero; what counts against the model is on the right.
function interval(i, words) {
  if (!i) return el("div", {}, el("span", { class: "soft" }, `${words}: not known yet`));
  const reach = Math.max(0.01, Math.abs(i.low), Math.abs(i.high)) * 1.1, at = v => pct((v / reach + 1) / 2);
  return el("div", {}, el("span", { class: "label" }, words),
    el("span", { class: "interval", role: "img", "aria-label": `${words}: ${pct(i.mean)}, from ${pct(i.low)} to ${pct(i.high)}` },
      el("s", {}), el("i", { style: { left: at(i.low), width: pct((i.high - i.low) / reach / 2) } }), el("u", { style: { left: at(i.mean) } })),
    el("b", {}, signed(i.mean)), el("span", { class: "soft" }, ` (${signed(i.low)} to ${signed(i.high)})`));
}

function arm(name, a, other) {
  const better = (mine, theirs) => known(mine) && known(theirs) && mine < theirs && el("span", { class: "good" }, " ↓ less");
  return el("div", { "data-key": name }, el("h3", {}, name === "model" ? "steered by the model" : `against it: steered by ${a.policy}`), el("dl", {},
    el("dt", {}, "requests"), el("dd", {}, num(a.requests, 0), " ", bar(a.share, true)),
    el("dt", {}, "mean"), el("dd", {}, `${ms(a.mean_ms)} ms`, better(a.mean_ms, other.mean_ms)), el("dt", {}, "p50"), el("dd", {}, `${ms(a.p50_ms)} ms`),
    el("dt", {}, "p99"), el("dd", {}, `${ms(a.p99_ms)} ms`, better(a.p99_ms, other.p99_ms)),
    el("dt", {}, "failed"), el("dd", {}, `${num(a.failures, 0)} (${pct(a.failure_rate, 2)})`, better(a.failure_rate, other.failure_rate))));
}

export default {
  title: "Canary",
  needs: () => ({}),
  draw(box, { routing }) {
    const trial = routing.canary;
    if (!trial) {
      fill(box, section("The model on trial", null, empty(`The model is on no trial: model.mode is ${routing.mode}. With `, el("code", {}, "canary"), " it steers a share of the requests and a named policy the rest, and both are compared here.")));
      return;
    }
    const retreat = trial.retreat;
    const both = routing.tables.filter(t => t.canary);
    fill(box,
      section("The model on trial", `the model steers ${pct(trial.share, 0)}, ${trial.against} the rest; it may be worse by ${pct(trial.tolerance, 0)}`,
        known(retreat) && el("p", { class: "bad" }, el("b", {}, `It has lost (${retreat.code}): `), `${retreat.cluster}: ${retreat.reason}, ${num(retreat.since_s, 0)} s ago; `, known(retreat.again_in_s) ? `another trial in ${num(retreat.again_in_s, 0)} s` : "no other trial with this model"),
        trial.comparisons.length ? trial.comparisons.map(c => el("div", { "data-key": c.cluster }, el("h3", {}, c.cluster), interval(c.longer, "latency"), interval(c.more_failures, "failures"), el("span", { class: "soft" }, `the model's requests beside the others: left of the line (-) the model is better; by ${num(c.batches, 0)} batches, each interval holds with 99%`))) : empty("Nothing has been compared yet.")),
      both.length ? both.map(t => el("section", { "data-key": `${t.workload} ${t.cluster}` },
        el("div", { class: "head" }, el("h2", {}, el("a", { href: hash("explain", t.workload, t.cluster) }, `${t.workload} → ${t.cluster}`)), !t.canary.steering && el("span", { class: "tag warn" }, "the model does not steer now")),
        el("div", { class: "arms" }, arm("model", t.canary.model, t.canary.against), arm("against", t.canary.against, t.canary.model))))
        : section("Arms", null, empty("No request has been counted for either arm.")));
  },
};
