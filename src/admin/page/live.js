// Data from the server: circuits, its clock, its store, and the stream that keeps them fresh. Owns
// the data; `watch` registers callbacks for changes. Draws nothing.

const OLD_AFTER_MS = 3000; // the server ticks each second
const HUNG_AFTER_MS = 10_000;
const HOUR_MS = 3_600_000;
const RATE_OVER_MS = 10_000;

const live = {
  circuits: new Map(), // by name; each with `history` and `samples`
  known: false, // whether the circuits were ever read
  locked: false, // whether reading needs a token that is not here
  status: null,
  store: null,
  latest: null, // the newest entry since the page was opened
  stream: "connecting", // "open", "waiting"
  retryAt: 0,
};
const watchers = { any: [], moved: [], entry: [] };
const watch = (what, callback) => watchers[what].push(callback);
const tell = (what, ...about) => watchers[what].forEach((callback) => callback(...about));

// Times are the server's; the browser's clocks only measure the time since its last message.

const clock = { now_ms: 0, date: Date.now(), steady: performance.now() };
/// Time since the server's last message, by the larger of two clocks: one stands still while a
/// machine sleeps, the other can be set.
function silence() {
  return Math.max(0, Date.now() - clock.date, performance.now() - clock.steady);
}
function serverNow() {
  return clock.now_ms ? clock.now_ms + silence() : 0;
}
function heard(now_ms) {
  if (!Number.isFinite(now_ms)) return;
  clock.now_ms = now_ms;
  clock.date = Date.now();
  clock.steady = performance.now();
}
const isOld = () => silence() > OLD_AFTER_MS;

/// When the stream last ticked. The data can be newer, because the page also polls.
let ticked = { date: Date.now(), steady: performance.now() };
const streamSilence = () => Math.max(0, Date.now() - ticked.date, performance.now() - ticked.steady);
function tick(now_ms) {
  heard(now_ms);
  ticked = { date: clock.date, steady: clock.steady };
  live.stream = "open";
}

// Circuits

/// Replaces all circuits: those that are not in a complete list are gone.
function takeAll({ now_ms, circuits, incomplete }) {
  heard(now_ms);
  const names = new Set(circuits.map((c) => c.name));
  if (!incomplete) for (const name of live.circuits.keys()) if (!names.has(name)) live.circuits.delete(name);
  for (const c of circuits) take(c, live.known);
  live.known = true;
  tell("any");
}

/// Updates one circuit; calls and rejections since the last update are added to its history.
function take(c, telling = true) {
  const before = live.circuits.get(c.name);
  // A reply can be older than what the stream has sent meanwhile. If it is much older, the clock
  // was set back.
  if (before && c.now_ms < before.now_ms && before.now_ms - c.now_ms < HOUR_MS) {
    if (!c.history) return before;
    c = { ...before, history: c.history };
  }
  c.history = c.history ? joined(before?.history ?? [], c.history) : counted(before, c);
  c.samples = sampled(before?.samples ?? [], c);
  live.circuits.set(c.name, c);
  if (telling && before?.state !== c.state) tell("moved", c, before);
  return c;
}

/// The server's history, after the kept slices that are older.
function joined(kept, fresh) {
  if (!fresh.length) return kept;
  return [...kept.filter((slice) => slice.at_ms < fresh[0].at_ms), ...fresh];
}

/// The history, with the growth of the totals since the last update.
function counted(before, c) {
  const history = before?.history ?? [];
  const at_ms = Math.floor(c.now_ms / SLICE_MS) * SLICE_MS;
  const slice = { at_ms };
  let grown = 0;
  for (const key of COUNTED) {
    slice[key] = before ? Math.max(0, c[`${key}_total`] - before[`${key}_total`]) : 0;
    grown += slice[key];
  }
  if (grown) {
    const last = history.at(-1);
    if (last?.at_ms === at_ms) add(last, slice);
    else history.push(slice);
  }
  while (history.length && history[0].at_ms < c.now_ms - HOUR_MS - SLICE_MS) history.shift();
  return history;
}

function sampled(samples, c) {
  const last = samples.at(-1);
  const now = { at: c.now_ms, rejected: c.rejected_total, made: c.successes_total + c.failures_total + c.ignored_total };
  if (last && (now.rejected < last.rejected || now.made < last.made || now.at < last.at)) samples = [];
  if (!last || now.at > last.at) samples.push(now);
  while (samples.length > 2 && samples[1].at < c.now_ms - RATE_OVER_MS) samples.shift();
  return samples;
}

