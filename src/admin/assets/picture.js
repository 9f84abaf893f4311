// The mesh as a picture: sigma.js draws, graphology holds the graph; here is what a node and a link look like.
//
// Colour is latency, width is calls a second, the number on a link is its weight: the part of what its source sends that it gets. What is in
// trouble has a sign before its name and a rim, not a colour alone.

import { known, ms, pct, rate } from "./dom.js";
import { layout } from "./layout.js";
import { onTheme, scale, theme } from "./colour.js";

/// Up to so many links are drawn with arrows, and answer to the pointer.
const ARROWS = 1500;
/// Of more links, so many of the busiest have their width; the others are thin lines, and their nodes plain points. A machine
/// that draws in software spends its time on the area that is drawn: so it draws a tenth of it.
const WIDE = 400;
/// Up to so many have their share beside them always; beyond, those of the chosen node.
const LABELS = 60;

/// Whether this browser can draw it at all.
export function possible() {
  const canvas = document.createElement("canvas");
  return Boolean(window.Sigma && window.graphology && (canvas.getContext("webgl2") || canvas.getContext("webgl")));
}

const font = "system-ui, sans-serif";
/// Pixels: around the picture, of a letter of a name; narrower than so much it is a narrow one. Up to so many nodes all have names.
const PADDING = 20, LETTER = 6.6, NARROW = 640, SMALL = 60;
const label = ({ key, service }) => service && service !== key && !key.startsWith(service + "@") ? `${service} ${key}` : key;
const called = l => l.statistics.calls_per_second > 0;
const latency = l => l.statistics.latency_mean_ms ?? l.statistics.latency_ewma_ms;
export const shares = l => l.shares ? Object.values(l.shares).map(v => pct(v, v < 0.0995 ? 1 : 0)).join(" · ") : null;
export const trouble = n => ["ejected", "unhealthy"].includes(n.health) ? "✕ " : n.error_rate > 0.02 || n.health === "probation" ? "! " : "";

export class Picture {
  constructor(box, { pick, tip }) {
    this.box = box;
    // For whoever looks at it from the console.
    box.picture = this;
    this.state = { chosen: null, over: null, found: null };
    this.shape = "";
    this.pick = pick;
    this.tip = tip;
    this.large = false;
    this.graph = new window.graphology.Graph({ type: "directed", multi: false });
    this.begin();
    onTheme(() => { if (this.sigma) this.paint(); });
  }

  /// Makes what draws, for a small mesh or a large one.
  begin() {
    const { box, pick, tip } = this, { rendering } = window.Sigma;
    const border = rendering.createNodeBorderProgram({
      borders: [{ size: { value: 0.22 }, color: { attribute: "rim" } }, { size: { fill: true }, color: { attribute: "color" } }],
    });
    this.sigma = new window.Sigma(this.graph, box, {
      allowInvalidContainer: true, zIndex: true, renderEdgeLabels: true, defaultNodeType: "rim",
      // Links that answer to the pointer are drawn twice.
      enableEdgeEvents: !this.large,
      nodeProgramClasses: { rim: border, point: rendering.NodePointProgram }, nodeHoverProgramClasses: { rim: border, point: rendering.NodePointProgram },
      edgeProgramClasses: { arrow: rendering.EdgeArrowProgram, line: rendering.EdgeRectangleProgram, thin: rendering.EdgeLineProgram },
      labelFont: font, labelSize: 12, edgeLabelSize: 11, labelDensity: 1, labelGridCellSize: 90, labelRenderedSizeThreshold: 2.5,
      stagePadding: PADDING, minCameraRatio: 0.03, maxCameraRatio: 2.5, minEdgeThickness: 0.8, hideLabelsOnMove: false,
      defaultDrawNodeLabel: nodeLabel, defaultDrawNodeHover: nodeHover, defaultDrawEdgeLabel: edgeLabel,
      nodeReducer: (key, data) => this.node(key, data), edgeReducer: (key, data) => this.edge(key, data),
    });
    // Sigma finds what is under the pointer by a pixel that it reads back, which waits until everything is drawn.
    if (this.large) this.sigma.getNodeAtPosition = at => this.nodeAt(at);
    const over = key => {
      box.classList.toggle("over", key !== null);
      // To dim all others of thousands under each node that the pointer passes would make it stutter; a click does it.
      if (this.large) return;
      this.state.over = key;
      this.sigma.refresh({ skipIndexation: true });
    };
    this.sigma.on("enterNode", ({ node, event }) => { over(node); tip({ node }, event); });
    this.sigma.on("leaveNode", () => { over(null); tip(null); });
    this.sigma.on("enterEdge", ({ edge, event }) => { box.classList.add("over"); tip({ link: edge }, event); });
    this.sigma.on("leaveEdge", () => { box.classList.remove("over"); tip(null); });
    this.sigma.on("clickNode", ({ node }) => pick(node));
    this.sigma.on("clickEdge", ({ edge }) => pick(this.graph.target(edge)));
    this.sigma.on("clickStage", () => pick(null));
    // Sigma takes any two clicks for a double one that come within 300 ms by its timer, wherever they are; and while a large mesh
    // is drawn no timer goes off. The system knows which are: by when they were made, and where.
    const mouse = this.sigma.getMouseCaptor();
    mouse.on("doubleClick", at => {
      if (at.original.detail > 1) return;
      at.preventSigmaDefault();
      mouse.emit("click", at);
    });
    this.sigma.on("beforeRender", () => { taken = []; });
    this.sigma.getCamera().on("updated", () => { this.moved = performance.now(); });
    this.sigma.on("afterRender", () => this.keepUp());
  }

