// All circuits at a glance: the rows, their order, the filter, the totals above them.
// Owns the elements of the overview; sends no commands.

const byId = (id) => document.getElementById(id);
const filter = { text: "", state: "" };
const rows = new Map(); // by name
const REST_MS = 2000; // rows stay where they are while somebody is about to press one
const ROWS = 100; // rows to add whenever the end comes into view
let most = ROWS;
let touchedAt = 0;
let orderedAt = 0;
let orderIsOld = true;

function makeRow(name) {
  const cell = (given, ...children) => h("span", { role: "cell", ...given }, ...children);
  // Shown at widths that have no column headers.
  const label = (words) => h("span", { class: "label" }, words);
  const link = h("a", { class: "name", href: hrefOf(name), title: honest(name), "data-testid": "circuit-link" }, foreign(name));
  const parts = {
    badge: badge("closed"),
    why: h("span", { class: "why" }),
    endsLabel: label(""),
    ends: h("span"),
    rate: h("span"),
    fill: h("span", { class: "meter-fill" }),
    traffic: h("span"),
    share: h("span", { class: "share" }),
    rejected: h("span"),
    rejectedShare: h("span", { class: "share" }),
    latency: h("span"),
    replicas: h("span"),
    graph: smallGraph(),
    said: "",
  };
  const act = h("button", { type: "button", class: "act", "data-testid": "open-dialog", "data-write": true, "aria-label": `Actions for ${honest(name)}`, onclick: () => openAction(name) }, "Act …");
  const row = h("div", { class: "row", role: "row", "data-testid": "circuit-row", "data-name": name },
    cell({ class: "state" }, parts.badge),
    cell({ class: "who" }, link, parts.why),
    cell({ class: "num ends", "data-testid": "row-ends" }, parts.endsLabel, parts.ends),
    cell({ class: "num failures", "data-testid": "row-failures" }, parts.rate, label(" failed"), h("span", { class: "meter", "aria-hidden": "true" }, parts.fill)),
    cell({ class: "num traffic", "data-testid": "row-traffic" }, parts.traffic, label(" traffic"), parts.share),
    cell({ class: "num rejected", "data-testid": "row-rejected" }, parts.rejected, label(" rejected"), parts.rejectedShare),
    cell({ class: "past" }, parts.graph.element),
    cell({ class: "num latency", "data-testid": "row-latency" }, label("p50/p95/p99 "), parts.latency),
    cell({ class: "num replicas" }, label("replicas "), parts.replicas),
    cell({ class: "do" }, act));
  const made = { row, ...parts, near: false, drawn: "", circuit: null };
  row.made = made;
  nearby.observe(row);
  return made;
}

// Only rows in or near the view are kept up to date.
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
  setText(made.endsLabel, endingLabel(c));
  setText(made.ends, ending(c));
  if (c.until_ms) setAttribute(made.ends, "title", absolute(c.until_ms));
  else made.ends.removeAttribute("title");
  setText(made.rate, percent(c.failure_rate));
  setAttribute(made.rate, "title", `${number(c.failures)} of ${count(c.calls, "call")} in the window`);
  const wide = `${Math.min(100, c.failure_rate ?? 0)}%`;
  if (made.fill.style.width !== wide) made.fill.style.width = wide;
  fillTraffic(made, c);
  setText(made.latency, c.latency?.count ? [c.latency.p50_us, c.latency.p95_us, c.latency.p99_us].map(latency).join(" / ") : "–");
  setText(made.replicas, String(c.replicas));
  for (const value of [made.ends, made.rate, made.traffic, made.rejected, made.latency]) {
    value.parentElement.classList.toggle("none", value.textContent === "–" || !value.textContent);
  }
  // The bars move every 10 s; otherwise, redraw only when counts change.
  const last = c.history.at(-1);
  const drawn = `${Math.floor(clock.now_ms / SLICE_MS)} ${last ? Object.values(last).join(" ") : ""}`;
  if (made.near && made.drawn !== drawn) {
    made.drawn = drawn;
    made.graph.draw(c.history, clock.now_ms);
  }
}

/// A circuit's traffic and its share of all traffic; its rejections and their share of its traffic.
function fillTraffic(made, c) {
  const now = perSecond(c);
  const asked = now.made + now.rejected;
  const all = fleetPerSecond();
  setText(made.traffic, asked > 0 ? `${rate(asked)}/s` : "–");
  setText(made.share, asked > 0 && all > 0 ? percent(Math.min(100, (asked * 100) / all)) : "");
  setText(made.rejected, now.rejected > 0 ? `${rate(now.rejected)}/s` : "–");
  setText(made.rejectedShare, now.rejected > 0 ? percent((now.rejected * 100) / asked) : "");
}

function flash(row) {
  row.classList.remove("flash");
  requestAnimationFrame(() => row.classList.add("flash"));
}

// Order and filter

/// Worst first. Rates count in steps of 10 points, so that rows do not swap at each call.
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
  const all = [...live.circuits.values()].filter(wanted).sort(compare);
  const order = all.slice(0, most);
  const shown = new Set(order.map((c) => c.name));
  for (const [name, made] of rows) {
    if (shown.has(name)) continue;
    made.row.remove();
    nearby.unobserve(made.row);
    rows.delete(name);
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
  const found = all.length;
  setHidden(byId("more-line"), found <= order.length);
  setText(byId("more-text"), `${number(order.length)} of ${number(found)} shown, worst first.`);
  setAttribute(byId("table"), "aria-rowcount", String(found + 1));
  setText(byId("shown"), found === total ? count(total, "circuit") : `${number(found)} of ${count(total, "circuit")}`);
  setHidden(byId("nothing"), !(total && !order.length));
  setHidden(byId("table"), !order.length);
  setHidden(byId("legend"), !order.length);
  setHidden(byId("empty"), !(live.known && !total));
  setHidden(byId("waiting"), live.known);
  setHidden(byId("reset-all-line"), !total);
}

/// Rows keep their places while the user points at them or presses keys there.
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
      entry.reason === "policy" ? " stored settings changed " : ` ${stateOf(entry.to).word.toLowerCase()} `, moment(entry.at_ms));
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
    most = ROWS;
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
  const more = () => {
    most += ROWS;
    arrange();
  };
  byId("more").addEventListener("click", () => {
    const last = byId("rows").lastElementChild;
    more();
    last.nextElementSibling?.querySelector("a").focus();
  });
  new IntersectionObserver(([line]) => line.isIntersecting && more(), { rootMargin: "600px" }).observe(byId("more-line"));
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
  most = ROWS;
  byId("filter").value = filter.text;
  keepFilter();
  render(true);
}

/// The filter is part of the address, so that the view can be shared.
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