/// Calls per second over the last 10 s, made and rejected. Numbers that did not change are not
/// sent, so growth counts as recent even if the sample before it is old.
function perSecond(c) {
  const now = clock.now_ms;
  const since = now - RATE_OVER_MS;
  const from = c.samples.findLast((sample) => sample.at <= since) ?? c.samples[0];
  if (now - from.at >= 2000) {
    const to = c.samples.at(-1);
    const over = (now - Math.max(from.at, since)) / 1000;
    return { made: (to.made - from.made) / over, rejected: (to.rejected - from.rejected) / over };
  }
  // There are too few samples: use the last whole slice.
  const at_ms = Math.floor(now / SLICE_MS - 1) * SLICE_MS;
  const slice = c.history.find((slice) => slice.at_ms === at_ms);
  const over = SLICE_MS / 1000;
  return slice ? { made: (slice.successes + slice.failures + slice.ignored) / over, rejected: slice.rejected / over } : { made: 0, rejected: 0 };
}

/// Calls per second of all circuits together, summed up once per tick.
const fleet = { now_ms: -1, perSecond: 0 };
function fleetPerSecond() {
  if (fleet.now_ms === clock.now_ms) return fleet.perSecond;
  let all = 0;
  for (const c of live.circuits.values()) {
    const { made, rejected } = perSecond(c);
    all += made + rejected;
  }
  Object.assign(fleet, { now_ms: clock.now_ms, perSecond: all });
  return all;
}

// The stream

let source = null;
let failures = 0;
let polledAt = 0;
let answeredAt = -Infinity; // when the server, and not a proxy, answered a request
const serverAnswers = () => performance.now() - answeredAt < HUNG_AFTER_MS;
let connectedAt = 0;

const HEARD = {
  circuits(all) {
    failures = 0;
    takeAll(all);
    tick(all.now_ms);
    readStatus();
  },
  circuit: (c) => take(c),
  gone: ({ name }) => live.circuits.delete(name),
  entry(entry) {
    live.latest = entry;
    tell("entry", entry);
  },
  store(store) {
    live.store = store;
  },
  tick: ({ now_ms }) => tick(now_ms),
};

async function connect() {
  source?.abort();
  const mine = (source = new AbortController());
  live.stream = "connecting";
  connectedAt = performance.now();
  const heard = (kind, data) => {
    if (source !== mine || !Object.hasOwn(HEARD, kind)) return;
    HEARD[kind](data);
    tell("any");
  };
  const token = storedToken();
  const status = await listen("events", mine.signal, heard);
  if (source !== mine) return;
  if (status === 401 && storedToken() === token) lock();
  else retry();
}

/// Reading needs a token, and this tab has no valid one.
function lock() {
  source?.abort();
  source = null;
  remembered.write("sessionStorage", tokenKey, "");
  Object.assign(live, { locked: true, known: false, status: null, store: null, latest: null });
  live.circuits.clear();
  tell("any");
}

/// Stores a token if the server accepts it; otherwise returns what is wrong.
async function logIn(token) {
  const reply = await ask("status", { token });
  if (!reply.ok) return reply.problem;
  remembered.write("sessionStorage", tokenKey, token);
  Object.assign(live, { locked: false, status: reply.data, store: reply.data.store });
  connectNow();
  return "";
}

function retry() {
  if (live.stream === "waiting") return;
  source?.abort();
  source = null;
  const wait = Math.min(15_000, 1000 * 2 ** failures) * (0.75 + Math.random() / 2);
  failures += 1;
  live.stream = "waiting";
  live.retryAt = performance.now() + wait;
  tell("any");
}

/// Runs once a second: reconnects and polls while the stream is silent.
function watchStream() {
  if (live.locked) return;
  if (live.stream === "waiting" && performance.now() >= live.retryAt) connect();
  else if (live.stream !== "waiting" && Math.min(streamSilence(), performance.now() - connectedAt) > HUNG_AFTER_MS) retry();
  // A proxy can hold back streams but let plain requests through.
  if (streamSilence() > OLD_AFTER_MS && performance.now() - polledAt > 5000) poll();
}

async function poll() {
  polledAt = performance.now();
  const reply = await ask("circuits?history=60");
  if (reply.ok && Array.isArray(reply.data?.circuits) && streamSilence() > OLD_AFTER_MS) takeAll(reply.data);
  else if (reply.answered) readStatus();
}

function connectNow() {
  if (live.locked) return;
  failures = 0;
  connect();
  poll();
}

async function readStatus() {
  const token = storedToken();
  const reply = await ask("status", { token });
  // The answer is about a token that was replaced in the meantime.
  if (storedToken() !== token) return;
  if (reply.status === 401) lock();
  if (!reply.ok) return;
  // Forget a token that the server no longer knows.
  if (!reply.data.you.role) remembered.write("sessionStorage", tokenKey, "");
  live.status = reply.data;
  live.store = reply.data.store;
  tell("any");
}

function startLive() {
  connect();
  readStatus();
  setInterval(watchStream, 1000);
  setInterval(() => !isOld() && readStatus(), 15_000);
  const wake = () => !document.hidden && streamSilence() > OLD_AFTER_MS && connectNow();
  document.addEventListener("visibilitychange", wake);
  addEventListener("online", wake);
  addEventListener("pageshow", (event) => event.persisted && connectNow());
}
