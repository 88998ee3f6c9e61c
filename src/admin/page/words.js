// The words for states, reasons, numbers and times, and functions that make elements. Owns no
// state. Text from others (names, reasons, authors) only ever becomes text nodes.

const STATES = {
  open: { word: "Open", rank: 0, effect: "Every call is rejected, on every replica." },
  half_open: { word: "Half-open", rank: 1, effect: "A few probes pass to test the upstream. Every other call is rejected." },
  forced_open: { word: "Forced open", rank: 2, effect: "Every call is rejected, by an operator's override." },
  disabled: { word: "Disabled", rank: 3, effect: "Every call passes and nothing opens the circuit. Only lifetime totals are counted." },
  metrics_only: { word: "Metrics only", rank: 4, effect: "Every call passes and is counted. Nothing opens the circuit." },
  closed: { word: "Closed", rank: 5, effect: "Calls pass and are counted." },
};
const OVERRIDES = ["forced_open", "disabled", "metrics_only"];

function stateOf(word) {
  return Object.hasOwn(STATES, word) ? STATES[word] : { word: String(word), rank: 0, effect: "" };
}

/// An element: attributes and listeners in `given`, then children; strings become text.
function h(tag, given, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(given ?? {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
function s(tag, given, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(given ?? {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function setAttribute(element, key, value) {
  if (element.getAttribute(key) !== value) element.setAttribute(key, value);
}
function setHidden(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

// Invisible characters that change how text looks: direction marks, zero-width breaks and joiners.
const UNSEEN = /[\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
/// The text with invisible characters spelled out, so that it cannot imitate another text.
function honest(text) {
  return String(text).replace(UNSEEN, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}
/// A text from elsewhere, isolated so that its direction does not affect the text around it.
function foreign(text, given) {
  return h("bdi", given, honest(text));
}

function shapeName(state) {
  return `#shape-${Object.hasOwn(STATES, state) ? state : "other"}`;
}
function shape(state) {
  const use = s("use", { href: shapeName(state) });
  return s("svg", { class: "shape", width: 16, height: 16, "aria-hidden": "true" }, use);
}
/// A state as shape and word, in its colour.
function badge(state) {
  return h("span", { class: "badge", "data-state": state }, shape(state), h("span", {}, stateOf(state).word));
}
function setBadge(element, state) {
  if (element.dataset.state === state) return;
  element.dataset.state = state;
  element.querySelector("use").setAttribute("href", shapeName(state));
  element.lastChild.textContent = stateOf(state).word;
}

// Numbers

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const number = (n) => GROUPED.format(n);
const percent = (n) => (n == null ? "–" : `${n.toFixed(1)}%`);
/// A rate per second, with one decimal where it matters.
function rate(n) {
  if (n === 0) return "0";
  if (n < 0.1) return "<0.1";
  return n < 10 ? n.toFixed(1) : number(n);
}
/// Short, for narrow columns: 12,345 -> 12k.
function short(n) {
  if (n < 10_000) return number(n);
  if (n < 1_000_000) return `${Math.floor(n / 1000)}k`;
  return `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)}M`;
}
const count = (n, one, many) => `${number(n)} ${n === 1 ? one : many ?? `${one}s`}`;
function ordinal(n) {
  const tens = n % 100;
  const end = tens > 10 && tens < 14 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[n % 10] ?? "th";
  return `${n}${end}`;
}
/// Microseconds in a readable unit.
function latency(us) {
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${us < 10_000 ? (us / 1000).toFixed(1) : Math.round(us / 1000)} ms`;
  return `${us < 1e7 ? (us / 1e6).toFixed(1) : Math.round(us / 1e6)} s`;
}

// Times

/// The time left, for a countdown: 0:07, 14:12, 3 h 05, 2 d 4 h.
function left(ms) {
  const all = Math.max(0, Math.ceil(ms / 1000));
  const two = (n) => String(n).padStart(2, "0");
  if (all < 3600) return `${Math.floor(all / 60)}:${two(all % 60)}`;
  if (all < 86_400) return `${Math.floor(all / 3600)} h ${two(Math.floor((all % 3600) / 60))}`;
  return `${Math.floor(all / 86_400)} d ${Math.floor((all % 86_400) / 3600)} h`;
}
/// A duration: 250 ms, 30 s, 1 min 30 s, 8 h, 2 d 3 h.
function length(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000 && ms % 1000) return `${(ms / 1000).toFixed(1)} s`;
  const all = Math.round(ms / 1000);
  const parts = [[Math.floor(all / 86_400), "d"], [Math.floor(all / 3600) % 24, "h"], [Math.floor(all / 60) % 60, "min"], [all % 60, "s"]];
  const from = parts.findIndex(([n]) => n > 0);
  return parts.slice(from, from + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(" ");
}
function ago(ms) {
  if (ms < 1000) return "now";
  const all = ms < 60_000 ? ms : Math.floor(ms / 60_000) * 60_000;
  return `${length(Math.floor(all / 1000) * 1000)} ago`;
}
function clockTime(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}
function isTime(ms) {
  return Number.isFinite(ms) && ms > 0 && ms < 8.64e15;
}
/// The absolute time, local and in UTC as in logs.
function absolute(ms) {
  if (!isTime(ms)) return "";
  const at = new Date(ms);
  return `${at.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" })} here, ${at.toISOString()}`;
}
/// A moment relative to the server's clock; `renewTimes` keeps it up to date.
function moment(ms, given) {
  const element = h("time", { ...given });
  setMoment(element, ms);
  return element;
}
function setMoment(element, ms) {
  if (!isTime(ms)) {
    delete element.dataset.at;
    setText(element, "never");
    return;
  }
  if (element.dataset.at !== String(ms)) {
    element.dataset.at = ms;
    element.dateTime = new Date(ms).toISOString();
    element.title = absolute(ms);
  }
  setText(element, ago(serverNow() - ms));
}
/// The time left until a moment; `renewTimes` counts it down.
function until(ms) {
  return h("span", { "data-until": ms, title: absolute(ms) }, left(ms - serverNow()));
}
function renewTimes() {
  for (const element of document.querySelectorAll("section:not([hidden]) [data-until]")) {
    setText(element, left(Number(element.dataset.until) - serverNow()));
  }
  for (const element of document.querySelectorAll("section:not([hidden]) time[data-at]")) {
    setText(element, ago(serverNow() - Number(element.dataset.at)));
  }
}

// Sentences

/// If no call succeeded, some may have been abandoned; those then count as failures.
const failed = (of) => (of.failures < of.calls ? "failed" : "did not succeed");
const REASONS = {
  created: () => "has never opened",
  failure_rate: (c) => `${percent((c.failures * 100) / c.calls)} of ${count(c.calls, "call")} ${failed(c)}`,
  failure_count: (c) => `${count(c.failures, "call")} ${failed(c)} within the window`,
  consecutive_failures: (c) => (c.consecutive_failures && c.failures < c.calls ? `${count(c.consecutive_failures, "call")} failed in a row` : "too many calls failed in a row"),
  slow_call_rate: (c) => `${percent((c.slow * 100) / c.calls)} of ${count(c.calls, "call")} were slow`,
  tripped: () => "a call told the circuit to open at once",
  wait_elapsed: () => "the wait ended",
  probe_failed: () => "a probe failed",
  half_open_timeout: () => "half-open timed out without a decision",
  recovered: () => "enough probes succeeded",
  override: () => "by an operator",
  override_expired: () => "the override expired",
  reset: () => "reset by an operator",
  adopted: () => "Redis lost this circuit; a replica restored it",
  policy: () => "stored settings changed",
};
function reason(of) {
  const rates = of.reason === "failure_rate" || of.reason === "slow_call_rate";
  if (rates && !of.calls) return of.reason === "failure_rate" ? "too many calls failed" : "too many calls were slow";
  return Object.hasOwn(REASONS, of.reason) ? REASONS[of.reason](of) : String(of.reason).replaceAll("_", " ");
}

/// Why a circuit is in its state: one line, as parts, because it may quote somebody.
function why(c) {
  const notes = [];
  if (c.state === "half_open") {
    const tried = [[c.probes, "running"], [c.probe_successes, "succeeded"], [c.probe_failures, "failed"]].filter(([n]) => n > 0);
    notes.push(tried.length ? `probes: ${tried.map(([n, word]) => `${n} ${word}`).join(", ")}` : "waits for a call to use as a probe");
  } else if (OVERRIDES.includes(c.state)) {
    notes.push(foreign(c.override_author || "somebody"), ": ", overrideReason(c));
  } else {
    notes.push(c.state === "closed" && c.reason === "reset" ? "was reset" : reason(c));
  }
  if (c.state === "open" && c.consecutive_opens > 1) notes.push(`, ${trips(c.consecutive_opens)}`);
  if (c.state === "closed" && c.ramp_until_ms > serverNow()) notes.push(`, recovering: admits a growing share of calls for ${left(c.ramp_until_ms - serverNow())}`);
  if (c.alone > 0) notes.push(`; open on ${count(c.alone, "replica")} alone`);
  return notes;
}
/// Trips since the circuit was last stable: each lengthens the wait.
const trips = (n) => `${ordinal(n)} trip since it was last stable`;
function overrideReason(c) {
  return c.override_reason ? foreign(c.override_reason) : "no reason given";
}
/// Adds a full stop, unless the text ends with punctuation.
const ended = (words) => (/[.!?]$/.test(words) ? words : `${words}.`);
function plain(parts) {
  return parts.map((part) => (typeof part === "string" ? part : part.textContent)).join("");
}

/// When a state ends, as words for the column: a countdown, or what it waits for.
function ending(c) {
  if (c.until_ms > 0) {
    const ms = c.until_ms - serverNow();
    if (ms > 0) return left(ms);
    if (c.state === "half_open") return c.probes ? "any moment" : "at next call";
    return c.state === "open" ? "at next call" : "any moment";
  }
  return OVERRIDES.includes(c.state) ? "at reset" : "";
}
/// The label of those words where there is no column header.
function endingLabel(c) {
  if (!ending(c)) return "";
  return c.until_ms > serverNow() ? "ends in " : "ends ";
}
const endingSaid = (c) => endingLabel(c) + ending(c);

/// Who set the override that is in force, why, and when it ends; empty without an override.
function overrideSaid(c) {
  if (!OVERRIDES.includes(c.state)) return [];
  return [`${stateOf(c.state).word} by `, foreign(c.override_author || "somebody", { class: "person" }), ": ", overrideReason(c), `. It ${endingSaid(c)}.`];
}
