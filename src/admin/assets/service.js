// A service: its instances, who calls it, what it calls.

import { bar, el, empty, fill, hash, health, known, ms, num, pct, rate, section, table } from "./dom.js";
import { shares } from "./picture.js";
import { WEIGHT } from "./explain.js";

const byCalls = (a, b) => (b.calls_per_second ?? 0) - (a.calls_per_second ?? 0);
const sum = values => values.filter(known).reduce((a, b) => a + b, 0);
const busy = l => l.statistics.calls_per_second > 0;

/// All services by their names, from the whole graph.
function all(box, graph) {
  const services = new Map();
  for (const n of graph.nodes) {
    const name = n.service ?? n.key;
    services.set(name, [...(services.get(name) ?? []), n]);
  }
  const rows = [...services].map(([name, nodes]) => ({ name, nodes, calls: sum(nodes.map(n => n.calls_per_second)) })).sort((a, b) => b.calls - a.calls);
  const mean = r => { const nodes = r.nodes.filter(n => known(n.response_mean_ms)); return nodes.length ? sum(nodes.map(n => n.response_mean_ms * (n.calls_per_second || 1e-9))) / sum(nodes.map(n => n.calls_per_second || 1e-9)) : null; };
  fill(box, section("Services", `${rows.length}`, rows.length ? table([
    ["service", "l", r => el("a", { href: hash("service", r.name) }, r.name)], ["instances", "", r => r.nodes.length], ["calls/s", "", r => rate(r.calls)],
    ["mean ms", "", r => ms(mean(r))], ["slowest ms", "", r => ms(Math.max(...r.nodes.map(n => n.response_mean_ms ?? -Infinity), -Infinity) > 0 ? Math.max(...r.nodes.map(n => n.response_mean_ms ?? 0)) : null)],
    ["errors", "", r => pct(r.calls > 0 ? sum(r.nodes.map(n => (n.error_rate ?? 0) * n.calls_per_second)) / r.calls : 0)], ["in flight", "", r => num(sum(r.nodes.map(n => n.in_flight)), 0)],
  ], rows, { key: r => r.name }) : empty("No service is known yet.")));
}

function one(box, graph, routing, name) {
  const nodes = graph.nodes.filter(n => (n.service ?? n.key) === name || n.key === name).sort(byCalls);
  const own = new Set(nodes.map(n => n.key));
  const service = key => graph.nodes.find(n => n.key === key)?.service ?? key;
  const into = graph.links.filter(l => own.has(l.destination)), out = graph.links.filter(l => own.has(l.source));
  const tables = routing.tables.filter(t => t.service === name || own.has(t.source));
  if (!nodes.length) {
    fill(box, section(name, null, empty(`There is no service or node “${name}” in the mesh. `, el("a", { href: hash("service") }, "All services"))));
    return;
  }
  const calls = sum(nodes.map(n => n.calls_per_second)), timed = into.filter(l => busy(l) && known(l.statistics.latency_mean_ms));
  const weighted = timed.length ? sum(timed.map(l => l.statistics.latency_mean_ms * l.statistics.calls_per_second)) / sum(timed.map(l => l.statistics.calls_per_second)) : null;
  const card = (value, words) => el("div", { class: "card", "data-key": words }, el("b", {}, value), el("span", {}, words));
  const links = (those, end) => table([
    [end === "source" ? "from" : "to", "l", l => [el("a", { href: hash("service", service(l[end])) }, service(l[end])), " ", service(l[end]) !== l[end] && el("span", { class: "soft" }, l[end])]],
    [end === "source" ? "to" : "from", "l", l => l[end === "source" ? "destination" : "source"]],
    ["calls/s", "", l => rate(l.statistics.calls_per_second)], ["weight", "", shares, WEIGHT], ["mean ms", "", l => ms(l.statistics.latency_mean_ms)], ["p50 ms", "", l => ms(l.statistics.latency_p50_ms)],
    ["p99 ms", "", l => ms(l.statistics.latency_p99_ms)], ["jitter ms", "", l => ms(l.statistics.jitter_ms)], ["errors", "", l => pct(l.statistics.error_rate)], ["attention", "l", l => known(l.attention) ? bar(l.attention, true) : "–"],
  ], those.filter(busy).sort((a, b) => byCalls(a.statistics, b.statistics)).slice(0, 60), { key: l => l.source + " " + l.destination });
  fill(box,
    el("div", { class: "controls", "data-key": "head" }, el("h2", {}, name), el("a", { href: hash("service") }, "all services"), tables.slice(0, 8).map(t => el("a", { href: hash("explain", t.workload, t.cluster) }, `explain ${t.workload} → ${t.cluster}`))),
    el("div", { class: "cards", "data-key": "cards" }, card(nodes.length, "instances"), card(rate(calls), "calls a second"), card(ms(weighted), "mean latency, ms"), card(pct(Math.max(0, ...nodes.map(n => n.error_rate ?? 0))), "errors, the worst instance"), card(num(sum(nodes.map(n => n.in_flight)), 0), "in flight")),
    section("Instances", null, table([
      ["instance", "l", n => n.key], ["zone", "l", n => n.zone], ["health", "l", n => known(n.health) ? health(n.health) : "–"], ["calls/s", "", n => rate(n.calls_per_second)], ["model expects", "", n => rate(n.node_load), "calls a second that the model expects the instance to get in the next seconds"], ["in flight", "", n => num(n.in_flight, 0)],
      ["mean ms", "", n => ms(n.response_mean_ms)], ["p99 ms", "", n => ms(n.response_p99_ms)], ["errors", "", n => pct(n.error_rate)], ["CPU", "l", n => known(n.cpu_utilization) ? bar(n.cpu_utilization, true) : "–"], ["memory", "", n => pct(n.memory_utilization, 0)],
    ], nodes, { key: n => n.key })),
    section("Called by", null, into.some(busy) ? links(into, "source") : empty("Nobody has called it lately.")),
    section("Calls", null, out.some(busy) ? links(out, "destination") : empty("It has called nobody lately, as far as this sidecar sees.")));
}

export default {
  title: "Services",
  needs: ([name]) => ({ graph: known(name) ? "/graph?around=" + encodeURIComponent(name) : "/graph" }),
  draw(box, { graph, routing }, [name]) {
    if (known(name)) one(box, graph, routing, name);
    else all(box, graph);
  },
};
