// The page of one circuit: its state and reason, its numbers against their thresholds, its past,
// its probes, replicas and commands. Owns the elements of that page; reads the details.

const RENEW_MS = 5000;
let page = null; // { name, details, problem, parts, readAt, reading, again }

function openCircuit(name) {
  if (page?.name === name) return;
  page = { name, details: null, drawn: null, problem: null, readAt: 0, reading: false, again: false, all: false, people: false, detailed: [] };
  page.parts = makePage(name);
  page.editor = makePolicy(name, () => page.details, () => readDetails(true));
  page.parts.policy.append(page.editor.element);
  byId("circuit").replaceChildren(page.parts.element);
  readDetails();
}
function leaveCircuit() {
  page = null;
  byId("circuit").replaceChildren();
}

function makePage(name) {
  // Sections that need the details are shown when those are read.
  const detailed = (id, ...given) => {
    const made = part(id, ...given);
    page.detailed.push(made);
    return made;
  };
  const part = (id, title, ...children) => h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
  const parts = {
    badge: badge("closed"),
    sentence: h("p", { class: "sentence", "data-testid": "sentence" }),
    ends: h("p", { class: "countdown", "data-testid": "countdown" }),
    problem: h("p", { class: "problem", role: "status", "data-testid": "circuit-problem" }),
    actions: h("p", { class: "buttons actions" }),
    meters: h("dl", { class: "meters", "data-testid": "meters" }),
    facts: h("dl", { class: "facts" }),
    failed: h("div", { "data-testid": "failed" }),
    probes: h("div", { "data-testid": "probes" }),
    replicas: h("div", { "data-testid": "replicas" }),
    events: h("ol", { class: "events", "data-testid": "events", reversed: true }),
    more: h("button", { type: "button", onclick: () => { page.all = true; drawEvents(); } }),
    graph: largeGraph(),
  };
  for (const kind of Object.keys(ACTIONS)) {
    parts.actions.append(h("button", { type: "button", "data-testid": `act-${kind}`, "data-write": true, onclick: () => openAction(name, kind) }, `${ACTIONS[kind].word} …`));
  }
  parts.actions.append(h("button", { type: "button", class: "danger-quiet", "data-testid": "act-remove", "data-write": true, onclick: () => openRemove(name) }, "Remove …"));
  const people = h("label", { class: "check" }, h("input", { type: "checkbox", "data-testid": "people-only", onchange: (event) => { page.people = event.target.checked; drawEvents(); } }), " operators' commands only");
  parts.policy = detailed("policy-title", "Policy");
  parts.body = h("div", { class: "page-body" },
    h("div", { class: "wide" },
      part("window-title", "Now", parts.meters, parts.facts),
      part("failed-title", "What failed", parts.failed),
      part("past-title", "Traffic and state", parts.graph.element),
      detailed("events-title", "Events", people, parts.events, parts.more)),
    h("div", { class: "side" },
      detailed("probes-title", "Probes", parts.probes),
      detailed("replicas-title", "Replicas", parts.replicas)));
  parts.element = h("article", { class: "page", "data-testid": "circuit-page", "data-name": name },
    h("p", { class: "back" }, h("a", { class: "back-link", href: overviewHref(filter), "data-testid": "back" }, "← All circuits")),
    h("header", { class: "page-head" },
      h("h1", { id: "circuit-title", tabindex: -1 }, foreign(name)),
      h("div", { class: "page-state" }, parts.badge, parts.ends),
      parts.sentence, parts.problem, parts.actions),
    parts.body, parts.policy);
  return parts;
}

async function readDetails(again) {
  const mine = page;
  if (!mine) return;
  if (mine.reading) {
    mine.again ||= again;
    return;
  }
  mine.reading = true;
  const reply = await ask(pathOf(mine.name));
  mine.reading = false;
  mine.readAt = performance.now();
  if (page !== mine) return;
  if (reply.ok) {
    mine.details = reply.data;
    mine.problem = null;
    mine.bannered = false;
    take(reply.data.circuit);
  } else if (reply.status === 404) {
    mine.bannered = false;
    mine.problem = "There is no circuit of this name. It has never been called, or it was forgotten after a long time without calls.";
    mine.details = null;
  } else {
    // A banner shows this case: the server or its Redis is unreachable.
    mine.bannered = reply.status === 0 || reply.status >= 500;
    mine.problem = `${ended(reply.problem)} The data below may be old.`;
  }
  render();
  if (mine.again) {
    mine.again = false;
    readDetails();
  }
}

