// Why requests of one workload to one cluster go where they go: each candidate with what the model said, what was seen,
// why its weight is what it is and which guard acted, and what it looks at.

import { bar, el, empty, fill, hash, health, known, ms, num, pct, rate, section, table } from "./dom.js";

const MAX_ROWS = 100;
let wish = "";

/// What the columns mean, in the words of `pathloom explain` and the README (a test holds them together).
export const WEIGHT = "the part of the requests that the generation in force gives an endpoint";
const CALLS = "the part that it got of the calls of about the last 10 s";
const DIFFER = "a request takes the cheapest of the candidates compared, estimate x (in flight + 1) / expected success; affinity, trials, retries, probes and a weight that has just moved do their part";
const INTRINSIC = "predicted latency at the endpoint's fair share of the load, from which its weight follows";
const PREDICTED = "the mean that the model, when it made the generation, expected for the seconds after it, at the load as it was";
const OBSERVED = "the mean of about the last 10 s";
const ESTIMATE = "this proxy's own peak EWMA, which decays towards what the weight says";
/// For those who have no pointer to rest on a title, too.
const legend = () => el("details", { class: "soft words" }, el("summary", {}, "weight is what the generation gives, calls what came: why they differ, and what the other columns mean"),
  [["weight", WEIGHT], ["calls", `${CALLS}; they differ: ${DIFFER}`], ["intrinsic", INTRINSIC], ["predicted", PREDICTED], ["observed", OBSERVED], ["estimate", ESTIMATE]].map(([name, meaning]) => el("div", {}, el("b", {}, name), `: ${meaning}`)));

function pairs(box, { routing }) {
  if (!box.querySelector("#pairs")) {
    const search = el("input", { type: "search", placeholder: "workload or cluster", "aria-label": "Search pairs", id: "search" });
    search.value = wish;
    box.replaceChildren(el("div", { class: "controls" }, el("h2", {}, "Who calls what"), search, el("a", { href: hash("requests") }, "one request by its id")), el("div", { id: "pairs" }));
    search.addEventListener("input", () => { wish = search.value; rows(box, routing); });
  }
  rows(box, routing);
}

function rows(box, routing) {
  const words = wish.toLowerCase().split(/\s+/).filter(Boolean);
  const those = routing.tables.filter(t => words.every(w => `${t.workload} ${t.cluster} ${t.service}`.toLowerCase().includes(w)));
  fill(box.querySelector("#pairs"), el("section", {}, those.length ? table([
    ["pair", "l", t => el("a", { href: hash("explain", t.workload, t.cluster) }, `${t.workload} → ${t.cluster}`)], ["service", "l", t => t.service], ["policy in force", "l", t => t.policy],
    ["calls/s", "", t => rate(t.calls_per_second)], ["candidates", "", t => t.candidate_count], ["get requests", "", t => t.eligible_count],
    ["", "l", t => t.panic ? el("span", { class: "tag bad" }, "panic") : t.candidate_count === 0 ? el("span", { class: "tag warn" }, "no endpoints") : ""],
  ], those.slice(0, 200), { key: t => `${t.workload} ${t.cluster}` }) : empty(routing.tables.length ? "Nothing fits the search." : "There is no workload and cluster to choose for: the configuration names none.")));
}

/// Predicted against observed: the bar is what was seen, the line what was predicted.
function against(c, longest) {
  const seen = c.observed?.latency_mean_ms, said = c.predicted?.mean_ms;
  if (!known(seen) && !known(said)) return "–";
  const at = v => pct(Math.min(1, v / longest));
  return el("span", { class: "against", role: "img", "aria-label": `observed ${ms(seen)} ms, predicted ${ms(said)} ms` },
    known(seen) && el("i", { style: { width: at(seen) } }), known(said) && el("u", { style: { left: at(said) } }));
}

const off = c => known(c.observed?.latency_mean_ms) && known(c.predicted?.mean_ms) && (c.observed.samples ?? 1) > 0 ? pct(c.predicted.mean_ms / c.observed.latency_mean_ms - 1, 0).replace(/^(?=[^-–])/, "+") : "–";

