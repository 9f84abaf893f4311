// The last requests as the access log says them, and one of them by its id: where it went, who chose, what was expected and
// what came, what made the generation that chose, and the candidates as they were then; where those are no longer kept, as they
// are now.

import { clock, el, empty, fill, hash, known, ms, num, pct, section, table } from "./dom.js";
import { candidates } from "./explain.js";
import { told, words } from "./timeline.js";

const LAST = 200, MAX_ROWS = 100, TRIES = 3, NOBODY = { answer: null, error: null, tries: 0, past: null, why: null, missed: 0 };
const wish = { text: "", failed: false, hold: false };
/// The request that is looked at. What is over stays as it is, so it is asked for once; not found, a few times.
let one = { id: null, ...NOBODY };
let held = null;

const failed = r => (r.reason && r.reason !== "redirected") || r.status >= 500 || r.grpc_status > 0;
const asked = r => r.method ? `${r.method} ${r.host}${r.path}` : `a connection, ${r.host || "–"}`;
const outcome = r => el("span", { class: "tag " + (failed(r) ? "bad" : "good") }, (failed(r) ? "✕ " : "✓ ") + (known(r.status) ? r.status : "no answer") + (r.grpc_status > 0 ? `, gRPC ${r.grpc_status}` : "") + (r.reason ? ` ${r.reason}` : ""));
const place = r => r.cluster && r.workload ? hash("requests", r.request_id, r.workload, r.cluster) : hash("requests", r.request_id);

/// Expected against what came: the bar is what was seen, the line what was expected.
function against(r, longest) {
  if (!known(r.upstream_ms)) return "–";
  const at = v => pct(Math.min(1, v / longest));
  return el("span", { class: "against", role: "img", "aria-label": `the answer began after ${ms(r.upstream_ms)} ms, expected ${ms(r.expected_ms)} ms` },
    el("i", { style: { width: at(r.upstream_ms) } }), known(r.expected_ms) && el("u", { style: { left: at(r.expected_ms) } }));
}
const factor = r => known(r.upstream_ms) && r.expected_ms > 0 ? `${num(r.upstream_ms / r.expected_ms)} ×` : "–";

function build(box, context) {
  const id = el("input", { type: "search", placeholder: "a request's id, or its beginning", "aria-label": "Find a request by its id", id: "id", size: "30" });
  const search = el("input", { type: "search", placeholder: "path, endpoint, reason", "aria-label": "Search the last requests", id: "search" });
  const check = (name, words) => { const c = el("input", { type: "checkbox", id: name }); c.checked = wish[name]; return [c, el("label", {}, c, words)]; };
  const [bad, badLabel] = check("failed", "only failed ones"), [hold, holdLabel] = check("hold", "hold still");
  search.value = wish.text;
  box.replaceChildren(el("div", { class: "controls" }, id, el("button", { type: "button", id: "find" }, "Explain"), search, badLabel, holdLabel, el("span", { class: "soft", id: "count" })), el("div", { id: "requests" }));
  const go = () => { if (id.value.trim()) location.hash = hash("requests", id.value.trim()); };
  id.addEventListener("keydown", event => { if (event.key === "Enter") go(); });
  box.querySelector("#find").addEventListener("click", go);
  search.addEventListener("input", () => { wish.text = search.value; context.redraw(); });
  bad.addEventListener("change", () => { wish.failed = bad.checked; held = null; context.ask(); });
  hold.addEventListener("change", () => { wish.hold = hold.checked; if (!hold.checked) held = null; context.redraw(); });
}

function list(box, answer) {
  held = wish.hold && held ? held : answer;
  const needles = wish.text.toLowerCase().split(/\s+/).filter(Boolean);
  const those = held.requests.filter(r => (!wish.failed || failed(r)) && needles.every(n => `${r.request_id} ${r.workload} ${r.cluster} ${asked(r)} ${r.endpoint} ${r.status} ${r.reason} ${r.policy} ${r.client}`.toLowerCase().includes(n)));
  const longest = Math.max(1e-9, ...those.slice(0, MAX_ROWS).flatMap(r => [r.upstream_ms ?? 0, r.expected_ms ?? 0]));
  box.querySelector("#count").textContent = `${those.length} of the last ${held.requests.length}; ${held.kept} are kept`;
  const none = held.note ?? (held.requests.length ? "Nothing fits the search." : wish.failed ? "No request that is kept has failed." : "No request has come to its end yet.");
  fill(box.querySelector("#requests"), section("The last requests", "newest first, from the access log; a choice explains one", those.length ? table([
    ["began", "l", r => el("a", { href: place(r), title: r.request_id }, clock(r.time) + (r.time ?? "").slice(19, 23))], ["answer", "l", outcome], ["took ms", "", r => ms(r.duration_ms), "from its head to its answer's last byte, here"], ["endpoint", "l", r => r.endpoint], ["from → to", "l", r => `${r.workload || "–"} → ${r.cluster || "no cluster"}`], ["asked", "l cut", r => asked(r)],
    ["upstream ▮ expected |", "l", r => against(r, longest), "when the endpoint's answer began, and when it was expected to"], ["x expected", "", factor, "so many times as long as expected"],
    ["tries", "", r => num(r.attempts, 0)], ["chosen by", "l", r => r.policy || "–"],
  ], those.slice(0, MAX_ROWS), { key: r => r.request_id }) : empty(none)));
}