/// What the circuit does, since when, why, and what comes next.
function sentence(c, policy) {
  const parts = [stateOf(c.state).effect];
  const began = isTime(c.since_ms) && c.reason !== "created" ? moment(c.since_ms) : null;
  const overridden = OVERRIDES.includes(c.state);
  const verbs = { open: "opened", closed: "closed", half_open: "began to probe" };
  if (overridden) parts.push(" Set by ", foreign(c.override_author || "somebody", { class: "person" }), began && ", ", began, ": ", overrideReason(c), ".");
  else if (!began) parts.push(" It ", ...why(c), ".");
  else parts.push(` It ${verbs[c.state] ?? "entered this state"} `, began, ": ", ...why(c), ".");
  const waits = c.until_ms > serverNow();
  if (c.state === "open") {
    parts.push(...(waits ? [" The first probes are sent in ", until(c.until_ms), "."] : [" The wait has ended: the next call is a probe."]));
  } else if (c.state === "half_open" && policy) {
    parts.push(` It closes after ${count(policy.success_threshold, "successful probe")} and reopens after ${count(policy.half_open_failure_threshold, "failed probe")}.`);
  } else if (overridden) {
    parts.push(...(waits ? [" It expires in ", until(c.until_ms), "; a reset ends it earlier."] : [c.until_ms ? " It has expired: the next call ends it." : " It lasts until somebody resets the circuit."]));
  }
  return parts.filter(Boolean);
}

function drawCircuit() {
  const { name, details, problem, parts } = page;
  const c = live.circuits.get(name);
  const waiting = !c && !problem && !live.known;
  const gone = !c && !waiting && (problem || (details && "This circuit is gone: it is no longer in Redis.")) ;
  const said = page.bannered && c && document.querySelector(".banner.bad:not([hidden])") ? "" : problem || gone || "";
  setText(parts.problem, said);
  setHidden(parts.problem, !said);
  for (const element of [parts.body, parts.sentence, parts.actions, parts.badge.parentElement]) setHidden(element, !c);
  for (const element of page.detailed) setHidden(element, !c || !details);
  if (!c) return;
  if (performance.now() - page.readAt > RENEW_MS && !document.hidden && !isOld()) readDetails();
  setBadge(parts.badge, c.state);
  setText(parts.ends, endingSaid(c));
  setAttribute(parts.ends, "title", absolute(c.until_ms));
  // Times in it are updated one by one; only a change of words rebuilds it.
  const words = sentence(c, details?.policy.in_force);
  const key = plain(words.map((part) => part.dataset?.at ?? part.dataset?.until ?? part));
  if (parts.sentence.dataset.said !== key) {
    parts.sentence.dataset.said = key;
    parts.sentence.replaceChildren(...words);
  }
  drawMeters(c, details?.policy.in_force);
  drawFacts(c);
  drawFailed(c);
  parts.graph.draw(c, details?.events ?? [], clock.now_ms);
  if (details) {
    drawEvents();
    if (page.drawn !== details) {
      page.drawn = details;
      drawProbes(details, c);
      drawReplicas(details);
    }
  }
  page.editor.draw(c);
}

// Numbers against thresholds

function drawMeters(c, policy) {
  const on = (key) => policy?.[key] > 0;
  const few = policy && c.calls < policy.minimum_number_of_calls && (c.state === "closed" || c.state === "metrics_only");
  const least = few ? `, counts from ${count(policy.minimum_number_of_calls, "call")} on` : "";
  const all = [{ title: "Failure rate", value: percent(c.failure_rate), of: c.failure_rate, at: on("failure_rate_threshold") && policy.failure_rate_threshold, most: 100, unit: "%", more: least }];
  if (on("failure_count_threshold")) all.push({ title: "Failures", value: number(c.failures), of: c.failures, at: policy.failure_count_threshold });
  if (on("consecutive_failures_threshold")) all.push({ title: "Failures in a row", value: number(c.consecutive_failures), of: c.consecutive_failures, at: policy.consecutive_failures_threshold });
  if (on("slow_call_duration_threshold_ms")) all.push({ title: `Slow call rate (${length(policy.slow_call_duration_threshold_ms)} or more)`, value: percent(c.slow_rate), of: c.slow_rate, at: policy.slow_call_rate_threshold, most: 100, unit: "%", more: least });
  if (policy?.quorum > 1) all.push({ title: "Failing replicas (quorum)", value: number(c.failing), of: c.failing, at: Math.min(policy.quorum, Math.max(1, c.replicas)), verb: "opens at" });
  if (c.state === "half_open" && policy) {
    all.push({ title: "Successful probes", value: number(c.probe_successes), of: c.probe_successes, at: policy.success_threshold, verb: "closes at", good: true });
    all.push({ title: "Failed probes", value: number(c.probe_failures), of: c.probe_failures, at: policy.half_open_failure_threshold });
  }
  const { meters } = page.parts;
  const titles = all.map(({ title }) => title).join("\n");
  if (meters.dataset.titles !== titles) {
    meters.dataset.titles = titles;
    meters.replaceChildren(...all.map(({ title }) => h("div", { class: "meter-line" }, h("dt", {}, title),
      h("dd", {}, h("strong"), h("span", { class: "meter large", "aria-hidden": "true" }, h("span", { class: "meter-fill" }), h("span", { class: "meter-mark" })), h("span", { class: "meter-words" })))));
  }
  all.forEach((meter, i) => {
    const [value, bar, words] = meters.children[i].lastChild.children;
    setText(value, meter.value);
    const most = meter.most ?? Math.max(meter.at * 1.5, meter.of ?? 0);
    bar.firstChild.style.width = `${Math.min(100, ((meter.of ?? 0) * 100) / most)}%`;
    setHidden(bar.lastChild, !meter.at);
    if (meter.at) bar.lastChild.style.insetInlineStart = `${Math.min(100, (meter.at * 100) / most)}%`;
    const over = meter.at && meter.of >= meter.at;
    bar.classList.toggle("over", Boolean(over && !meter.good));
    setText(words, meter.at ? `${meter.verb ?? "opens at"} ${number(meter.at)}${meter.unit ?? ""}${meter.more ?? ""}${over && !meter.good ? " – reached" : ""}` : policy ? "off" : "");
  });
}