/// What is known of each candidate: its numbers, why its weight is what it is, and what it looks at. `marked` is the one that was
/// chosen for a request. A table of the past has its own word on attention, and needs no graph.
export function candidates(t, graph, marked, note) {
  const those = t.candidates.slice(0, MAX_ROWS), longest = Math.max(1e-9, ...t.candidates.flatMap(c => [c.observed?.latency_mean_ms ?? 0, c.predicted?.mean_ms ?? 0]));
  const past = Boolean(t.past);
  graph ??= { links: [], nodes: [] };
  const attention = new Map(graph.links.map(l => [l.source + " " + l.destination, l.attention]));
  const looks = key => graph.links.filter(l => l.source === key && known(l.attention)).sort((a, b) => b.attention - a.attention).slice(0, 5);
  const services = new Map(graph.nodes.map(n => [n.key, n.service]));
  const scored = t.candidates.some(c => known(c.score)), guarded = t.candidates.filter(c => known(c.guard));
  const name = c => [c.endpoint, (c.endpoint === marked || c.address === marked) && el("b", { class: "mark" }, " ◀ chosen")];
  const from = c => past ? c.attention : attention.get(t.source + " " + c.endpoint);
  if (!t.candidates.length) return [section("Candidates", null, empty("The cluster has no endpoints: requests to it are answered with 503."))];
  return [
    section("Candidates", note ?? (scored ? null : "nothing has been scored: no model, or no tick yet"), table([
      // What a narrow page shows without being moved is what matters first.
      ["endpoint", "l", c => [name(c), known(c.zone) && el("span", { class: "soft" }, " " + c.zone)]], ["health", "l", c => health(c.health)],
      ["weight", "l", c => bar(c.share), WEIGHT], ["calls", "", c => pct(c.observed?.share), `${CALLS}; it differs from the weight: ${DIFFER}`],
      ["errors", "", c => pct(c.observed?.error_rate), "failed calls of about the last 10 s"], ["in flight", "", c => num(c.in_flight, 0), "requests under way from here, now"],
      ["predicted", "", c => ms(c.predicted?.mean_ms), PREDICTED], ["observed", "", c => ms(c.observed?.latency_mean_ms), OBSERVED],
      ["observed ▮ predicted |", "l", c => against(c, longest)], ["off by", "", off, "predicted against observed: + is too slow, - too fast"], ["p99", "", c => ms(c.observed?.latency_p99_ms), "the 99th percentile of about the last 10 s"],
      ["intrinsic", "", c => ms(c.predicted?.intrinsic_ms), INTRINSIC], ["estimate", "", c => ms(c.estimate?.now_ms), ESTIMATE], ["age s", "", c => num(c.last_sample_age_s), "since the last sample"], ["score", "", c => num(c.score, 2), "minus the logarithm of the intrinsic latency in seconds: the higher the faster"],
    ], those, { key: c => c.endpoint, rowClass: c => !c.eligible && "out" }), t.candidates.length > MAX_ROWS && el("p", { class: "soft" }, `and ${t.candidates.length - MAX_ROWS} more in /routing`), legend()),
    section("Why", guarded.length ? `a guard acted on ${guarded.length} of ${t.candidates.length}` : t.policy === "model" ? "no guard changed a weight in this generation" : `the policy in force is ${t.policy}: no guard acts`,
      table([["endpoint", "l", name], ["weight", "", c => pct(c.share), WEIGHT], ["why it is that", "l why", c => c.reason], ["guard", "l why", c => known(c.guard) ? el("b", { class: "warn" }, c.guard) : "none acted"]], those, { key: c => c.endpoint })),
    scored && section("Attention", "how the caller's attention " + (past ? "was shared over its links" : "is shared over its links, and each candidate's over those that it calls"), table([
      ["candidate", "l", name], ["from the caller", "l", c => known(from(c)) ? bar(from(c)) : "–"],
      !past && ["looks at", "l", c => {
        const links = looks(c.endpoint);
        return links.length ? el("ul", { class: "looks" }, links.map(l => el("li", {}, bar(l.attention, true), ` ${services.get(l.destination) ?? l.destination} `, el("span", { class: "soft" }, known(l.statistics.latency_mean_ms) ? `${l.destination}, ${ms(l.statistics.latency_mean_ms)} ms` : l.destination)))) : el("span", { class: "soft" }, "calls nobody that is known here");
      }],
    ].filter(Boolean), those, { key: c => c.endpoint })),
  ];
}

/// Where the cluster's endpoints come from.
function sources(discovery) {
  const counts = all => Object.entries(all ?? {}).filter(([, n]) => n > 0).map(([word, n]) => `${n} ${word.replaceAll("_", " ")}`).join(", ") || "–";
  const state = s => s.state === "failing" ? el("span", { class: "tag bad" }, "✕ failing") : s.state === "waiting" ? el("span", { class: "tag warn" }, "◐ waiting") : el("span", { class: "tag good" }, `✓ ${s.state}`);
  return discovery?.length > 0 && section("Where its endpoints come from", null, table([
    ["source", "l", s => s.source], ["state", "l", state], ["endpoints", "l", s => counts(s.endpoints)], ["left out", "l", s => counts(s.ignored)], ["said s ago", "", s => num(s.age_s, 0)], ["trouble", "l why", s => s.reason],
  ], discovery, { key: s => s.source }));
}

function one(box, { table: { tables, mode, discovery }, graph }, [workload, cluster]) {
  const t = tables[0];
  const back = el("a", { href: hash("explain") }, "all pairs");
  if (!t) {
    fill(box, section(`${workload} → ${cluster}`, null, empty("Nothing is known of this pair. ", back)));
    return;
  }
  fill(box,
    el("div", { class: "controls", "data-key": "head" }, el("h2", {}, `${t.workload} → ${t.cluster}`), back, el("a", { href: hash("service", t.service) }, `service ${t.service}`), el("a", { href: hash("requests") }, "one request"),
      el("span", { class: "soft" }, `policy ${t.policy}, ${rate(t.calls_per_second)} calls/s, ${t.protocol}`), mode === "shadow" && el("span", { class: "tag warn" }, "shadow: the model does not steer"),
      t.panic && el("span", { class: "tag bad" }, "panic: health does not count"),
      known(t.own_zone) && el("span", { class: "soft" }, `${pct(t.own_zone.share)} stay in zone ${t.own_zone.zone}`)),
    candidates(t, graph), sources(discovery));
}

export default {
  title: "Explain",
  needs: ([workload, cluster], routing) => {
    if (!known(cluster)) return {};
    const service = routing?.tables.find(t => t.cluster === cluster)?.service;
    return {
      table: `/routing?workload=${encodeURIComponent(workload)}&cluster=${encodeURIComponent(cluster)}`,
      graph: "/graph" + (known(service) ? "?around=" + encodeURIComponent(service) : ""),
    };
  },
  draw(box, answers, params) {
    if (known(params[1])) one(box, answers, params);
    else pairs(box, answers);
  },
};
