// The page as a whole: which view is shown, when it is drawn, banners, keys, announcements.
// The last script: it starts the others.

const route = { page: "overview", name: "" };
let scrolled = 0; // where the overview was left
let pending = false;
let drawnAt = 0;

function readRoute() {
  const hash = location.hash;
  if (hash.startsWith("#/c/")) {
    let name = hash.slice(4);
    try {
      name = decodeURIComponent(name);
    } catch {
      // This page did not write it: take it as it is, and find nothing.
    }
    return { page: "circuit", name };
  }
  const query = new URLSearchParams(hash.split("?")[1] ?? "");
  const state = query.get("state") ?? "";
  return { page: "overview", name: "", text: query.get("q") ?? "", state: Object.hasOwn(STATES, state) ? state : "" };
}

function follow(first) {
  const to = readRoute();
  const from = { ...route };
  if (from.page === "overview" && to.page === "circuit") scrolled = scrollY;
  Object.assign(route, { page: to.page, name: to.name });
  if (to.page === "circuit") {
    if (page && page.name !== to.name) leaveCircuit();
    openCircuit(to.name);
    scrollTo(0, 0);
    render(true);
    byId("circuit-title")?.focus({ preventScroll: true });
    return;
  }
  leaveCircuit();
  filter.text = to.text;
  filter.state = to.state;
  byId("filter").value = to.text;
  render(true);
  if (first) return;
  if (from.page === "circuit") {
    scrollTo(0, scrolled);
    const link = rows.get(from.name)?.row.querySelector("a");
    (link?.isConnected ? link : byId("overview-title")).focus({ preventScroll: true });
  }
}

/// Draws the current data; several changes at once are drawn together.
function render(atOnce) {
  if (atOnce) {
    draw(true);
    return;
  }
  if (pending) return;
  pending = true;
  const now = () => {
    pending = false;
    draw();
  };
  // A hidden tab gets no frames, but its title is visible.
  setTimeout(() => (document.hidden ? now() : requestAnimationFrame(now)), Math.max(0, 200 - (performance.now() - drawnAt)));
}
function draw(atOnce) {
  drawnAt = performance.now();
  drawLock();
  if (live.locked) return;
  drawBanners();
  drawTotals();
  if (route.page === "overview") drawOverview(atOnce);
  else if (page) drawCircuit();
  drawDialog();
  drawWrites();
  renewTimes();
}

/// Shows the view that the address names, or the form for a token.
function drawLock() {
  const shown = live.locked ? "login" : route.page;
  const wasLocked = !byId("login").hidden;
  for (const id of ["login", "overview", "circuit"]) setHidden(byId(id), id !== shown);
  setHidden(document.querySelector(".top nav"), live.locked);
  setHidden(document.querySelector(".banners"), live.locked);
  const you = live.status?.you;
  setHidden(byId("you"), !you?.role);
  setText(byId("you-text"), !you?.role ? "" : you.name ? `${you.name} (${you.role})` : "with the server's token");
  if (live.locked && !wasLocked) {
    for (const id of ["store", "link"]) setText(byId(id), "");
    document.title = "commontrip";
    if (byId("dialog").open) byId("dialog").close();
    byId("login-token").focus();
  }
}

/// One banner per cause: a server that has lost its Redis sends no live updates either.
function drawBanners() {
  const silent = streamSilence() > OLD_AFTER_MS;
  const store = live.store;
  const unreachable = Boolean(store && !store.ok) && (!silent || serverAnswers());
  drawStale(silent, unreachable);
  setHidden(byId("banner-store"), !unreachable);
  setText(byId("store-word"), unreachable ? "Redis is unreachable." : "");
  if (unreachable) {
    const since = store.unavailable_since_ms ? `For ${length(Math.max(1000, Math.floor((serverNow() - store.unavailable_since_ms) / 1000) * 1000))}` : "At the moment";
    setText(byId("store-text"), `${since} this server could not read any circuit, so this page shows old data. Calls do not wait for Redis: a replica that cannot reach Redis decides alone, by its policy. ${store.error ? `Error: ${store.error}` : ""}`);
  }
  const incomplete = unreachable || silent ? "" : (live.status?.incomplete ?? "");
  setHidden(byId("banner-incomplete"), !incomplete);
  setText(byId("incomplete-word"), incomplete && "Some circuits are missing.");
  setText(byId("incomplete-text"), incomplete && `${incomplete}.`);
  document.body.classList.toggle("old", live.known && (isOld() || unreachable));
  const link = byId("link");
  setAttribute(link, "data-is", silent ? "bad" : "good");
  setText(link, silent ? "updates: none" : "updates: live");
  drawStore(store);
  setText(byId("version"), live.status ? `commontrip ${live.status.version}` : "");
  setText(byId("clock"), clock.now_ms ? `server time ${clockTime(serverNow())}` : "");
}

