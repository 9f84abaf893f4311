// Latency as colour: viridis (Smith and van der Walt, matplotlib), which rises evenly in lightness and so can be read by
// everybody, in print and without colours, too. On a light page the slow end is the dark one, on a dark page the light one:
// what is slow stands out on both. The ends that would vanish on the page are left out.

const VIRIDIS = [
  [68, 1, 84], [72, 26, 108], [71, 47, 125], [65, 68, 135], [57, 86, 140], [49, 104, 142], [42, 120, 142], [35, 136, 142],
  [31, 152, 139], [34, 168, 132], [53, 183, 121], [84, 197, 104], [122, 209, 81], [165, 219, 54], [210, 226, 27], [253, 231, 37],
];
/// The parts of the scale that are used, from fast to slow.
const LIGHT = [0.74, 0], DARK = [0.3, 1];

function viridis(t) {
  const x = Math.min(1, Math.max(0, t)) * (VIRIDIS.length - 1), i = Math.min(VIRIDIS.length - 2, Math.floor(x));
  return VIRIDIS[i].map((v, c) => Math.round(v + (VIRIDIS[i + 1][c] - v) * (x - i)));
}

const dark = matchMedia("(prefers-color-scheme: dark)");
/// Calls back when the reader's preference changes.
export const onTheme = callback => dark.addEventListener("change", callback);

let known = null;
dark.addEventListener("change", () => { known = null; });

/// The colours of the page that are needed where no stylesheet reaches.
export function theme() {
  return known ??= colours();
}

function colours() {
  const of = dark.matches
    ? { page: "#1b1e22", ink: "#e6e7e9", soft: "#a2a9b3", line: "#343940", node: "#8b929c", bad: "#ff9d8f", accent: "#8aa2ff", unknown: "#59606a", dim: "#2a2e34" }
    : { page: "#ffffff", ink: "#1d2024", soft: "#5c626b", line: "#dfe1e4", node: "#7b828c", bad: "#b3261e", accent: "#2f4bd0", unknown: "#b9bec5", dim: "#e9ebed" };
  return { ...of, dark: dark.matches };
}

const STEPS = [1, 2, 5];
function step(v, up) {
  const power = 10 ** Math.floor(Math.log10(v));
  const steps = [...STEPS, 10].map(s => s * power);
  return up ? steps.find(s => s >= v * 0.999) ?? 10 * power : [...steps].reverse().find(s => s <= v * 1.001) ?? power;
}

/// A scale over these latencies in milliseconds, by their logarithm; its ends are round numbers, so that it rarely changes.
export function scale(values) {
  const all = values.filter(v => v > 0).sort((a, b) => a - b);
  let low = all.length ? step(all[Math.floor(all.length * 0.02)], false) : 1;
  let high = all.length ? step(all[Math.min(all.length - 1, Math.ceil(all.length * 0.995))], true) : 100;
  if (high < low * 10) high = low * 10;
  low = Math.max(low, 0.001);
  const [from, to] = dark.matches ? DARK : LIGHT;
  const at = v => Math.min(1, Math.max(0, Math.log(v / low) / Math.log(high / low)));
  return {
    low, high,
    // Premultiplied, as sigma's blending wants it.
    of: (v, alpha = 1) => v > 0 ? `rgba(${viridis(from + (to - from) * at(v)).map(c => Math.round(c * alpha)).join()},${alpha})` : theme().unknown,
    ramp: () => "linear-gradient(to right, " + [0, 0.25, 0.5, 0.75, 1].map(t => `rgb(${viridis(from + (to - from) * t).join()})`).join(", ") + ")",
  };
}
