// All circuits at a glance: the rows, their order, the filter, the totals above them.
// Owns the elements of the overview; changes nothing on the server.

const byId = (id) => document.getElementById(id);
const filter = { text: "", state: "" };
const rows = new Map(); // by name
const REST_MS = 2000; // rows stay where they are while somebody is about to press one
let touchedAt = 0;
let orderedAt = 0;
let orderIsOld = true;

function makeRow(name) {
  const cell = (given, ...children) => h("span", { role: "cell", ...given }, ...children);
  const link = h("a", { class: "name", href: hrefOf(name), title: honest(name), "data-testid": "circuit-link" }, foreign(name));
  const parts = {
    badge: badge("closed"),
    why: h("span", { class: "why" }),
    ends: cell({ class: "num ends" }),
    rate: h("span"),
    fill: h("span", { class: "meter-fill" }),
    calls: cell({ class: "num calls" }),
    rejected: cell({ class: "num rejected" }),
    latency: cell({ class: "num latency" }),
    replicas: cell({ class: "num replicas" }),
    graph: smallGraph(),
    said: "",
  };
  const act = h("button", { type: "button", class: "act", "data-testid": "open-dialog", "data-write": true, "aria-label": `Actions for ${honest(name)}`, onclick: () => openAction(name) }, "Act …");
  const row = h("div", { class: "row", role: "row", "data-testid": "circuit-row", "data-name": name },
    cell({ class: "state" }, parts.badge),
    cell({ class: "who" }, link, parts.why),
    parts.ends,
    cell({ class: "num failures" }, parts.rate, h("span", { class: "meter", "aria-hidden": "true" }, parts.fill)),
    parts.calls, parts.rejected,
    cell({ class: "past" }, parts.graph.element),
    parts.latency, parts.replicas,
    cell({ class: "do" }, act));
  const made = { row, ...parts, near: false, drawn: "", circuit: null };
  row.made = made;
  nearby.observe(row);
  return made;
}

// Only what can be seen, or is about to be, is kept up to the moment.
const nearby = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.made.near = isIntersecting;
    const c = live.circuits.get(target.dataset.name);
    if (isIntersecting && c) fillRow(target.made, c);
  }
}, { rootMargin: "300px" });

function fillRow(made, c) {
  if (made.row.dataset.state !== c.state) {
    if (made.row.dataset.state) flash(made.row);
    made.row.dataset.state = c.state;
    setBadge(made.badge, c.state);
  }
  if (!made.near && made.circuit === c) return;
  made.circuit = c;
  const parts = why(c);
  const said = plain(parts);
  if (made.said !== `${c.since_ms} ${said}`) {
    made.said = `${c.since_ms} ${said}`;
    made.why.replaceChildren(...parts, ...(c.reason !== "created" && isTime(c.since_ms) ? [" · ", moment(c.since_ms)] : []));
    made.why.title = said;
  }
  setText(made.ends, ending(c));
  if (c.until_ms) setAttribute(made.ends, "title", absolute(c.until_ms));
  else made.ends.removeAttribute("title");
  setText(made.rate, percent(c.failure_rate));
  setAttribute(made.rate, "title", `${number(c.failures)} of ${count(c.calls, "call")} in the window`);
  const wide = `${Math.min(100, c.failure_rate ?? 0)}%`;
  if (made.fill.style.width !== wide) made.fill.style.width = wide;
  setText(made.calls, short(c.calls));
  const perSecond = rejectedPerSecond(c);
  setText(made.rejected, perSecond > 0 ? `${rate(perSecond)}/s` : "–");
  setText(made.latency, c.latency?.count ? [c.latency.p50_us, c.latency.p95_us, c.latency.p99_us].map(latency).join(" · ") : "–");
  setText(made.replicas, String(c.replicas));
  // A bar moves on every 10 s, else only when something was counted.
  const last = c.history.at(-1);
  const drawn = `${Math.floor(clock.now_ms / SLICE_MS)} ${last ? Object.values(last).join(" ") : ""}`;
  if (made.near && made.drawn !== drawn) {
    made.drawn = drawn;
    made.graph.draw(c.history, clock.now_ms);
  }
}

function flash(row) {
  row.classList.remove("flash");
  requestAnimationFrame(() => row.classList.add("flash"));
}

// Order and filter

/// Worst first. Rates count in steps of 10 points, so that rows do not change places at each call.
function compare(a, b) {
  return stateOf(a.state).rank - stateOf(b.state).rank
    || Math.floor((b.failure_rate ?? -1) / 10) - Math.floor((a.failure_rate ?? -1) / 10)
    || b.alone - a.alone
    || (a.name < b.name ? -1 : 1);
}

function wanted(c) {
  if (filter.state && c.state !== filter.state) return false;
  return !filter.text || c.name.toLowerCase().includes(filter.text.toLowerCase());
}