  /// The node at a place of the picture: the one that is drawn last.
  nodeAt({ x, y }) {
    let found = null;
    this.graph.forEachNode(key => {
      const data = this.sigma.getNodeDisplayData(key);
      if (!data || data.hidden) return;
      const at = this.sigma.framedGraphToViewport(data);
      if (Math.hypot(at.x - x, at.y - y) <= this.sigma.scaleSize(data.size)) found = key;
    });
    return found;
  }

  /// Where this machine cannot draw so many links while they move (no graphics card), it leaves them out meanwhile.
  keepUp() {
    const now = performance.now(), gap = now - this.drawn;
    if (now - this.moved < 100 && gap < 1000) this.pace = (this.pace ?? gap) * 0.7 + gap * 0.3;
    this.drawn = now;
    if (this.pace > 60 && this.large && !this.sigma.getSetting("hideEdgesOnMove")) this.sigma.setSetting("hideEdgesOnMove", true);
  }

  /// Shows these nodes and links of `/graph`.
  show(nodes, links) {
    const drawn = links.filter(l => l.source !== l.destination);
    this.data = { nodes, links: drawn };
    const room = this.room(nodes);
    const shape = `${room.aspect.toFixed(1)}\n` + nodes.map(n => n.key).join(" ") + "\n" + drawn.map(l => l.source + " " + l.destination + (called(l) ? "!" : "")).join(" ");
    if (shape !== this.shape) {
      this.shape = shape;
      const busy = drawn.filter(called);
      const at = layout(nodes, busy.length ? busy : drawn, room.aspect);
      const graph = new window.graphology.Graph({ type: "directed", multi: false });
      const deepest = Math.max(0, ...[...at.values()].map(p => p.depth));
      for (const n of nodes) graph.mergeNode(n.key, { ...at.get(n.key), side: side(at.get(n.key), deepest, room), rim: "#0000" });
      for (const l of drawn) if (graph.hasNode(l.source) && graph.hasNode(l.destination)) graph.mergeEdgeWithKey(l.source + " " + l.destination, l.source, l.destination);
      // Nodes that are gone are neither chosen nor under the pointer.
      for (const which of ["chosen", "over"]) if (this.state[which] !== null && !graph.hasNode(this.state[which])) this.state[which] = null;
      this.graph = graph;
      const large = graph.size > ARROWS;
      if (large !== this.large) {
        this.large = large;
        this.pace = undefined;
        // What is over the picture would go with it.
        const over = [...this.box.querySelectorAll(":scope > :not(canvas)")].filter(e => !e.className.startsWith("sigma"));
        this.sigma.kill();
        this.begin();
        this.box.append(...over);
      }
      this.fillIn(graph);
      // First of all: whatever else is set makes sigma look at the graph that it has.
      this.sigma.setGraph(graph);
      this.leaveRoom(at, room);
    }
    this.paint();
  }

  /// How much of the picture is kept for names on the left and on the right, in pixels, and the shape of what is left.
  room(nodes) {
    const { width, height } = this.box.getBoundingClientRect();
    const longest = Math.max(0, ...nodes.map(n => label(n).length)) * LETTER + 16, narrow = width < NARROW;
    // In a narrow picture names stand above their nodes, so that there is room for the links.
    const beside = narrow ? longest / 2 : Math.min(longest, width * 0.24);
    const [left, right] = nodes.length > SMALL ? [8, narrow ? 8 : beside] : [beside, beside];
    const inner = { width: Math.max(60, width - 2 * PADDING - left - right), height: Math.max(60, height - 2 * PADDING - 24) };
    return { left, right, inner, narrow, many: nodes.length > SMALL, aspect: inner.width / inner.height };
  }

