// Graphs of a circuit's history: bars in SVG, so that the style sheet colours them. Calls go
// upwards (failures at the foot, successes above), rejections downwards; each direction has its own
// scale because rejections can be a thousand times as many.

const SLICE_MS = 10_000;
/// The counts of a slice. An abandoned call can be a failure too.
const COUNTED = ["successes", "failures", "slow", "ignored", "rejected", "abandoned"];

/// The end of the bar that a moment is in.
const barEnd = (now, width) => Math.floor(now / width) * width + width;
/// Sums of slices in `n` bars of `width` ms, the newest with the slice of `now`.
function bars(history, now, n, width) {
  const end = barEnd(now, width);
  const start = end - n * width;
  const made = Array.from({ length: n }, (_, i) => ({ at_ms: start + i * width, successes: 0, failures: 0, slow: 0, ignored: 0, rejected: 0, abandoned: 0 }));
  for (const slice of history) {
    const bar = made[Math.floor((slice.at_ms - start) / width)];
    if (bar) add(bar, slice);
  }
  return made;
}
function add(to, slice) {
  for (const key of COUNTED) to[key] += slice[key];
}
function sum(slices) {
  const all = { successes: 0, failures: 0, slow: 0, ignored: 0, rejected: 0, abandoned: 0 };
  for (const slice of slices) add(all, slice);
  return all;
}
function inWords(of) {
  return `${count(of.successes + of.failures, "call")}, ${number(of.failures)} failed, ${number(of.rejected)} rejected`;
}

/// Paths of the bars: `up` px for calls above the line at `up`, `down` px for rejections below.
function paths(made, step, gap, up, down) {
  const most = Math.max(1, ...made.map((bar) => bar.successes + bar.failures));
  const mostRejected = Math.max(1, ...made.map((bar) => bar.rejected));
  // A count above 0 is always visible.
  const high = (n, of, px) => (n > 0 ? Math.max(1, Math.round((n / of) * px * 2) / 2) : 0);
  const drawn = { failed: "", ok: "", rejected: "" };
  made.forEach((bar, i) => {
    const x = Math.round(i * step * 100) / 100;
    const wide = Math.round((step - gap) * 100) / 100;
    const rect = (y, height) => (height ? `M${x} ${y}h${wide}v${height}h${-wide}z` : "");
    const failed = high(bar.failures, most, up);
    const ok = Math.min(high(bar.successes, most, up), up - failed);
    drawn.failed += rect(up - failed, failed);
    drawn.ok += rect(up - failed - ok, ok);
    drawn.rejected += rect(up + 1, high(bar.rejected, mostRejected, down));
  });
  return { ...drawn, most, mostRejected };
}

const SMALL = { slices: 60, step: 2.5, up: 19, down: 10 };

/// The small graph of a row: the last 10 minutes.
function smallGraph() {
  const parts = { ok: s("path", { class: "bar-ok" }), failed: s("path", { class: "bar-failed" }), rejected: s("path", { class: "bar-rejected" }) };
  const wide = SMALL.slices * SMALL.step;
  const line = s("path", { class: "bar-line", d: `M0 ${SMALL.up + 0.5}h${wide}` });
  const element = s("svg", { class: "small-graph", role: "img", "aria-label": "Last 10 minutes", viewBox: `0 0 ${wide} ${SMALL.up + SMALL.down + 1}`, preserveAspectRatio: "none" }, line, ...Object.values(parts));
  return {
    element,
    draw(history, now) {
      const made = bars(history, now, SMALL.slices, SLICE_MS);
      const drawn = paths(made, SMALL.step, 0.5, SMALL.up, SMALL.down);
      for (const [key, path] of Object.entries(parts)) setAttribute(path, "d", drawn[key]);
      setAttribute(element, "aria-label", `Last 10 minutes: ${inWords(sum(made))}`);
    },
  };
}

/// The earliest known time of the circuit, from its counts, events and state; null if unknown.
function firstKnown(circuit, events) {
  const known = [circuit.history[0]?.at_ms, events[0]?.at_ms, circuit.since_ms].filter(isTime);
  return known.length ? Math.min(...known) : null;
}

/// The state at each moment of the graph, from the known transitions. Before `start`, nothing is
/// known or shown.
function spans(circuit, events, start, end) {
  const moves = events.filter((event) => event.reason !== "policy" && event.at_ms < end);
  const made = [];
  let state = moves.length ? moves[0].from : circuit.since_ms <= start ? circuit.state : null;
  let from = start;
  for (const move of moves) {
    if (move.at_ms > from) {
      if (state) made.push({ state, from, to: move.at_ms });
      from = move.at_ms;
    }
    state = move.to;
  }
  // The state can be newer than the events that were read.
  if (circuit.since_ms > from && circuit.state !== state) {
    if (state) made.push({ state, from, to: circuit.since_ms });
    [from, state] = [circuit.since_ms, circuit.state];
  }
  if (state) made.push({ state, from, to: end });
  return made;
}