function drawStale(silent, unreachable) {
  const shown = silent && !unreachable;
  setHidden(byId("banner-stale"), !shown);
  const asking = live.known && silence() < 8000;
  const word = !live.known ? "No answer from the server yet." : asking ? "No live updates." : "The server is unreachable.";
  setText(byId("stale-word"), shown ? word : "");
  if (!shown) return;
  const wait = Math.max(0, Math.ceil((live.retryAt - performance.now()) / 1000));
  const seconds = Math.floor(silence() / 1000) * 1000;
  const next = live.stream === "waiting" ? `Trying again in ${wait} s.` : "Trying now …";
  const age = live.known ? `This page shows data from ${seconds ? length(seconds) : "0 s"} ago${asking ? " and reloads it every 5 s" : ""}. ` : "";
  setText(byId("stale-text"), `${age}${next}`);
}

const SLOW_STORE_US = 50_000;
function drawStore(store) {
  const slow = store?.ok && store.answered_in_us > SLOW_STORE_US;
  setAttribute(byId("store"), "data-is", !store ? "unknown" : !store.ok ? "bad" : slow ? "slow" : "good");
  const took = store?.answered_in_us == null ? "" : ` in ${latency(store.answered_in_us)}`;
  setText(byId("store"), !store ? "Redis: unknown" : store.ok ? `Redis: answers${took}${slow ? " (slow)" : ""}` : "Redis: unreachable");
}

/// Why commands are not possible; empty if they are.
function whyReadOnly() {
  const { read_only, you } = live.status ?? {};
  if (read_only) return "This server was started without a token, so it rejects every command. To operate circuits, start it with a token.";
  return you?.role === "read" ? `The token of ${you.name} has the role read. Commands need a token with the role command.` : "";
}

/// Disables the command buttons if commands are not possible, and says why.
function drawWrites() {
  const why = whyReadOnly();
  const readOnly = Boolean(why);
  setHidden(byId("banner-read-only"), !readOnly);
  setText(byId("read-only-text"), why);
  if (document.body.dataset.readOnly === String(readOnly) && !readOnly) return;
  document.body.dataset.readOnly = readOnly;
  for (const button of document.querySelectorAll("[data-write]")) {
    if (button.disabled === readOnly) continue;
    button.disabled = readOnly;
    if (readOnly) {
      button.setAttribute("aria-describedby", "read-only-text");
      button.title = `Read-only: ${why}`;
    } else {
      button.removeAttribute("aria-describedby");
      button.removeAttribute("title");
    }
  }
}

// Announcements for screen readers: a few changes of state by name, many by count.

let moved = new Map();
let announcing = null;
function announceMove(c) {
  moved.set(c.name, c);
  announcing ??= setTimeout(() => {
    const all = [...moved.values()];
    moved = new Map();
    announcing = null;
    const words = all.length <= 3
      ? all.map((c) => `${honest(c.name)} is ${stateOf(c.state).word.toLowerCase()}: ${plain(why(c))}.`)
      : Object.entries(Object.groupBy(all, (c) => c.state)).map(([state, of]) => `${count(of.length, "circuit is", "circuits are")} now ${stateOf(state).word.toLowerCase()}.`);
    setText(byId("announcer"), words.join(" "));
  }, 1000);
}

function start() {
  startOverview();
  startCircuit();
  startActions();
  watch("any", () => render());
  watch("moved", announceMove);
  addEventListener("hashchange", () => follow());
  addEventListener("resize", () => page && render());
  byId("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = byId("login-token");
    const token = field.value.trim();
    const problem = /^[\x21-\x7e]+$/.test(token) ? await logIn(token) : "Enter a token: it has only ASCII characters and no spaces.";
    setText(byId("login-error"), problem && ended(capital(problem)));
    if (problem) {
      field.focus();
      return;
    }
    field.value = "";
    if (page) readDetails(true);
    render(true);
    byId("main").focus();
  });
  byId("log-out").addEventListener("click", () => {
    remembered.write("sessionStorage", tokenKey, "");
    if (live.status) live.status.you = { name: null, role: null };
    readStatus();
    connectNow();
    render(true);
  });
  byId("stale-now").addEventListener("click", () => connectNow());
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey || byId("dialog").open) return;
    event.preventDefault();
    if (route.page !== "overview") location.hash = overviewHref(filter);
    setTimeout(() => byId("filter").focus());
  });
  follow(true);
  setInterval(() => render(), 1000);
  startLive();
}
start();