  leaveRoom(at, { left, right, inner }) {
    const xs = [...at.values()].map(p => p.x), ys = [...at.values()].map(p => p.y);
    if (!xs.length) { this.sigma.setCustomBBox(null); return; }
    const [west, east, south, north] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    // Units of the graph for a pixel, by whichever side is the longer one.
    const unit = Math.max((east - west) / inner.width, (north - south) / inner.height, 0.004);
    const [middle, half] = [(west + east) / 2, Math.max(east - west, inner.width * unit) / 2];
    this.sigma.setCustomBBox({ x: [middle - half - left * unit, middle + half + right * unit], y: [south - 4 * unit, north + 20 * unit] });
  }

  /// What each node and link looks like now.
  fillIn(graph) {
    const { nodes, links } = this.data, colours = theme();
    this.scale = scale(links.filter(called).map(latency));
    this.most = Math.max(1e-9, ...links.map(l => l.statistics.calls_per_second ?? 0));
    const byKey = new Map(nodes.map(n => [n.key, n])), byEnds = new Map(links.map(l => [l.source + " " + l.destination, l]));
    const small = nodes.length <= SMALL, busiest = Math.max(1e-9, ...nodes.map(n => n.calls_per_second ?? 0));
    graph.updateEachNodeAttributes((key, was) => {
      const n = byKey.get(key), sign = trouble(n);
      const grown = Math.sqrt((n.calls_per_second ?? 0) / busiest);
      return { ...was, label: sign + label(n), service: n.service ?? key, size: (small ? 7 : 3.2) + grown * (small ? 5 : 4), color: n.response_mean_ms > 0 ? this.scale.of(n.response_mean_ms) : colours.node,
        rim: sign ? colours.bad : colours.page, inTrouble: sign !== "", forceLabel: small || sign !== "", type: this.large && !sign ? "point" : "rim" };
    }, { attributes: ["type"] });
    const wide = this.large ? [...links.map(l => l.statistics.calls_per_second ?? 0)].sort((a, b) => b - a)[WIDE] ?? 0 : 0;
    graph.updateEachEdgeAttributes((key, was) => {
      const l = byEnds.get(key), calls = l.statistics.calls_per_second ?? 0;
      return { ...was, text: shares(l), size: calls > 0 ? (this.large ? 0.4 + Math.sqrt(calls / this.most) * 2.4 : 0.8 + Math.sqrt(calls / this.most) * (graph.size > LABELS * 2 ? 3 : 6)) : this.large ? 0.4 : 1,
        color: calls > 0 ? this.scale.of(latency(l), !this.large ? 1 : calls > wide ? 0.6 : 0.25) : colours.unknown, idle: calls <= 0, zIndex: calls > 0 ? 1 : 0, type: !this.large ? "arrow" : calls > wide ? "line" : "thin" };
      // The type does change with the size of the mesh; and told so, sigma takes all of it in at its next frame.
    }, { attributes: ["type"] });
  }

  paint() {
    this.sigma.setSettings({ labelColor: { color: theme().ink }, edgeLabelColor: { color: theme().ink } });
    if (this.data) this.fillIn(this.graph);
  }

  /// What the search found (a Set of keys; null is no search), and which node is chosen.
  point(chosen, found) {
    Object.assign(this.state, { chosen: chosen && this.graph.hasNode(chosen) ? chosen : null, found });
    this.sigma.refresh({ skipIndexation: true });
  }

  node(key, data) {
    const { chosen, over, found } = this.state, middle = over ?? chosen, colours = theme();
    const near = middle === null || key === middle || this.graph.areNeighbors(key, middle);
    if (!near || (middle === null && found && !found.has(key))) return { ...data, color: colours.dim, rim: colours.dim, size: this.large ? 2 : data.size, label: null, forceLabel: false, zIndex: 0 };
    const show = key === middle || (!this.large && ((found && found.size <= 40) || (middle !== null && this.graph.degree(middle) <= 40)));
    return { ...data, zIndex: 2, forceLabel: data.forceLabel || show, highlighted: key === chosen };
  }

  edge(key, data) {
    const { chosen, over, found } = this.state, middle = over ?? chosen, colours = theme();
    const [source, target] = this.graph.extremities(key);
    const near = middle === null || source === middle || target === middle;
    const hit = middle !== null || !found || found.has(source) || found.has(target);
    if (!near || !hit) return { ...data, color: colours.dim, size: Math.min(data.size, 2), hidden: this.large, label: null, zIndex: 0 };
    const labelled = data.text !== null && !data.idle && (middle !== null ? this.graph.degree(middle) <= LABELS : this.graph.size <= LABELS);
    return { ...data, label: labelled ? data.text : null, forceLabel: labelled, zIndex: middle !== null ? 2 : data.zIndex };
  }

