// The page as a whole: which view is shown, when it is drawn, banners, keys, what is read aloud.
// Comes last of the scripts: it starts them.

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
      // Not ours: taken as it is, and not found.
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
  setHidden(byId("overview"), to.page !== "overview");
  setHidden(byId("circuit"), to.page !== "circuit");
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

/// Draws what is known; many changes of a moment are drawn once.
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
  // A tab that is not seen has no frames, but a title.
  setTimeout(() => (document.hidden ? now() : requestAnimationFrame(now)), Math.max(0, 200 - (performance.now() - drawnAt)));
}
function draw(atOnce) {
  drawnAt = performance.now();
  drawBanners();
  drawTotals();
  if (route.page === "overview") drawOverview(atOnce);
  else if (page) drawCircuit();
  drawDialog();
  drawWrites();
  renewTimes();
}

function drawBanners() {
  const silent = streamSilence() > OLD_AFTER_MS;
  const seconds = Math.floor(silence() / 1000) * 1000;
  const wait = Math.max(0, Math.ceil((live.retryAt - performance.now()) / 1000));
  setHidden(byId("banner-stale"), !silent);
  const asking = live.known && silence() < 8000;
  const word = !live.known ? "No answer from the server yet." : asking ? "No live updates." : "Old data.";
  setText(byId("stale-word"), silent ? word : "");
  if (silent) {
    const next = live.stream === "waiting" ? `Trying again in ${wait} s.` : "Trying now …";
    setText(byId("stale-text"), `${live.known ? `What you see is ${seconds ? length(seconds) : "0 s"} old${asking ? ", asked for every 5 s" : ""}. ` : ""}${next}`);
  }
  document.body.classList.toggle("old", live.known && (isOld() || live.store?.ok === false));
  const link = byId("link");
  setAttribute(link, "data-is", silent ? "bad" : "good");
  setText(link, silent ? "updates: none" : "updates: live");

  const store = live.store;
  setAttribute(byId("store"), "data-is", !store ? "unknown" : store.ok ? "good" : "bad");
  setText(byId("store"), !store ? "store: not known" : store.ok ? `store: answers${store.answered_in_us == null ? "" : ` in ${latency(store.answered_in_us)}`}` : "store: away");
  const away = Boolean(store && !store.ok);
  setHidden(byId("banner-store"), !away);
  setText(byId("store-word"), away ? "The store is away from this server." : "");
  if (away) {
    const since = store.away_since_ms ? `For ${length(Math.max(1000, Math.floor((serverNow() - store.away_since_ms) / 1000) * 1000))}` : "At present";
    setText(byId("store-text"), `${since} no circuit could be read: what you see is of before. Calls do not wait for the store: each replica that has lost it, too, goes on by its policy. ${store.error ? `It says: ${store.error}` : ""}`);
  }
  setText(byId("version"), live.status ? `commontrip ${live.status.version}` : "");
  setText(byId("clock"), clock.now_ms ? `server's clock ${clockTime(serverNow())}` : "");
}

/// Who may not write cannot press, and is told why.
function drawWrites() {
  const readOnly = Boolean(live.status?.read_only);
  setHidden(byId("banner-read-only"), !readOnly);
  if (document.body.dataset.readOnly === String(readOnly) && !readOnly) return;
  document.body.dataset.readOnly = readOnly;
  for (const button of document.querySelectorAll("[data-write]")) {
    if (button.disabled === readOnly) continue;
    button.disabled = readOnly;
    if (readOnly) {
      button.setAttribute("aria-describedby", "read-only-text");
      button.title = "Read-only: no token is set on this server";
    } else {
      button.removeAttribute("aria-describedby");
      button.removeAttribute("title");
    }
  }
}

// What is read aloud: changes of state, a few by name, many by number.

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
