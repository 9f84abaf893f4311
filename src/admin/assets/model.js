// The ladder's state, the model and its engine, and what the guards did.

import { clock, el, empty, fill, known, num, pct, section, table } from "./dom.js";

const LADDER = [
  ["model", "the model's scores of this tick"], ["last_good", "the last good scores: this tick had none"], ["against", "on trial only: the policy that the model is compared with"],
  ["peak_ewma", "no scores, or scores that do not steer: peak EWMA"], ["least_request", "no scores and no fresh latencies either: least request"],
];
const seconds = v => known(v) ? (v * 1000).toFixed(2) + " ms" : "–";
const pairs = (...entries) => el("dl", {}, entries.filter(Boolean).map(([name, value, kind]) => [el("dt", {}, name), el("dd", { class: kind }, value)]));

/// The steps that are remembered, the newest first.
function steps(changes) {
  return changes.map((c, i) => ({ c, from: changes[i - 1]?.rung })).filter(({ c, from }) => known(from) && from !== c.rung).reverse().slice(0, 10);
}

export default {
  title: "Model",
  needs: () => ({}),
  draw(box, { routing }, params, { live }) {
    const g = routing.generation, s = routing.scorer ?? {}, since = live.changes.findLast((c, i) => c.rung !== live.changes[i - 1]?.rung);
    const fault = f => f && [f.code, `${f.message} (${num(f.age_s, 0)} s ago)`];
    const own = new Map();
    for (const c of live.changes) for (const m of c.moved) own.set(m.reason.replace(/^predicted [^;]*(; )?/, "") || "by the score alone", (own.get(m.reason.replace(/^predicted [^;]*(; )?/, "") || "by the score alone") ?? 0) + 1);
    fill(box, el("div", { class: "columns", "data-key": "columns" },
      section("The ladder", g ? null : "nothing has been published yet", el("ol", { class: "ladder" }, LADDER.map(([name, words]) => el("li", { "aria-current": g?.rung === name && "true", "data-key": name }, name, el("small", {}, g?.rung === name ? [g.rung_reason, known(since) && ` (since ${clock(since.made_at)} or before)`] : words)))),
        g?.expired === true && el("p", { class: "bad" }, "The generation has expired: peak EWMA steers.")),
      section("The model", null,
        routing.mode === "shadow" && el("p", { class: "warn" }, "Shadow: it is asked and compared, and steers nothing."),
        pairs(["state", s.state ?? "–", s.state === "ready" || s.state === "busy" ? "good" : "warn"], known(s.not_ready) && ["not ready", s.not_ready, "warn"], ["file", s.file],
          ["name", s.model?.name], ["version", s.model?.version], ["digest", known(s.model?.digest) ? el("code", {}, s.model.digest) : "–"],
          ["mean error", [pct(routing.model_error, 0), el("span", { class: "soft" }, " predicted against observed latency, by factors")]],
          known(s.model_error) && ["not taken", fault(s.model_error).join(": "), "bad"])),
      section("The engine", null, known(s.engine) ? pairs(["engine", `${s.engine.engine} ${s.engine.version ?? ""}`], ["device", s.engine.device], ["why this one", s.engine.reason],
        ["last inference", seconds(s.last_duration_s)], ["mean", seconds(s.mean_duration_s)], ["longest", seconds(s.max_duration_s)], ["inferences", num(s.inferences, 0)], ["late", num(s.late, 0)], ["restarts", num(s.restarts, 0)],
        known(s.last_error) && ["last failure", fault(s.last_error).join(": "), "warn"]) : empty("No engine has been started.")),
      section("Steps that are remembered", null, steps(live.changes).length ? table([["at", "l", ({ c }) => [clock(c.made_at), el("span", { class: "soft" }, ` #${c.generation}`)]], ["step", "l", ({ c, from }) => `${from} → ${c.rung}`], ["why", "l why", ({ c }) => c.rung_reason]], steps(live.changes), { key: ({ c }) => String(c.generation) }) : el("span", { class: "soft" }, "It has not moved.")),
      section("Why weights moved", "the moves that are remembered", own.size ? table([["what decided", "l why", ([reason]) => reason], ["moves", "", ([, count]) => count]], [...own].sort((a, b) => b[1] - a[1]).slice(0, 8), { key: ([reason]) => reason }) : el("span", { class: "soft" }, "No weight has moved by half a percent."))));
  },
};