  /// Goes to a node.
  goTo(key) {
    const at = this.sigma.getNodeDisplayData(key);
    if (at) this.sigma.getCamera().animate({ x: at.x, y: at.y, ratio: Math.min(this.sigma.getCamera().ratio, this.graph.order > 60 ? 0.35 : 0.8) }, { duration: 300 });
  }

  /// What a key does on the picture; whether it did something.
  key(name) {
    const camera = this.sigma.getCamera(), step = camera.ratio * 0.12, short = { duration: 150 };
    const to = { ArrowLeft: { x: camera.x - step }, ArrowRight: { x: camera.x + step }, ArrowUp: { y: camera.y + step }, ArrowDown: { y: camera.y - step } }[name];
    if (to) camera.animate(to, short);
    else if (name === "+" || name === "=") camera.animatedZoom(short);
    else if (name === "-") camera.animatedUnzoom(short);
    else if (name === "0") camera.animatedReset(short);
    else return false;
    return true;
  }

  end() {
    this.sigma.kill();
    this.sigma = null;
  }
}

/// Where a node's name stands: where links are not.
function side({ depth }, deepest, { many, narrow }) {
  if (many) return "right";
  if (narrow) return "above";
  return depth === deepest ? "right" : depth === 0 ? "left" : "above";
}

/// What is written already in this frame: a name that would lie on another is left out until there is room.
let taken = [];
function free(context, words, left, top, height, force) {
  const right = left + context.measureText(words).width, bottom = top + height;
  if (!force && taken.some(t => left < t.right && right > t.left && top < t.bottom && bottom > t.top)) return false;
  taken.push({ left, right, top, bottom });
  return true;
}

/// A text with a rim in the page's colour, so that links beneath leave it readable.
function text(context, words, x, y) {
  const { page, ink } = theme();
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeStyle = page;
  context.strokeText(words, x, y);
  context.fillStyle = ink;
  context.fillText(words, x, y);
}

function nodeLabel(context, data, settings) {
  // The chosen one's name is on the layer above.
  if (!data.label || data.highlighted) return;
  context.font = `${data.inTrouble ? "600" : "400"} ${settings.labelSize}px ${settings.labelFont}`;
  const wide = context.measureText(data.label).width;
  const x = data.side === "above" ? data.x - wide / 2 : data.side === "left" ? data.x - data.size - 5 - wide : data.x + data.size + 5;
  const y = data.side === "above" ? data.y - data.size - 6 : data.y + settings.labelSize / 3;
  if (free(context, data.label, x, y - settings.labelSize, settings.labelSize + 2, data.forceLabel)) text(context, data.label, x, y);
}

function nodeHover(context, data, settings) {
  const { page, accent } = theme();
  context.beginPath();
  context.arc(data.x, data.y, data.size + 3, 0, Math.PI * 2);
  context.fillStyle = page;
  context.fill();
  context.lineWidth = 2.5;
  context.strokeStyle = accent;
  context.stroke();
  nodeLabel(context, { ...data, highlighted: false, forceLabel: true }, settings);
}

function edgeLabel(context, edge, source, target, settings) {
  if (!edge.label) return;
  // Links of one source stand in a row, and each source's row elsewhere, or numbers would lie on each other where links cross.
  const part = 0.24 + 0.11 * (source.rank % 5), x = source.x + (target.x - source.x) * part, y = source.y + (target.y - source.y) * part;
  context.font = `500 ${settings.edgeLabelSize}px ${settings.edgeLabelFont}`;
  const left = x - context.measureText(edge.label).width / 2, size = settings.edgeLabelSize;
  if (free(context, edge.label, left, y - size * 0.6, size * 1.1, false)) text(context, edge.label, left, y + size / 3);
}

/// A link in words.
export function inWords(l) {
  const s = l.statistics;
  return [
    `mean ${ms(s.latency_mean_ms)} ms, p99 ${ms(s.latency_p99_ms)} ms, jitter ${ms(s.jitter_ms)} ms`,
    `${rate(s.calls_per_second)} calls/s, ${pct(s.error_rate)} errors, ${known(s.in_flight) ? s.in_flight.toFixed(0) : "–"} in flight`,
    `weight ${shares(l) ?? "–"}, attention ${pct(l.attention)}`,
  ];
}
