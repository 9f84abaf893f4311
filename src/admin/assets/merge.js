// A mesh of services instead of instances: for those that are too large to be read otherwise.

import { known } from "./dom.js";

const WORST = ["unhealthy", "ejected", "drained", "probation", "healthy"];
const sum = values => values.filter(known).reduce((a, b) => a + b, 0);
const largest = values => { const all = values.filter(known); return all.length ? Math.max(...all) : null; };

/// The mean by how often each was called.
function mean(those, value, calls) {
  const timed = those.filter(t => known(value(t)) && calls(t) > 0);
  return timed.length ? sum(timed.map(t => value(t) * calls(t))) / sum(timed.map(calls)) : null;
}

function groups(those, key) {
  const by = new Map();
  for (const each of those) by.has(key(each)) ? by.get(key(each)).push(each) : by.set(key(each), [each]);
  return by;
}

/// `/graph` with a node for each service and a link for each pair of services that have any: calls are added up, latencies weighed
/// by them, and of errors and percentiles the worst is told. A service is in trouble where all of it is; one of several that is
/// shows as an error.
export function byService(graph) {
  const service = new Map(graph.nodes.map(n => [n.key, n.service ?? n.key]));
  const nodes = [...groups(graph.nodes, n => service.get(n.key))].map(([key, those]) => {
    const calls = n => n.calls_per_second ?? 0, worst = those.map(n => n.health).filter(known).sort((a, b) => WORST.indexOf(a) - WORST.indexOf(b));
    const health = worst.length && worst[0] !== "healthy" ? (worst.at(-1) === "healthy" ? "probation" : worst[0]) : worst[0] ?? null;
    const zones = [...new Set(those.map(n => n.zone).filter(known))];
    return { ...those[0], key, service: key, instances: those.length, zone: zones.length === 1 ? zones[0] : zones.sort().join(", ") || null, calls_per_second: sum(those.map(calls)), node_load: sum(those.map(n => n.node_load)),
      in_flight: sum(those.map(n => n.in_flight)), response_mean_ms: mean(those, n => n.response_mean_ms, calls), response_p99_ms: largest(those.map(n => n.response_p99_ms)), error_rate: largest(those.map(n => n.error_rate)),
      cpu_utilization: largest(those.map(n => n.cpu_utilization)), health };
  });
  const links = [...groups(graph.links, l => service.get(l.source) + "\n" + service.get(l.destination)).values()].map(those => {
    const calls = l => l.statistics.calls_per_second ?? 0, of = name => l => l.statistics[name];
    const statistics = Object.fromEntries(["latency_mean_ms", "latency_ewma_ms", "jitter_ms", "error_rate"].map(name => [name, mean(those, of(name), calls)]));
    for (const name of ["latency_p50_ms", "latency_p90_ms", "latency_p99_ms"]) statistics[name] = largest(those.map(of(name)));
    for (const name of ["calls_per_second", "in_flight", "samples"]) statistics[name] = sum(those.map(of(name)));
    return { source: service.get(those[0].source), destination: service.get(those[0].destination), attention: null, shares: null, statistics };
  });
  return { ...graph, nodes, links, total: { ...graph.total, nodes: nodes.length, links: links.length } };
}