function trafficSaid(c) {
  const { made, rejected } = perSecond(c);
  const asked = made + rejected;
  if (!(asked > 0)) return "none";
  const share = percent(Math.min(100, (asked * 100) / Math.max(asked, fleetPerSecond())));
  return `${rate(asked)}/s, ${share} of all traffic; ${rejected > 0 ? `${rate(rejected)}/s (${percent((rejected * 100) / asked)}) rejected` : "none rejected"}`;
}

function drawFacts(c) {
  const facts = [
    [c.state === "open" ? "Calls in the window that opened it" : "Calls in the window", `${number(c.calls)} (${number(c.failures)} failed, ${number(c.slow)} slow)${c.undecided ? ` and ${number(c.undecided)} abandoned` : ""}`],
    ["Traffic", trafficSaid(c)],
    ["Latency", c.latency?.count ? `mean ${latency(c.latency.mean_us)} · p50 ${latency(c.latency.p50_us)} · p95 ${latency(c.latency.p95_us)} · p99 ${latency(c.latency.p99_us)}` : "none recorded"],
    ["Last success", moment(c.last_success_ms)],
    ["Last failure", moment(c.last_failure_ms)],
    ["Since creation", `${number(c.successes_total)} succeeded, ${number(c.failures_total)} failed, ${number(c.slow_total)} slow, ${number(c.abandoned_total)} abandoned, ${number(c.ignored_total)} ignored, ${number(c.rejected_total)} rejected`],
    ["Time open", c.open_total_ms ? `${length(c.open_total_ms)} since creation${c.opened_ms ? `, ${length(c.now_ms - c.opened_ms)} since it opened` : ""}` : "none"],
    ["Generation", number(c.generation)],
    ["Policies in code", c.policies_differ ? `differ between replicas: ${c.policies_differ}` : "the same in every replica"],
  ];
  const { facts: list } = page.parts;
  if (!list.childElementCount) list.append(...facts.map(([title, value]) => h("div", {}, h("dt", {}, title), h("dd", {}, value))));
  facts.forEach(([title, value], i) => {
    const [dt, dd] = list.children[i].children;
    setText(dt, title);
    if (typeof value === "string") setText(dd, value);
    else setMoment(dd.firstChild, Number(value.dataset.at ?? 0));
  });
}

// Kinds of failure

function drawFailed(c) {
  const { failed: box } = page.parts;
  const kinds = c.failure_kinds ?? [];
  const key = JSON.stringify(kinds);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  if (!kinds.length) {
    box.replaceChildren(h("p", { class: "quiet" }, "No failure of the past day has a kind."));
    return;
  }
  const heads = ["Kind", "Past minutes", "In all", "Last", "Latest detail"];
  const row = (kind) => h("tr", { "data-testid": "failed-kind" },
    h("th", { scope: "row" }, foreign(kind.kind)),
    h("td", { class: "num" }, number(kind.recent)),
    h("td", { class: "num" }, number(kind.count)),
    h("td", {}, moment(kind.last_ms)),
    h("td", {}, kind.detail ? foreign(kind.detail, { class: "mono" }) : "–"));
  box.replaceChildren(h("div", { class: "failed-table" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: i === 1 || i === 2 ? "num" : "" }, head)))),
    h("tbody", {}, kinds.map(row)))));
}