function story({ request: r, chosen_by, meaning, help, generation, found_in }) {
  const row = (name, ...value) => [el("dt", {}, name), el("dd", {}, ...value)];
  const longest = Math.max(1e-9, r.upstream_ms ?? 0, r.expected_ms ?? 0);
  return section("The request", known(found_in) && found_in !== "memory" ? `from ${found_in}` : false, el("dl", { id: "story", class: "story" },
    row("id", el("code", {}, r.request_id)), r.trace_id ? row("trace", el("code", {}, r.trace_id)) : false, row("began", r.time),
    row("asked", `${asked(r)} (${r.protocol})`), row("by", `${r.workload || "–"} from ${r.client}`, Boolean(r.peer) && `, proven to be ${r.peer}`),
    row("route", r.cluster ? [r.route ? `${r.route}, ` : "", "to the cluster ", el("a", { href: hash("explain", r.workload, r.cluster) }, r.cluster)] : "none: it reached no cluster"),
    r.class ? row("class", r.class) : false, r.endpoint ? row("endpoint", el("b", {}, r.endpoint), `, chosen by ${chosen_by}`) : false,
    r.attempts > 1 ? row("tried", `${r.attempts} endpoints; this is the last one, and those before it failed`) : false,
    r.injected ? row("on purpose", `its route's fault did this to it: ${r.injected}`) : false,
    row("answer", outcome(r), ` after ${ms(r.duration_ms)} ms`),
    known(r.upstream_ms) ? row("upstream", against(r, longest), ` its answer began after ${ms(r.upstream_ms)} ms`, known(r.expected_ms) && r.expected_ms > 0 && [`; ${ms(r.expected_ms)} ms was expected, so it took `, el("b", {}, `${num(r.upstream_ms / r.expected_ms)} times`), " as long"]) : false,
    known(meaning) ? row("why it failed", el("b", { class: "bad" }, r.reason), `: ${meaning}`) : false, known(help) ? row("what to do", el("code", {}, help)) : false,
    row("generation", `#${r.generation}`, generation > r.generation ? `; ${generation - r.generation} have been published since` : generation < r.generation ? "; of a process before this one" : "")));
}

function explained(box, answers, context) {
  const back = el("a", { href: hash("requests") }, "the last requests");
  const { answer, error } = one;
  if (!answer) {
    fill(box, el("div", { class: "controls", "data-key": "head" }, el("h2", {}, one.id), back), section("The request", null, empty(error?.message ?? "It is looked for…"),
      (error?.known ?? []).length > 0 && el("ul", { class: "list" }, error.known.map(id => el("li", {}, el("a", { href: hash("requests", id) }, id))))));
    return;
  }
  const r = answer.request, past = one.past?.tables?.[0], now = answers.table?.tables?.[0], then = answer.then ?? context.live.changes.find(c => c.generation === r.generation);
  fill(box,
    el("div", { class: "controls", "data-key": "head" }, el("h2", {}, asked(r)), back),
    story(answer),
    r.cluster ? section(`What made generation #${r.generation}`, null, then ? el("ol", { class: "changes" }, el("li", { "data-key": String(then.generation) },
      el("span", {}, el("b", {}, `#${then.generation}`), " ", el("time", { datetime: then.made_at, class: "soft" }, clock(then.made_at))), el("span", {}, el("span", { class: "tag soft" }, then.cause), el("span", { class: "soft" }, ` by ${then.rung}`)), el("ul", {}, words(told([then])[0]))))
      : el("span", { class: "soft" }, "It is no longer remembered: the last 128 are, and beside them the last 128 in which something happened.")) : false,
    past ? candidates({ ...past, past: true }, null, r.endpoint, `the table that chose, as it was in generation #${r.generation}: observed is what was known when that was made`)
      : now ? candidates(now, answers.graph, r.endpoint, answers.routing.generation?.id === r.generation ? "the table that chose" : `the table that would choose now${one.why ? `; ${one.why}` : ""}`) : false);
}

export default {
  title: "Requests",
  needs: ([id, workload, cluster], routing) => {
    if (!known(id)) return { requests: `/requests?last=${LAST}` + (wish.failed ? "&failed=1" : "") };
    if (one.id !== id) one = { id, ...NOBODY };
    const needs = {};
    if (!one.answer && one.tries < TRIES) needs.request = ["/requests?id=" + encodeURIComponent(id), error => ({ error })];
    if (known(cluster)) {
      const pair = `workload=${encodeURIComponent(workload)}&cluster=${encodeURIComponent(cluster)}`;
      const r = one.answer?.request;
      // What is over stays as it is; what is not there will not come, but for a generation that ends at this moment.
      if (r && !one.past && one.missed < TRIES) needs.past = [`/routing?generation=${r.generation}&began=${encodeURIComponent(r.time)}&${pair}`, error => ({ error })];
      if (one.past) return needs;
      const service = routing?.tables.find(t => t.cluster === cluster)?.service;
      needs.table = [`/routing?${pair}`, () => null];
      needs.graph = "/graph" + (known(service) ? "?around=" + encodeURIComponent(service) : "");
    }
    return needs;
  },
  draw(box, answers, [id, , cluster], context) {
    if (!known(id)) {
      if (!box.querySelector("#requests")) build(box, context);
      if (answers.requests) list(box, answers.requests);
      return;
    }
    const said = answers.request;
    if (said && !one.answer) {
      if (said.error) { one.error = said.error; if (said.error.status === 404) one.tries++; }
      else one.answer = said;
      answers.request = null;
    }
    if (answers.past?.error) { one.missed++; one.why = answers.past.error.message; }
    else if (answers.past?.past) one.past = answers.past;
    answers.past = null;
    const r = one.answer?.request;
    // Its pair's place on the page is known only now.
    if (r?.cluster && r.workload && !known(cluster)) { location.replace(place({ ...r, request_id: id })); return; }
    explained(box, answers, context);
  },
  leave() { held = null; },
};
