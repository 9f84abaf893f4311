// The live mesh: the picture, a search with filters, and what is known of the node that is chosen.

import { bar, el, empty, fill, hash, known, ms, num, pct, rate, table } from "./dom.js";
import { Picture, inWords, possible, shares, trouble } from "./picture.js";
import { onTheme } from "./colour.js";
import { byService } from "./merge.js";
import { WEIGHT } from "./explain.js";

/// How many names the list shows; the search finds the others. How many links a table shows.
const MAX_LISTED = 60, MAX_LINKS = 50;

let parts = null, picture = null, data = null, whole = null;
const wish = { text: "", zone: "", idle: false, trouble: false, merged: false, chosen: null };

function build(box) {
  const search = el("input", { type: "search", placeholder: "node, service, zone", "aria-label": "Search the mesh", id: "search" });
  const zone = el("select", { "aria-label": "Zone", id: "zone" }, el("option", { value: "" }, "all zones"));
  const check = (id, words) => [el("input", { type: "checkbox", id }), words];
  const idle = check("idle", "links without calls"), bad = check("trouble", "only what is in trouble"), merged = check("merged", "services, not instances");
  const graph = el("div", { id: "graph", tabindex: "0", role: "application", "aria-label": "The mesh as a graph. Arrows move it, plus and minus zoom, 0 shows all, Escape lets the chosen node go. The list and the table beside it say the same." });
  const tip = el("div", { class: "tip", hidden: true });
  parts = { search, zone, graph, tip, note: el("span", { class: "soft" }), legend: el("div", { class: "legend" }), side: el("div", { id: "side" }), links: el("div", { id: "links" }) };
  box.replaceChildren(
    el("div", { class: "mesh" },
      el("section", {},
        el("div", { class: "controls" }, search, zone, el("label", {}, ...idle), el("label", {}, ...bad), el("label", {}, ...merged), el("button", { type: "button", id: "fit" }, "Show all"), parts.note),
        graph, parts.legend),
      el("section", { class: "side" }, parts.side)),
    el("details", {}, el("summary", { class: "soft" }, "The links as a table"), parts.links));
  search.value = wish.text;
  idle[0].checked = wish.idle;
  bad[0].checked = wish.trouble;
  merged[0].checked = wish.merged;
  search.addEventListener("input", () => { wish.text = search.value; draw(); });
  search.addEventListener("keydown", event => {
    const [first] = found();
    if (event.key === "Enter" && first) { choose(first); picture?.goTo(first); }
    if (event.key === "Escape") { search.value = wish.text = ""; choose(null); graph.focus(); }
  });
  zone.addEventListener("change", () => { wish.zone = zone.value; draw(); });
  idle[0].addEventListener("change", event => { wish.idle = event.target.checked; draw(); });
  bad[0].addEventListener("change", event => { wish.trouble = event.target.checked; draw(); });
  merged[0].addEventListener("change", event => {
    wish.merged = event.target.checked;
    // The chosen instance's service, and of a service none of its instances in particular.
    wish.chosen = (wish.merged && data.nodes.find(n => n.key === wish.chosen)?.service) || null;
    take();
    draw();
  });
  box.querySelector("#fit").addEventListener("click", () => { choose(null); picture?.key("0"); });
  graph.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") choose(null);
    else if (!picture?.key(event.key)) return;
    event.preventDefault();
  });
  parts.side.addEventListener("click", event => {
    const key = event.target.closest("[data-pick]")?.dataset.pick;
    if (known(key)) { choose(key === wish.chosen ? null : key); if (wish.chosen) picture?.goTo(key); }
  });
  if (possible()) {
    graph.append(tip);
    picture = new Picture(graph, { pick: choose, tip: showTip });
  } else {
    graph.append(empty("This browser draws no WebGL, so there is no picture; the list and the table of links say the same."));
    box.querySelector("details").open = true;
  }
}

function choose(key) {
  wish.chosen = key;
  draw();
}

/// The nodes that search and filters leave, those with most calls first.
function found() {
  const words = wish.text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = n => words.every(w => `${n.key} ${n.service ?? ""} ${n.zone ?? ""}`.toLowerCase().includes(w))
    && (!wish.zone || (n.zone ?? "").split(", ").includes(wish.zone)) && (!wish.trouble || trouble(n) !== "" || data.inTrouble.has(n.key));
  return new Map(data.nodes.filter(fits).sort((a, b) => (b.calls_per_second ?? 0) - (a.calls_per_second ?? 0)).map(n => [n.key, n])).keys();
}

