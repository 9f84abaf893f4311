// Where each node of the mesh stands: callers on the left, what they call on the right, replicas of a service together.
//
// A force layout would be found anew with each change and says nothing by left and right. Here a node's place follows from
// who calls whom alone, so it stays while numbers change; and it takes milliseconds for thousands of links.

const MAX_DEPTH = 12, SWEEPS = 4;
/// Distances, in units of one: between replicas, services, parts of a column, columns.
const GAP = 0.9, PART = 3.2, COLUMN = 5.5;

/// `nodes` are `{ key, service }`, `links` `{ source, destination }` by key, `aspect` the width of the picture by its height; gives a Map of key to `{ x, y, depth, rank }`.
export function layout(nodes, links, aspect) {
  const service = new Map(nodes.map(n => [n.key, n.service || n.key]));
  const blocks = new Map();
  for (const n of nodes) {
    const name = service.get(n.key);
    if (!blocks.has(name)) blocks.set(name, { name, keys: [], out: new Set(), in: new Set(), depth: 0, order: 0 });
    blocks.get(name).keys.push(n.key);
  }
  for (const l of links) {
    const [a, b] = [blocks.get(service.get(l.source)), blocks.get(service.get(l.destination))];
    if (a && b && a !== b) { a.out.add(b); b.in.add(a); }
  }
  const all = [...blocks.values()];
  depths(all);
  const columns = [];
  for (const b of all) (columns[b.depth] ??= []).push(b);
  order(columns.filter(Boolean));
  return place(columns.filter(Boolean), nodes.length, aspect);
}

/// The longest way from a service that nobody calls; a circle of calls is cut where the walk meets itself.
function depths(blocks) {
  const state = new Map();
  const sorted = [];
  const walk = start => {
    const stack = [[start, start.out.values()]];
    state.set(start, 1);
    while (stack.length) {
      const [block, rest] = stack[stack.length - 1];
      const { value: next, done } = rest.next();
      if (done) { stack.pop(); state.set(block, 2); sorted.push(block); }
      else if (!state.has(next)) { state.set(next, 1); stack.push([next, next.out.values()]); }
      // A call back up: it counts for nothing.
      else if (state.get(next) === 1) { block.out.delete(next); next.in.delete(block); }
    }
  };
  for (const b of [...blocks].sort((a, b) => a.in.size - b.in.size || (a.name < b.name ? -1 : 1))) if (!state.has(b)) walk(b);
  for (const b of sorted.reverse()) for (const next of b.out) next.depth = Math.min(MAX_DEPTH, Math.max(next.depth, b.depth + 1));
}

/// Services beside those that they talk with: each to the mean place of its neighbours, to and fro.
function order(columns) {
  const number = column => column.forEach((b, i) => { b.order = (i + 0.5) / column.length; });
  columns.forEach(column => { column.sort((a, b) => (a.name < b.name ? -1 : 1)); number(column); });
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const forth = sweep % 2 === 0;
    for (const column of forth ? columns : [...columns].reverse()) {
      for (const b of column) {
        const beside = [...(forth ? b.in : b.out)];
        b.wish = beside.length ? beside.reduce((sum, o) => sum + o.order, 0) / beside.length : b.order;
      }
      column.sort((a, b) => a.wish - b.wish || (a.name < b.name ? -1 : 1));
      number(column);
    }
  }
}

/// Columns that are too high for the picture's shape go on beside themselves.
function place(columns, count, aspect) {
  const high = Math.max(10, Math.sqrt(count * 6 / aspect));
  const at = new Map();
  let x = 0, tallest = 0;
  const placed = [];
  for (const [depth, column] of columns.entries()) {
    let part = [], y = 0;
    const end = () => { if (part.length) { placed.push({ part, height: y - GAP, x, depth }); tallest = Math.max(tallest, y - GAP); part = []; y = 0; x += PART; } };
    for (const block of column) {
      // Many replicas stand in rows.
      const wide = count > 150 ? Math.ceil(Math.sqrt(block.keys.length / 2)) : 1;
      const rows = Math.ceil(block.keys.length / wide);
      if (part.length && y + rows > high) end();
      block.keys.sort().forEach((key, i) => part.push({ key, dx: i % wide, y: y + Math.floor(i / wide) }));
      y += rows + GAP;
    }
    end();
    x += COLUMN - PART;
  }
  // Small meshes are stretched to the picture's shape, or a few nodes would stand in one corner of it.
  const width = Math.max(1, x - COLUMN), height = Math.max(1, tallest);
  const stretch = Math.max(0.08, Math.min(6, height * aspect / width));
  for (const { part, height: own, x: left, depth } of placed) {
    for (const { key, dx, y } of part) at.set(key, { x: left * stretch + dx * 0.8, y: -(y + (height - own) / 2), depth, rank: at.size });
  }
  return at;
}
