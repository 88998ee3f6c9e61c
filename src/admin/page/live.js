// What the server says: circuits, its clock, its store; the stream that keeps them fresh, and commands.
// Owns all that is known; `watch` calls back when something changed. Draws nothing.

const base = location.pathname.replace(/\/?$/, "/");
const OLD_AFTER_MS = 3000; // the server ticks each second
const HUNG_AFTER_MS = 10_000;
const HOUR_MS = 3_600_000;
const RATE_OVER_MS = 10_000;

const live = {
  circuits: new Map(), // by name; each with `history` and `samples`
  known: false, // whether the circuits were ever read
  status: null,
  store: null,
  latest: null, // the newest entry since the page was opened
  stream: "connecting", // "open", "waiting"
  retryAt: 0,
};
const watchers = { any: [], moved: [], entry: [] };
const watch = (what, callback) => watchers[what].push(callback);
const tell = (what, ...about) => watchers[what].forEach((callback) => callback(...about));

// The clock is the server's; the browser's only measures what has passed since it was heard.

const clock = { now_ms: 0, date: Date.now(), steady: performance.now() };
/// What has passed since the server was heard. Of two clocks the larger: one stands still while a
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

/// When the stream last ticked; what is shown can be newer, for it can be asked for as well.
let ticked = { date: Date.now(), steady: performance.now() };
const streamSilence = () => Math.max(0, Date.now() - ticked.date, performance.now() - ticked.steady);
function tick(now_ms) {
  heard(now_ms);
  ticked = { date: clock.date, steady: clock.steady };
  live.stream = "open";
}

// Circuits

/// Takes over all circuits: those that are not in the list are gone.
function takeAll({ now_ms, circuits }) {
  heard(now_ms);
  const names = new Set(circuits.map((c) => c.name));
  for (const name of live.circuits.keys()) if (!names.has(name)) live.circuits.delete(name);
  for (const c of circuits) take(c, live.known);
  live.known = true;
  tell("any");
}

/// Takes over one circuit; what was rejected and called since the last time becomes history.
function take(c, telling = true) {
  const before = live.circuits.get(c.name);
  // A reply can be older than what the stream has said meanwhile. By much more: the clock was set.
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

/// A history as the server has it, after what was kept of the time before it.
function joined(kept, fresh) {
  if (!fresh.length) return kept;
  return [...kept.filter((slice) => slice.at_ms < fresh[0].at_ms), ...fresh];
}

/// The history, with what the totals have grown by since.
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
  if (last && (c.not_permitted_total < last.rejected || c.now_ms < last.at)) samples = [];
  if (!last || c.now_ms > last.at) samples.push({ at: c.now_ms, rejected: c.not_permitted_total });
  while (samples.length > 2 && samples[1].at < c.now_ms - RATE_OVER_MS) samples.shift();
  return samples;
}

/// Rejected calls a second over the last 10 s that were heard of. Numbers that did not move are not
/// sent, so what a circuit grew by is newer than the sample before it is old.
function rejectedPerSecond(c) {
  const now = clock.now_ms;
  const since = now - RATE_OVER_MS;
  const from = c.samples.findLast((sample) => sample.at <= since) ?? c.samples[0];
  if (now - from.at >= 2000) return ((c.samples.at(-1).rejected - from.rejected) * 1000) / (now - Math.max(from.at, since));
  // Too new to tell: what the last whole slice says.
  const at_ms = Math.floor(now / SLICE_MS - 1) * SLICE_MS;
  return ((c.history.find((slice) => slice.at_ms === at_ms)?.not_permitted ?? 0) * 1000) / SLICE_MS;
}

// The stream

let source = null;
let failures = 0;
let polledAt = 0;
let connectedAt = 0;

function connect() {
  source?.close();
  live.stream = "connecting";
  connectedAt = performance.now();
  source = new EventSource(`${base}events`);
  const on = (kind, callback) => source.addEventListener(kind, (event) => {
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return; // a proxy's words are no news
    }
    callback(data);
    tell("any");
  });
  on("circuits", (all) => {
    failures = 0;
    takeAll(all);
    tick(all.now_ms);
    readStatus();
  });
  on("circuit", (c) => take(c));
  on("gone", ({ name }) => live.circuits.delete(name));
  on("entry", (entry) => {
    live.latest = entry;
    tell("entry", entry);
  });
  on("store", (store) => {
    live.store = store;
  });
  on("tick", ({ now_ms }) => tick(now_ms));
  source.onerror = retry;
}

function retry() {
  if (live.stream === "waiting") return;
  source?.close();
  const wait = Math.min(15_000, 1000 * 2 ** failures) * (0.75 + Math.random() / 2);
  failures += 1;
  live.stream = "waiting";
  live.retryAt = performance.now() + wait;
  tell("any");
}

/// Once a second: has the stream gone silent, and what is to be done?
function watchStream() {
  if (live.stream === "waiting" && performance.now() >= live.retryAt) connect();
  else if (live.stream !== "waiting" && Math.min(streamSilence(), performance.now() - connectedAt) > HUNG_AFTER_MS) retry();
  // A proxy can hold streams back and yet let plain requests through.
  if (streamSilence() > OLD_AFTER_MS && performance.now() - polledAt > 5000) poll();
}

async function poll() {
  polledAt = performance.now();
  const reply = await ask("circuits?history=60");
  if (reply.ok && Array.isArray(reply.data?.circuits) && streamSilence() > OLD_AFTER_MS) takeAll(reply.data);
}

function connectNow() {
  failures = 0;
  connect();
  poll();
}

async function readStatus() {
  const reply = await ask("status");
  if (!reply.ok) return;
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

// Requests

const tokenKey = `commontrip ${base} token`;
const remembered = {
  // Storage can be forbidden; then nothing is remembered.
  read(storage, key) {
    try {
      return window[storage].getItem(key) ?? "";
    } catch {
      return "";
    }
  },
  write(storage, key, value) {
    try {
      if (value) window[storage].setItem(key, value);
      else window[storage].removeItem(key);
    } catch {
      // as above
    }
  },
};

/// Where a circuit is; null for the two names that every browser takes for a way through folders.
function pathOf(name) {
  return name === "." || name === ".." ? null : `circuits/${encodeURIComponent(name)}`;
}

/// Sends a request; never throws. What went wrong is in `problem`, in words.
async function ask(path, { method = "GET", body, token, version } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  if (version !== undefined) headers["If-Match"] = `"${version}"`;
  let response, text;
  try {
    response = await fetch(base + path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(10_000) });
    text = await response.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    return { ok: false, status: 0, problem: late ? "The server did not answer within 10 s." : "The server cannot be reached." };
  }
  let data = null;
  try {
    data = JSON.parse(text);
  } catch {
    // said below
  }
  if (response.ok && data !== null) return { ok: true, status: response.status, data };
  const said = [data?.title, data?.detail].filter((part) => typeof part === "string" && part).join(": ");
  return { ok: false, status: response.status, problem: said || `The server answered ${response.status} ${response.statusText}`.trim() };
}