const LARGE = { up: 120, down: 48, band: 22, axis: 20, left: 44, foot: 4 };
/// Time ranges, by minutes. `bars` are the widths of a bar in a wide, a medium and a narrow graph,
/// `row` is the width of a row of numbers, all in slices.
const RANGES = {
  5: { bars: [1, 1, 1], row: 3 },
  15: { bars: [1, 1, 3], row: 6 },
  60: { bars: [1, 2, 6], row: 30 },
};
const LEAST_BARS = 6;
let range = 15; // the same on every circuit's page

/// The large graph of a circuit's page: its traffic, with its states as a band above. It begins
/// where the data begins, if that is within the range.
function largeGraph() {
  const svg = s("svg", { class: "large-graph", role: "img", "data-testid": "large-graph" });
  const readout = h("p", { class: "readout" });
  const tbody = h("tbody");
  const numbers = h("details", { class: "numbers" }, h("summary", {}, "In numbers"), h("table", {},
    h("thead", {}, h("tr", {}, ["From", "Succeeded", "Failed", "Slow", "Abandoned", "Ignored", "Rejected"].map((word, i) => h("th", { scope: "col", class: i > 0 && "num" }, word)))), tbody));
  const legend = h("p", { class: "legend", "aria-hidden": "true" }, h("span", { class: "key-failed" }), "failed ", h("span", { class: "key-ok" }), "succeeded (upwards) ", h("span", { class: "key-rejected" }), "rejected (downwards) ", h("span", { class: "key-moved" }), "state changed");
  const choices = h("fieldset", { class: "choices ranges" }, h("legend", { class: "unseen" }, "Time range"),
    Object.keys(RANGES).map((minutes) => h("label", {}, h("input", { type: "radio", name: "range", value: minutes, checked: Number(minutes) === range, "data-testid": `range-${minutes}`, onchange: () => choose(Number(minutes)) }), h("span", {}, `${minutes} min`))));
  const element = h("div", { class: "graph" }, choices, svg, readout, legend, numbers);
  let shown = null; // what was drawn last, for the pointer
  let pointed = null;

  function choose(minutes) {
    range = minutes;
    pointed = null;
    if (shown) draw(...shown.of);
    fillNumbers();
  }

  function read() {
    if (!shown) return;
    const bar = pointed != null && shown.made[Math.floor((pointed - LARGE.left) / shown.step)];
    if (bar) {
      const span = shown.spans.findLast(({ from }) => from < bar.at_ms + shown.width);
      setText(readout, `${clockTime(bar.at_ms)} to ${clockTime(bar.at_ms + shown.width)}: ${inWords(bar)}${bar.slow ? `, ${number(bar.slow)} slow` : ""}${bar.abandoned ? `, ${number(bar.abandoned)} abandoned` : ""}${bar.ignored ? `, ${number(bar.ignored)} ignored` : ""}${span ? ` — ${stateOf(span.state).word.toLowerCase()}` : ""}`);
      cursor.setAttribute("visibility", "visible");
      const x = LARGE.left + (Math.floor((pointed - LARGE.left) / shown.step) + 0.5) * shown.step;
      cursor.setAttribute("d", `M${x} 0v${LARGE.band + LARGE.up + LARGE.down}`);
    } else {
      setText(readout, `${shown.words}: ${inWords(sum(shown.made))}`);
      cursor.setAttribute("visibility", "hidden");
    }
  }
  const cursor = s("path", { class: "cursor", visibility: "hidden" });
  svg.addEventListener("pointermove", (event) => {
    pointed = event.clientX - svg.getBoundingClientRect().left;
    read();
  });
  svg.addEventListener("pointerleave", () => {
    pointed = null;
    read();
  });
  numbers.addEventListener("toggle", () => fillNumbers());

  function fillNumbers() {
    if (!numbers.open || !shown) return;
    const width = RANGES[range].row * SLICE_MS;
    const n = Math.ceil((barEnd(shown.now, width) - shown.start) / width);
    const rows = bars(shown.history, shown.now, n, width).reverse();
    tbody.replaceChildren(...rows.map((row) => h("tr", {}, h("th", { scope: "row" }, clockTime(row.at_ms)),
      [row.successes, row.failures, row.slow, row.abandoned, row.ignored, row.rejected].map((n) => h("td", { class: "num" }, number(n))))));
  }

  function draw(circuit, events, now) {
    const wide = svg.clientWidth;
    if (!wide) return;
    const room = wide - LARGE.left;
    const width = RANGES[range].bars[room >= 720 ? 0 : room >= 360 ? 1 : 2] * SLICE_MS;
    const first = firstKnown(circuit, events);
    const most = (range * 60_000) / width;
    const n = first == null ? most : Math.min(most, Math.max(LEAST_BARS, Math.ceil((barEnd(now, width) - first) / width)));
    const step = room / n;
    const made = bars(circuit.history, now, n, width);
    const drawn = paths(made, step, Math.min(1, step / 4), LARGE.up, LARGE.down);
    const start = made[0].at_ms;
    const x = (ms) => LARGE.left + ((ms - start) / width) * step;
    const high = LARGE.band + LARGE.foot + LARGE.up + LARGE.down + LARGE.axis;
    setAttribute(svg, "viewBox", `0 0 ${wide} ${high}`);
    setAttribute(svg, "height", String(high));

    const states = spans(circuit, events, Math.max(start, first ?? start), now);
    const words = n < most ? `Since ${clockTime(first)}, when the data begins` : range === 60 ? "Last hour" : `Last ${range} minutes`;
    const band = states.map(({ state, from, to }) => s("rect", { class: "band", "data-state": state, x: x(from), y: 0, width: Math.max(1, x(to) - x(from)), height: LARGE.band - 4 }));
    const marks = [];
    const moved = []; // behind the bars, so that they hide none
    for (const { state, from, to } of states) {
      if (from > states[0].from) moved.push(s("path", { class: "moved", d: `M${x(from)} 0v${LARGE.band + LARGE.foot + LARGE.up + LARGE.down}` }));
      const wideEnough = x(to) - x(from);
      if (wideEnough < 15) continue;
      const use = s("use", { href: shapeName(state), x: x(from) + 2, y: 2, width: 14, height: 14 });
      marks.push(s("g", { class: "band-shape", "data-state": state }, use));
      if (wideEnough > 95) {
        const word = s("text", { x: x(from) + 21, y: 13, class: "band-word", "data-state": state });
        word.textContent = stateOf(state).word;
        marks.push(word);
      }
    }
    const top = LARGE.band + LARGE.foot;
    const lanes = s("g", { transform: `translate(${LARGE.left} ${top})` },
      s("path", { class: "bar-line", d: `M0 ${LARGE.up + 0.5}h${room}` }),
      s("path", { class: "bar-ok", d: drawn.ok }), s("path", { class: "bar-failed", d: drawn.failed }), s("path", { class: "bar-rejected", d: drawn.rejected }));
    const label = (at, y, text, anchor) => {
      const made = s("text", { x: at, y, class: "axis", "text-anchor": anchor });
      made.textContent = text;
      return made;
    };
    const seconds = width / 1000;
    const labels = [];
    if (made.some((bar) => bar.successes + bar.failures)) labels.push(label(LARGE.left - 5, top + 10, `${rate(drawn.most / seconds)}/s`, "end"));
    if (made.some((bar) => bar.rejected)) labels.push(label(LARGE.left - 5, top + LARGE.up + LARGE.down, `${rate(drawn.mostRejected / seconds)}/s`, "end"));
    const every = [30_000, 60_000, 120_000, 300_000, 600_000].find((every) => (every / width) * step >= 75) ?? 1_200_000;
    for (let at = Math.ceil(start / every) * every; at < now; at += every) {
      labels.push(s("path", { class: "tick", d: `M${x(at)} ${top + LARGE.up + LARGE.down}v4` }));
      if (x(at) > LARGE.left + 14 && x(at) < wide - 18) labels.push(label(x(at), high - 4, clockTime(at).slice(0, every < 60_000 ? 8 : 5), "middle"));
    }
    svg.replaceChildren(...band, ...moved, lanes, ...marks, ...labels, cursor);
    setAttribute(svg, "aria-label", `${words}: ${inWords(sum(made))}; ${count(Math.max(0, states.length - 1), "change")} of state`);
    shown = { made, step, width, words, start, spans: states, history: circuit.history, now, of: [circuit, events, now] };
    read();
    if (!numbers.open || tbody.dataset.slice !== String(Math.floor(now / SLICE_MS))) fillNumbers();
    tbody.dataset.slice = Math.floor(now / SLICE_MS);
  }
  return { element, draw };
}
