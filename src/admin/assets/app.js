// The page's frame: which view is shown, what it needs, and when it is drawn anew.
//
// A view is `{ title, needs(params, routing), draw(box, answers, params, context), leave() }`: `needs` names the paths to ask for by
// what they are called, and with each generation the view is drawn from the answers. `/routing?brief=1` is always among them.
// What may be missing is named with what stands for it then: `[path, error => instead]`.

import { clock, el, fill, hash, known, num, pct } from "./dom.js";
import { Live, get } from "./live.js";
import canary from "./canary.js";
import explain from "./explain.js";
import mesh from "./mesh.js";
import model from "./model.js";
import requests from "./requests.js";
import service from "./service.js";
import timeline from "./timeline.js";

const VIEWS = { mesh, service, explain, requests, timeline, canary, model };
const HISTORY = 256;

const box = document.getElementById("view");
let shown = null, last = null, routing = null, version = null, busy = false, again = false, rest = 0, timer = 0;

function place() {
  const [name, ...params] = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  return { name: Object.hasOwn(VIEWS, name ?? "") ? name : "mesh", params };
}

function enter() {
  const { name, params } = place();
  if (shown?.name !== name || shown.params.join("/") !== params.join("/")) {
    if (shown) VIEWS[shown.name].leave?.();
    box.replaceChildren();
    shown = { name, params };
    last = null;
    rest = 0;
    document.title = `${VIEWS[name].title} · Pathloom`;
  }
  fill(document.getElementById("nav"), Object.entries(VIEWS).map(([key, view], i) => el("a", { href: hash(key), "aria-current": key === name && "page", title: `key ${i + 1}`, "data-key": key }, view.title)));
  refresh();
}

/// Asks for what the view needs and draws it; at most once at a time, and never for more than a fifth of the time.
async function refresh() {
  if (busy) { again = true; return; }
  const wait = rest - performance.now();
  if (wait > 0) {
    timer ||= setTimeout(() => { timer = 0; refresh(); }, wait);
    return;
  }
  busy = true;
  again = false;
  const asked = shown, begun = performance.now();
  let well = true;
  try {
    const first = live.changes.length < 2;
    const needs = { routing: "/routing?brief=1" + (first ? `&history=${HISTORY}` : ""), ...VIEWS[asked.name].needs(asked.params, routing) };
    const answers = Object.fromEntries(await Promise.all(Object.entries(needs).map(async ([key, path]) => [key, await (Array.isArray(path) ? get(path[0]).catch(path[1]) : get(path))])));
    if (first) live.add(answers.routing.history ?? []);
    // Another version has another page.
    if (version !== null && version !== answers.routing.version) location.reload();
    version = answers.routing.version;
    routing = answers.routing;
    if (shown === asked) last = answers;
  } catch (error) {
    if (error.status === 404 && known(error.known)) missing(error);
    else { well = false; console.warn(error); }
  }
  live.answered(well);
  busy = false;
  if (well && shown === asked && last) draw();
  if (shown === asked) rest = performance.now() + 4 * (performance.now() - begun);
  if (again || shown !== asked) refresh();
}

function draw() {
  if (!last) return;
  frame(last.routing);
  VIEWS[shown.name].draw(box, last, shown.params, context);
}

function missing(error) {
  last = null;
  fill(box, el("section", { "data-key": "missing" }, el("p", { class: "empty" }, error.message)));
}

function frame(r) {
  const g = r.generation, out = [];
  const fact = (name, value, kind) => out.push(el("span", { class: kind, "data-key": name }, name + " ", el("b", {}, value)));
  fact("node", r.node);
  fact("mode", r.mode);
  if (g) {
    fact("generation", String(g.id));
    fact("made", clock(g.made_at) + " UTC");
    fact("cause", g.cause);
    fact("rung", g.rung, g.rung === "model" ? "good" : "warn");
    fact("model", g.model ? `${g.model.name} on ${g.model.engine}` : "none");
  } else fact("generation", "none yet", "warn");
  fact("model error", pct(r.model_error, 0));
  fact("pathloom", r.version);
  fill(document.getElementById("facts"), ...out);

  const banner = (key, kind, ...words) => el("div", { class: "banner " + kind, "data-key": key }, ...words);
  const banners = [];
  if (r.reload_refused) banners.push(banner("reload", "bad", el("b", {}, `The configuration that was loaded at ${clock(r.reload_refused.at)} is wrong; the one before it stays in force.`), el("pre", {}, r.reload_refused.text)));
  if (g?.expired) banners.push(banner("expired", "bad", el("b", {}, "This generation has expired: "), "peak EWMA steers until another one is made."));
  if (g && g.rung !== "model") banners.push(banner("rung", "warn", el("b", {}, `The model does not steer (${g.rung}): `), g.rung_reason));
  else if (r.scorer?.not_ready) banners.push(banner("scorer", "warn", el("b", {}, "No scores: "), r.scorer.not_ready));
  if (r.canary?.retreat) banners.push(banner("retreat", "bad", el("b", {}, "The model has lost its trial: "), `${r.canary.retreat.reason} (${r.canary.retreat.code})`));
  if (r.identity?.alarm) banners.push(banner("identity", "bad", el("b", {}, "Identity: "), r.identity.alarm.text));
  for (const s of (r.discovery ?? []).filter(s => s.state === "failing").slice(0, 3)) banners.push(banner(`discovery ${s.cluster} ${s.source}`, "warn", el("b", {}, `${s.source} fails to say where ${s.cluster} is: `), `${s.reason}, for ${num(s.failing_for_s, 0)} s; its last good endpoints are kept`));
  for (const t of r.tables.filter(t => t.panic).slice(0, 3)) banners.push(banner(`panic ${t.workload} ${t.cluster}`, "bad", el("b", {}, `${t.workload} → ${t.cluster}: `), "too few endpoints are well, so health does not count"));
  fill(document.getElementById("banners"), ...banners);
}

const link = document.getElementById("link");
const WORDS = { live: ["live", "good"], asking: ["asking every 2 s", "warn"], lost: ["no answer; what is shown is old", "bad"] };
function state(word) {
  const [words, kind] = WORDS[word];
  if (link.textContent !== words) link.textContent = words;
  link.className = "tag " + kind;
  document.body.classList.toggle("stale", word === "lost");
}

const typing = target => target.closest("input, select, textarea") !== null;
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  const name = Object.keys(VIEWS)[Number(event.key) - 1];
  const search = box.querySelector("input[type=search]");
  if (name) location.hash = hash(name);
  else if (event.key === "/" && search) search.focus();
  else return;
  event.preventDefault();
});

const live = new Live(() => shown && refresh(), state);
/// What views may use beside their answers.
const context = { live, redraw: draw, ask: refresh };
addEventListener("hashchange", enter);
enter();