function arrange() {
  orderIsOld = false;
  orderedAt = performance.now();
  const order = [...live.circuits.values()].filter(wanted).sort(compare);
  const shown = new Set(order.map((c) => c.name));
  for (const [name, made] of rows) {
    if (shown.has(name)) continue;
    made.row.remove();
    if (!live.circuits.has(name)) {
      nearby.unobserve(made.row);
      rows.delete(name);
    }
  }
  const focused = document.activeElement;
  const body = byId("rows");
  let place = body.firstElementChild;
  for (const c of order) {
    let made = rows.get(c.name);
    if (!made) {
      made = makeRow(c.name);
      rows.set(c.name, made);
    }
    if (made.row === place) place = place.nextElementSibling;
    else body.insertBefore(made.row, place);
    fillRow(made, c);
  }
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
  const total = live.circuits.size;
  setText(byId("shown"), order.length === total ? count(total, "circuit") : `${number(order.length)} of ${count(total, "circuit")}`);
  setHidden(byId("nothing"), !(total && !order.length));
  setHidden(byId("table"), !order.length);
  setHidden(byId("legend"), !order.length);
  setHidden(byId("empty"), !(live.known && !total));
  setHidden(byId("waiting"), live.known);
  setHidden(byId("reset-all-line"), !total);
}

/// Rows keep their places while a pointer or a key was at work among them.
function mayArrange() {
  const now = performance.now();
  return now - touchedAt > REST_MS && (orderIsOld || now - orderedAt > 3000);
}

function drawOverview(atOnce) {
  const sameCircuits = live.known && byId("rows").childElementCount > 0;
  if (atOnce || !sameCircuits || mayArrange()) arrange();
  else for (const made of rows.values()) {
    const c = live.circuits.get(made.row.dataset.name);
    if (c) fillRow(made, c);
    else made.row.dataset.state = "gone";
  }
  const entry = live.latest;
  setHidden(byId("latest"), !entry);
  if (entry && byId("latest").dataset.entry !== `${entry.name} ${entry.generation} ${entry.at_ms}`) {
    byId("latest").dataset.entry = `${entry.name} ${entry.generation} ${entry.at_ms}`;
    byId("latest").replaceChildren("Latest: ", h("a", { href: hrefOf(entry.name), title: honest(entry.name) }, foreign(entry.name)),
      entry.reason === "policy" ? " settings stored " : ` ${stateOf(entry.to).word.toLowerCase()} `, moment(entry.at_ms));
  }
}

function drawTotals() {
  const totals = byId("totals");
  const states = ["", ...Object.keys(STATES)];
  if (!totals.childElementCount) {
    for (const state of states) {
      const words = state ? [shape(state), h("b"), ` ${STATES[state].word.toLowerCase()}`] : [h("b"), " in all"];
      totals.append(h("li", {}, h("a", { "data-testid": `total-${state || "all"}`, "data-state": state || null }, words)));
    }
  }
  const n = { "": live.circuits.size };
  for (const c of live.circuits.values()) n[c.state] = (n[c.state] ?? 0) + 1;
  states.forEach((state, i) => {
    const link = totals.children[i].firstChild;
    setText(link.querySelector("b"), live.known ? number(n[state] ?? 0) : "–");
    link.classList.toggle("none", !n[state]);
    setAttribute(link, "href", overviewHref({ ...filter, state }));
    const current = route.page === "overview" && filter.state === state;
    if (current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  });
  const bad = (n.open ?? 0) + (n.forced_open ?? 0);
  const about = route.page === "circuit" ? `${honest(route.name)} – ` : "";
  const title = `${bad ? `(${bad} open) ` : ""}${isOld() && live.known ? "(old) " : ""}${about}commontrip`;
  if (document.title !== title) document.title = title;
  drawIcon(!live.known || isOld() ? "#777777" : bad ? "#c62828" : n.half_open ? "#b26a00" : "#2e7d32", bad > 0);
}

function drawIcon(colour, bad) {
  const outline = bad ? "<path d='M5 1h6l4 4v6l-4 4H5l-4-4V5z'/>" : "<circle cx='8' cy='8' r='7'/>";
  const href = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='${colour}'>${outline}</svg>`)}`;
  setAttribute(byId("icon"), "href", href);
}

function startOverview() {
  const input = byId("filter");
  input.addEventListener("input", () => {
    filter.text = input.value;
    keepFilter();
    arrange();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    setFilter({ ...filter, text: "" });
  });
  byId("clear-filter").addEventListener("click", () => {
    setFilter({ text: "", state: "" });
    input.focus();
  });
  const touched = () => {
    touchedAt = performance.now();
  };
  for (const kind of ["pointermove", "pointerdown", "keydown", "focusin"]) byId("rows").addEventListener(kind, touched);
  byId("reset-all").addEventListener("click", openResetAll);
  watch("moved", () => {
    orderIsOld = true;
  });
}

function setFilter(to) {
  Object.assign(filter, to);
  byId("filter").value = filter.text;
  keepFilter();
  render(true);
}

/// The filter is part of the address, so that it can be sent to somebody.
function keepFilter() {
  history.replaceState(null, "", overviewHref(filter));
}
function overviewHref({ text, state }) {
  const query = new URLSearchParams();
  if (text) query.set("q", text);
  if (state) query.set("state", state);
  return query.size ? `#/?${query}` : "#/";
}
function hrefOf(name) {
  return `#/c/${encodeURIComponent(name)}`;
}