/// Nodes at links whose calls fail.
function failing(links) {
  return new Set(links.filter(l => l.statistics.error_rate > 0.02 && l.statistics.calls_per_second > 0).flatMap(l => [l.source, l.destination]));
}

/// What is shown of what the proxy said.
function take() {
  const graph = wish.merged ? byService(whole.graph) : whole.graph;
  data = { ...graph, tables: whole.routing.tables, inTrouble: failing(graph.links) };
}

function draw() {
  if (!parts || !data) return;
  const busy = data.links.filter(l => l.statistics.calls_per_second > 0);
  const linked = new Set(busy.flatMap(l => [l.source, l.destination])), unwell = new Set(data.nodes.filter(n => trouble(n)).map(n => n.key));
  const links = wish.idle || !busy.length ? data.links : data.links.filter(l => l.statistics.calls_per_second > 0 || (unwell.has(l.destination) && linked.has(l.source)));
  links.forEach(l => linked.add(l.destination));
  // Endpoints that nobody calls are there with their links alone, unless it is because they are in trouble.
  const nodes = wish.idle ? data.nodes : data.nodes.filter(n => linked.has(n.key) || !busy.length);
  const keys = [...found()], narrowed = wish.text || wish.zone || wish.trouble;
  if (picture) {
    picture.show(nodes, links);
    picture.point(wish.chosen, narrowed ? new Set(keys) : null);
    legend();
  }
  const hidden = data.links.length - links.length, missing = data.total.links - data.links.length;
  parts.note.textContent = `${nodes.length} nodes, ${links.length} links` + (hidden ? `, ${hidden} without calls` : "") + (missing > 0 ? `, ${missing} more not asked for` : "");
  if (parts.graph.querySelector(".empty.none")) parts.graph.querySelector(".empty.none").remove();
  if (!data.nodes.length) parts.graph.append(el("p", { class: "empty none" }, "Nothing has been seen yet: no tick has looked at the mesh, or no workload and cluster are configured."));
  fill(parts.side, chosen(), list(keys, narrowed));
  fill(parts.links, data.links.length ? linkTable([...links].sort((a, b) => (b.statistics.calls_per_second ?? 0) - (a.statistics.calls_per_second ?? 0)).slice(0, MAX_LINKS), true) : empty("no links"));
}

function list(keys, narrowed) {
  const by = new Map(data.nodes.map(n => [n.key, n]));
  const rows = keys.slice(0, MAX_LISTED).map(key => by.get(key)).map(n => el("li", { "data-key": n.key },
    el("button", { type: "button", "data-pick": n.key, "aria-pressed": String(n.key === wish.chosen) },
      el("span", { class: "name" }, trouble(n) + (n.service ?? n.key) + " ", n.service && n.service !== n.key && el("span", { class: "soft" }, n.key)),
      el("span", { class: "n" }, n.calls_per_second > 0 ? `${rate(n.calls_per_second)}/s  ${ms(n.response_mean_ms)} ms` : "no calls"))));
  return el("div", { "data-key": "list" },
    el("div", { class: "head" }, el("h2", {}, narrowed ? "Found" : "Nodes"), el("span", { class: "soft", id: "count" }, `${keys.length} of ${data.nodes.length}`)),
    rows.length ? el("ul", { class: "list" }, rows) : empty(data.nodes.length ? "Nothing fits the search and the filters." : "No node is known yet."),
    keys.length > MAX_LISTED && el("p", { class: "soft" }, `and ${keys.length - MAX_LISTED} more: search for them`));
}

const COLUMNS = [
  ["ms", "", l => ms(l.statistics.latency_mean_ms), "mean latency of about the last 10 s"], ["calls/s", "", l => rate(l.statistics.calls_per_second)],
  ["weight", "", l => shares(l), WEIGHT], ["errors", "", l => pct(l.statistics.error_rate)],
];
const ALL = [["attention", "", l => pct(l.attention, 0)], ["p99 ms", "", l => ms(l.statistics.latency_p99_ms)], ["jitter ms", "", l => ms(l.statistics.jitter_ms)]];
function linkTable(links, both, end) {
  const name = key => el("a", { href: hash("service", data.nodes.find(n => n.key === key)?.service ?? key) }, key);
  const ends = both ? [["from", "l", l => name(l.source)], ["to", "l", l => name(l.destination)]] : [[end === "source" ? "from" : "to", "l", l => name(l[end])]];
  return table([...ends, ...COLUMNS, ...(both ? ALL : [])], links, { key: l => l.source + " " + l.destination });
}

