// What the proxy says, as it says it: `/events` for what changed, `/routing` and `/graph` for how things are.
//
// A page in the background lets its place at `/events` go. Where there is none to be had (few may listen), it asks every
// two seconds and tries again later.

const ASK_MS = 2000, AGAIN_MS = 15000, PATIENCE_MS = 5000, LOST_MS = 6000;
/// How many changes are kept.
const KEPT = 600;

export async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS), headers: { accept: "application/json" } });
  const body = await answer.json().catch(() => null);
  if (!answer.ok || body === null) throw Object.assign(new Error(body?.error ?? `${path}: ${answer.status}`), { status: answer.status, known: body?.known });
  return body;
}

export class Live {
  /// `tell(change)` with each generation, or with null where something may have changed; `state(word)` when the link changes.
  constructor(tell, state) {
    this.tell = tell;
    this.state = state;
    /// What changed, the oldest first.
    this.changes = [];
    this.heard = 0;
    document.addEventListener("visibilitychange", () => document.hidden ? this.stop() : this.start());
    if (!document.hidden) this.start();
  }

  start() {
    this.stop();
    this.listen();
    this.timer = setInterval(() => this.look(), ASK_MS);
    this.tell(null);
  }

  stop() {
    clearInterval(this.timer);
    this.source?.close();
    this.source = null;
  }

  listen() {
    this.tried = performance.now();
    const source = this.source = new EventSource("/events");
    source.addEventListener("generation", event => {
      this.heard = performance.now();
      this.state("live");
      this.add([JSON.parse(event.data)]);
      this.tell(this.changes[this.changes.length - 1]);
    });
    source.addEventListener("open", () => { this.heard = performance.now(); });
  }

  /// Nothing was heard for a while: ask, and try to listen again.
  look() {
    const now = performance.now();
    if (this.source?.readyState === EventSource.CLOSED && now - this.tried > AGAIN_MS) this.listen();
    if (now - this.heard > LOST_MS || this.source?.readyState === EventSource.CLOSED) this.tell(null);
  }

  /// How an answer that was asked for went.
  answered(well) {
    const listening = this.source?.readyState === EventSource.OPEN;
    this.state(!well ? "lost" : listening ? "live" : "asking");
  }

  /// Takes changes in; each generation is there once, and a proxy that began anew is a new story.
  add(changes) {
    const last = this.changes[this.changes.length - 1];
    const newest = changes[changes.length - 1];
    if (last && newest && newest.generation < last.generation && newest.made_at > last.made_at) this.changes = [];
    const seen = new Set(this.changes.map(c => c.generation));
    this.changes.push(...changes.filter(c => !seen.has(c.generation)));
    this.changes.sort((a, b) => a.generation - b.generation);
    this.changes.splice(0, this.changes.length - KEPT);
  }
}
