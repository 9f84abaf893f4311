// Making and renewing what the page shows. Everything from the proxy goes in as text, never as markup.
//
// A view draws itself anew with each generation. `fill` changes only what differs, so that the keyboard's focus, a selection
// and what is unfolded stay where they are: parts with a `data-key` are found again by it, the others by their place.

export const known = v => v !== null && v !== undefined;
export const num = (v, digits = 1) => known(v) ? Number(v).toFixed(digits) : "–";
export const pct = (v, digits = 1) => known(v) ? (v * 100).toFixed(digits) + "%" : "–";
export const ms = v => known(v) ? v.toFixed(v < 10 ? 2 : v < 100 ? 1 : 0) : "–";
/// A rate a second, short.
export const rate = v => known(v) ? (v >= 9999.5 ? (v / 1000).toFixed(0) + "k" : v >= 999.5 ? (v / 1000).toFixed(1) + "k" : v.toFixed(v < 100 ? 1 : 0)) : "–";
export const clock = text => known(text) ? text.slice(11, 19) : "–";
export const hash = (...parts) => "#/" + parts.map(encodeURIComponent).join("/");

const SVG = "http://www.w3.org/2000/svg";

function make(e, attributes, children) {
  for (const [k, v] of Object.entries(attributes)) {
    if (!known(v) || v === false) continue;
    if (k === "style") Object.assign(e.style, v);
    else e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.flat(Infinity).filter(c => c !== false).map(c => known(c) ? c : "–"));
  return e;
}
export const el = (name, attributes = {}, ...children) => make(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => make(document.createElementNS(SVG, name), attributes, children);

/// Makes `parent` hold these children.
export function fill(parent, ...children) {
  const focused = document.activeElement;
  const wanted = make(parent.cloneNode(false), {}, children);
  renewChildren(parent, wanted);
  if (focused && focused !== document.activeElement && focused.isConnected && parent.contains(focused)) focused.focus({ preventScroll: true });
}

function renew(have, want) {
  if (have.nodeType === Node.TEXT_NODE) {
    if (have.data !== want.data) have.data = want.data;
    return;
  }
  for (const { name } of [...have.attributes]) if (!want.hasAttribute(name) && name !== "open") have.removeAttribute(name);
  for (const { name, value } of want.attributes) {
    // The policy lets no markup set a style, only scripts.
    if (name === "style") { if (have.style.cssText !== want.style.cssText) have.style.cssText = want.style.cssText; }
    else if (have.getAttribute(name) !== value) have.setAttribute(name, value);
  }
  // What another part looks after, or somebody is typing into.
  if (!have.hasAttribute("data-own") && have.nodeName !== "SELECT") renewChildren(have, want);
}

const keyOf = node => node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;

function renewChildren(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) if (keyOf(child) !== null) keyed.set(keyOf(child), child);
  let at = parent.firstChild;
  for (const want of [...wanted.childNodes]) {
    const key = keyOf(want);
    let have = key === null ? at : keyed.get(key);
    if (key === null) while (have && keyOf(have) !== null) have = have.nextSibling;
    if (have && have.nodeType === want.nodeType && have.nodeName === want.nodeName) {
      if (have === at) at = at.nextSibling;
      else parent.insertBefore(have, at);
      renew(have, want);
    } else {
      parent.insertBefore(want, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/// A bar for a share of one, with its number.
export const bar = (v, narrow) => [
  el("span", { class: narrow ? "bar narrow" : "bar" }, el("i", { style: { width: pct(Math.min(1, Math.max(0, v ?? 0))) } })),
  pct(v),
];

/// A table of rows by columns `[title, class, value of a row, what the title means]`; rows may have a `key` and a `class`.
export function table(columns, rows, { caption, key, rowClass } = {}) {
  return el("table", {},
    known(caption) && el("caption", { class: "soft" }, caption),
    el("thead", {}, el("tr", {}, columns.map(([title, kind, , meaning]) => el("th", { class: kind, scope: "col", title: meaning }, title)))),
    el("tbody", {}, rows.map(row => el("tr", { "data-key": key?.(row), class: rowClass?.(row) }, columns.map(([, kind, value]) => el("td", { class: kind }, value(row)))))));
}

const HEALTH = { healthy: ["good", "✓"], probation: ["warn", "◐"], drained: ["soft", "○"], ejected: ["bad", "✕"], unhealthy: ["bad", "✕"] };
/// A state by word and sign, so that colour is never all there is.
export function health(state) {
  const [kind, sign] = HEALTH[state] ?? ["soft", "?"];
  return el("span", { class: "tag " + kind }, sign + " " + state);
}
export const empty = (...words) => el("p", { class: "empty" }, ...words);
export const section = (title, note, ...children) => el("section", { "data-key": title }, el("div", { class: "head" }, el("h2", {}, title), known(note) && el("span", { class: "soft" }, note)), ...children);