function chosen() {
  const n = data.nodes.find(n => n.key === wish.chosen);
  if (!n) return false;
  const into = data.links.filter(l => l.destination === n.key && l.statistics.calls_per_second > 0), out = data.links.filter(l => l.source === n.key && l.statistics.calls_per_second > 0);
  const most = links => [...links].sort((a, b) => b.statistics.calls_per_second - a.statistics.calls_per_second).slice(0, 12);
  const pairs = data.tables.filter(t => t.source === n.key || (t.service === n.service && t.calls_per_second > 0)).slice(0, 6);
  return el("div", { "data-key": "chosen", id: "chosen" },
    el("div", { class: "head" }, el("h2", {}, n.key), el("button", { type: "button", "data-pick": n.key }, "Let go")),
    el("dl", {},
      el("dt", {}, "service"), el("dd", {}, n.service ? el("a", { href: hash("service", n.service) }, n.service) : "–"),
      n.instances > 1 && [el("dt", {}, "instances"), el("dd", {}, String(n.instances))],
      el("dt", {}, "zone"), el("dd", {}, n.zone), el("dt", {}, "calls"), el("dd", {}, `${rate(n.calls_per_second)}/s; the model expects ${rate(n.node_load)}/s`),
      el("dt", {}, "answers"), el("dd", {}, `${ms(n.response_mean_ms)} ms mean, ${ms(n.response_p99_ms)} ms p99`),
      el("dt", {}, "errors"), el("dd", {}, pct(n.error_rate)), el("dt", {}, "in flight"), el("dd", {}, num(n.in_flight, 0)),
      known(n.cpu_utilization) && [el("dt", {}, "CPU"), el("dd", {}, bar(n.cpu_utilization, true))]),
    into.length > 0 && [el("h3", {}, "Called by"), linkTable(most(into), false, "source")],
    out.length > 0 && [el("h3", {}, "Calls"), linkTable(most(out), false, "destination")],
    pairs.length > 0 && el("p", {}, "Explain ", pairs.map((t, i) => [i ? ", " : "", el("a", { href: hash("explain", t.workload, t.cluster) }, `${t.workload} → ${t.cluster}`)])), el("hr", {}));
}

function legend() {
  const { scale, most } = picture;
  fill(parts.legend,
    el("span", { "data-key": "latency" }, `mean latency ${ms(scale.low)}`, el("span", { class: "ramp", style: { background: scale.ramp() } }), `${ms(scale.high)} ms`),
    el("span", { "data-key": "calls" }, "calls/s ", el("span", { class: "stroke", style: { height: "2px" } }), rate(most / 10), el("span", { class: "stroke", style: { height: "7px" } }), rate(most)),
    el("span", { "data-key": "share", title: WEIGHT }, "% weight: its part of the source's requests"), el("span", { "data-key": "signs" }, "✕ gets no requests, ! errors or probation"));
}

function showTip(what, event) {
  parts.tip.hidden = what === null;
  if (what === null) return;
  const l = what.link && data.links.find(l => `${l.source} ${l.destination}` === what.link);
  const n = what.node && data.nodes.find(n => n.key === what.node);
  if (l) fill(parts.tip, el("b", {}, `${l.source} → ${l.destination}`), inWords(l).map(line => el("div", {}, line)));
  if (n) fill(parts.tip, el("b", {}, n.key), el("div", {}, `${rate(n.calls_per_second)} calls/s, mean ${ms(n.response_mean_ms)} ms, ${pct(n.error_rate)} errors`), known(n.node_load) && el("div", {}, `expected load ${rate(n.node_load)}/s`));
  const { width, height } = parts.graph.getBoundingClientRect();
  parts.tip.style.left = Math.max(4, Math.min(event.x + 14, width - 330)) + "px";
  parts.tip.style.top = Math.max(4, Math.min(event.y + 14, height - 90)) + "px";
}

onTheme(() => { if (picture) draw(); });

export default {
  title: "Mesh",
  needs: () => ({ graph: "/graph" }),
  draw(box, { graph, routing }) {
    if (!parts) build(box);
    whole = { graph, routing };
    take();
    const zones = [...new Set(graph.nodes.map(n => n.zone).filter(known))].sort();
    if (parts.zone.options.length !== zones.length + 1) {
      parts.zone.replaceChildren(el("option", { value: "" }, "all zones"), ...zones.map(z => el("option", { value: z }, z)));
      parts.zone.value = wish.zone;
    }
    parts.zone.hidden = zones.length === 0;
    draw();
  },
  leave() {
    picture?.end();
    parts = picture = data = whole = null;
  },
};