// Probes and replicas

function drawProbes({ probes }, c) {
  const { probes: box } = page.parts;
  if (!probes.length) {
    box.replaceChildren(h("p", { class: "quiet" }, c.state === "half_open" ? "None running: the next call is a probe." : "None running."));
    return;
  }
  box.replaceChildren(h("ul", { class: "list" }, probes.map((probe) => h("li", {},
    h("span", { class: "mono" }, foreign(probe.replica || probe.token)),
    h("span", { class: "quiet" }, "lease expires in ", until(probe.until_ms))))));
}

// As in the store: a replica that reported within this time counts.
const REPLICA_LIVE_MS = 15_000;
function drawReplicas({ replicas }) {
  const { replicas: box } = page.parts;
  if (!replicas.length) {
    box.replaceChildren(h("p", { class: "quiet" }, "None has reported within an hour."));
    return;
  }
  const now = serverNow();
  const live = (replica) => now - replica.seen_ms <= REPLICA_LIVE_MS;
  const worst = (replica) => (replica.alone_until_ms > now ? 0 : replica.failing_ms ? 1 : 2);
  const sorted = [...replicas].sort((a, b) => worst(a) - worst(b) || (a.name < b.name ? -1 : 1));
  const listed = (some) => h("ul", { class: "list" }, some.map((replica) => h("li", {},
    h("span", { class: "mono" }, foreign(replica.name)),
    replica.alone_until_ms > now && h("strong", {}, "open on this replica alone, for ", until(replica.alone_until_ms)),
    replica.failing_ms > 0 && h("span", {}, "its calls failed ", moment(replica.failing_ms)),
    h("span", { class: "quiet" }, "reported ", moment(replica.seen_ms)))));
  const silent = sorted.filter((replica) => !live(replica)).sort((a, b) => b.seen_ms - a.seen_ms);
  const unfolded = Boolean(box.querySelector("details")?.open);
  box.replaceChildren(
    silent.length < sorted.length ? listed(sorted.filter(live)) : h("p", { class: "quiet" }, "None has reported within 15 s."),
    ...(silent.length ? [h("details", { "data-testid": "replicas-gone", open: unfolded }, h("summary", {}, `${number(silent.length)} without a report for 15 s`), listed(silent))] : []));
}

const FIRST_EVENTS = 12;
function drawEvents() {
  const { events: list, more } = page.parts;
  const known = page.details?.events ?? [];
  const chosen = known.filter((event) => !page.people || event.origin || event.note || event.reason === "policy" || event.reason === "override" || event.reason === "reset").reverse();
  const shown = page.all ? chosen : chosen.slice(0, FIRST_EVENTS);
  setHidden(more, shown.length === chosen.length);
  setText(more, `Show all ${chosen.length}`);
  const key = `${page.people} ${shown.length} ${shown[0]?.at_ms} ${shown[0]?.generation} ${shown.at(-1)?.at_ms}`;
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...shown.map(eventItem));
  if (!shown.length) list.append(h("li", { class: "quiet" }, page.people ? "No commands." : "No events."));
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);
function eventItem(event) {
  const byPerson = event.reason === "override" || event.reason === "reset" || event.reason === "policy";
  const what = event.reason === "policy"
    ? [h("strong", {}, event.policy ? "Settings stored: " : "Stored settings removed"), event.policy && foreign(event.policy, { class: "mono" })]
    : [badge(event.from), h("span", { class: "to", "aria-label": "to" }, "→"), badge(event.to)];
  return h("li", { "data-testid": "event", "data-reason": event.reason },
    h("p", { class: "event-what" }, what, moment(event.at_ms, { class: "quiet" })),
    h("p", {}, !byPerson && `${capital(reason(event))}. `,
      event.leading_failure && ["Failures: ", foreign(event.leading_failure), ". "],
      event.to === "open" && !byPerson && event.consecutive_opens > 1 && `${capital(trips(event.consecutive_opens))}. `,
      event.until_ms > event.at_ms && `${stateOf(event.to).word} for at most ${length(event.until_ms - event.at_ms)}. `,
      byPerson ? "By " : "Triggered by replica ", foreign(event.by || "somebody", { class: byPerson ? "person" : "mono" }),
      event.origin && [", from ", foreign(event.origin, { class: "mono" })], "."),
    event.note && h("p", { class: "note" }, foreign(event.note)));
}

function startCircuit() {
  watch("entry", (entry) => {
    if (page && entry.name === page.name) readDetails(true);
  });
}
