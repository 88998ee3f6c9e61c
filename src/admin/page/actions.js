// Commands: one dialog for all of them, the token, and their results.
// Only a full press of the confirming button sends anything.

const ACTIONS = {
  "force-open": { word: "Force open", lasts: true, did: "is forced open", about: "Rejects every call on every replica, until it expires or somebody resets the circuit." },
  disable: { word: "Disable", lasts: true, did: "is disabled", about: "Lets every call pass and counts none in the window. Nothing opens the circuit, so the upstream is not protected." },
  "metrics-only": { word: "Metrics only", lasts: true, did: "only measures", about: "Lets every call pass and counts it, but never opens the circuit: a dry run." },
  reset: { word: "Reset", lasts: false, did: "was reset", about: "Closes the circuit at once on every replica, ends any override, empties the window and resets the backoff. Stored settings stay." },
};

const ADVICE = {
  0: "The command may or may not have been carried out: check the state before you try again.",
  401: "Enter the right token.",
  409: "Look at what is in force now, and decide again.",
  404: "The circuit may be gone: close this dialog and check the list.",
  412: "Close this dialog, check the stored settings, and decide again.",
  413: "Shorten the text.",
  422: "Nothing was changed. Correct it and try again.",
};
const advice = (status) => ADVICE[status] ?? (status >= 500 ? "Redis may be unreachable. Check the state before you try again." : "Nothing was changed.");

const authorKey = "commontrip author";
let asked = null; // what the open dialog is about

function openAction(name, kind) {
  openDialog({ name, kinds: true, kind });
}

function openResetAll() {
  const others = [...live.circuits.values()].filter((c) => c.state !== "closed").length;
  openDialog({
    title: "Reset all circuits", typed: "reset-all", confirm: "Reset all", danger: true, endsAll: true,
    about: [h("p", {}, `Closes ${live.circuits.size === 1 ? "the only circuit" : `all ${number(live.circuits.size)} circuits`} at once on every replica and ends every override. Not closed now: ${number(others)}.`)],
    run: ({ reason, author, token, typed }) => ask("reset-all", { method: "POST", body: { confirm: typed, reason, author }, token }),
    done: ({ reset, failed, incomplete }) => {
      const did = `${count(reset.length, "circuit was", "circuits were")} reset`;
      const others = incomplete ? ` Other circuits were left out: ${incomplete}.` : "";
      if (!failed.length) return others ? [`${did}.${others}`] : `${did}.`;
      return [`${did}, ${number(failed.length)} not: `,
        ...failed.flatMap(({ name, error }, i) => [i ? "; " : "", foreign(name), ` (${error})`]), `. Reset these one by one.${others}`];
    },
  });
}

/// The generation of the override in force; 0 without one.
function overrideOf(name) {
  const c = live.circuits.get(name);
  const ended = c?.until_ms > 0 && c.until_ms <= serverNow();
  return c && OVERRIDES.includes(c.state) && !ended ? c.generation : 0;
}

/// `about` describes the change, `run` sends it, `done` words the result, `refused` is called when
/// it is rejected. `unsaid` needs no reason; `blocked` says whether it cannot be sent now.
function openDialog(given) {
  if (whyReadOnly() || byId("dialog").open) return;
  asked = { ...given, sending: false, replaces: overrideOf(given.name) };
  setHidden(byId("dialog-name"), !given.name);
  byId("dialog-name").replaceChildren(given.name ? foreign(given.name) : "");
  setHidden(byId("dialog-kinds"), !given.kinds || Boolean(given.kind));
  for (const radio of byId("dialog-kinds").querySelectorAll("input")) radio.checked = radio.value === given.kind;
  byId("dialog-about").replaceChildren(...(given.about ?? (given.kind ? [h("p", {}, ACTIONS[given.kind].about)] : [])));
  byId("dialog-reason").value = "";
  byId("dialog-author").value = remembered.read("localStorage", authorKey);
  byId("dialog-token").value = "";
  byId("dialog-typed").value = "";
  setText(byId("dialog-typed-word"), given.typed ?? "");
  setHidden(byId("dialog-typed-line"), !given.typed);
  byId("dialog-form").querySelector('[name="for"][value="900000"]').checked = true;
  complain("");
  drawDialog();
  byId("dialog").showModal();
  const first = given.kinds && !given.kind ? byId("dialog-kinds").querySelector("input") : byId(given.unsaid ? "dialog-title" : "dialog-reason");
  first.focus();
}

const chosenKind = () => byId("dialog-kinds").querySelector("input:checked")?.value;

/// How long the override lasts, ms; null: until a reset; undefined: not a valid number.
function chosenLength() {
  const choice = byId("dialog-form").querySelector('[name="for"]:checked').value;
  if (choice === "none") return null;
  if (choice !== "other") return Number(choice);
  const ms = Number(byId("for-count").value) * Number(byId("for-unit").value);
  return Number.isSafeInteger(ms) && ms >= 1 && ms <= 31_536_000_000 ? ms : undefined;
}

function drawDialog() {
  if (!asked) return;
  const kind = asked.kinds ? chosenKind() : null;
  const action = kind && ACTIONS[kind];
  setText(byId("dialog-title"), asked.title ?? (action ? action.word : "Choose an action"));
  const c = asked.name != null && live.circuits.get(asked.name);
  const now = byId("dialog-now");
  setHidden(now, !c);
  if (c) {
    if (!now.firstChild) now.append("now ", badge(c.state), h("span"));
    setBadge(now.children[0], c.state);
    setText(now.children[1], ` ${OVERRIDES.includes(c.state) ? "" : endingSaid(c)}`);
  }
  drawOverrides(c, kind);
  setHidden(byId("dialog-expiry"), !action?.lasts);
  setHidden(byId("dialog-reason-line"), Boolean(asked.unsaid));
  setHidden(byId("dialog-author-line"), Boolean(asked.unsaid || live.status?.you.name));
  setHidden(byId("dialog-other"), byId("dialog-form").querySelector('[name="for"]:checked').value !== "other");
  const ms = chosenLength();
  setText(byId("dialog-ends"), ms === undefined ? "" : ms === null ? "It lasts until somebody resets the circuit." : `It expires at ${clockTime(serverNow() + ms)}.`);
  const token = storedToken();
  setHidden(byId("dialog-token-line"), Boolean(token));
  setHidden(byId("dialog-token-kept"), !token);
  const confirm = byId("dialog-confirm");
  const words = asked.confirm ?? (action ? (action.lasts && ms !== undefined ? `${action.word} ${ms === null ? "until reset" : `for ${length(ms)}`}` : action.word) : "Choose an action");
  setText(confirm, asked.sending ? "Sending …" : words);
  confirm.disabled = asked.sending || Boolean(asked.kinds && !action) || Boolean(asked.blocked?.());
  confirm.classList.toggle("danger", Boolean(asked.danger || action));
}

/// Shows the overrides that a command would end or replace.
function drawOverrides(c, kind) {
  const all = asked.endsAll ? [...live.circuits.values()].filter(({ state }) => OVERRIDES.includes(state)) : c && asked.kinds ? [c] : [];
  const lines = all.slice(0, MOST_OVERRIDES).map((c) => (asked.endsAll ? [foreign(c.name, { class: "person" }), " – ", ...overrideSaid(c)] : overrideSaid(c))).filter((parts) => parts.length);
  const more = all.length - MOST_OVERRIDES;
  const verb = kind === "reset" || asked.endsAll ? "Ends" : kind ? "Replaces" : "In force";
  const box = byId("dialog-overrides");
  setHidden(box, !lines.length);
  const said = lines.length ? `${verb} ${lines.map(plain).join()} ${more}` : "";
  if (box.dataset.said === said) return;
  box.dataset.said = said;
  if (!lines.length) return;
  const word = `${verb}${kind || asked.endsAll ? ` ${all.length === 1 ? "this override" : `these ${number(all.length)} overrides`}` : ""}:`;
  box.replaceChildren(h("strong", {}, word), h("ul", {}, lines.map((parts) => h("li", {}, parts)), more > 0 && h("li", {}, `and ${number(more)} more`)));
}
const MOST_OVERRIDES = 5;

function complain(words, field) {
  setText(byId("dialog-error"), words);
  for (const input of byId("dialog-form").querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  field?.setAttribute("aria-invalid", "true");
  field?.focus();
  if (words && !field) byId("dialog-error").scrollIntoView({ block: "nearest" });
}

const bytes = (text) => new TextEncoder().encode(text).length;

/// The holder of the token, or null after showing an error.
async function whose(token) {
  const known = storedToken() === token && live.status?.you;
  if (known?.role) return known;
  const reply = await ask("status", { token });
  const you = reply.data?.you;
  if (you?.role === "command") return you;
  if (you?.role) complain(`The token of ${you.name} has the role ${you.role}; this needs the role command.`, byId("dialog-token"));
  else if (reply.ok || reply.status === 401) complain(`The token is wrong. ${advice(401)}`, byId("dialog-token"));
  else complain(`${ended(reply.problem)} Nothing was sent.`);
  return null;
}

/// The values of the fields, or null after showing an error.
async function fields(mine) {
  const value = (id) => byId(id).value.trim();
  const [reason, author, typed] = [value("dialog-reason"), value("dialog-author"), value("dialog-typed")];
  const token = storedToken() || value("dialog-token");
  const wrong = (words, id) => {
    complain(words, byId(id));
    return null;
  };
  const kind = asked.kinds ? chosenKind() : null;
  const for_ms = kind && ACTIONS[kind].lasts ? chosenLength() : null;
  if (for_ms === undefined) return wrong("Enter a duration from 1 second to 1 year.", "for-count");
  if (!reason && !asked.unsaid) return wrong("Give a reason: it is kept with the change.", "dialog-reason");
  if (bytes(reason) > 1000) return wrong(`The reason has ${bytes(reason)} bytes; 1,000 are allowed.`, "dialog-reason");
  if (bytes(author) > 200) return wrong(`The name has ${bytes(author)} bytes; 200 are allowed.`, "dialog-author");
  if (!token) return wrong("Enter your token, or the one that this server was started with.", "dialog-token");
  if (!/^[\x21-\x7e]+$/.test(token)) return wrong("A token has only ASCII characters and no spaces: check what was copied with it.", "dialog-token");
  if (asked.typed && typed !== asked.typed) return wrong(`Type ${asked.typed} to confirm.`, "dialog-typed");
  const you = await whose(token);
  if (!you || asked !== mine) return null;
  if (!you.name && !author && !mine.unsaid) return wrong("Give your name: it is kept with the change.", "dialog-author");
  return { kind, for_ms, reason, author: you.name ? undefined : author, token, typed };
}

async function confirmDialog() {
  if (!asked || asked.sending) return;
  const mine = asked;
  mine.sending = true;
  complain("");
  drawDialog();
  const filled = await fields(mine);
  if (!filled) {
    mine.sending = false;
    drawDialog();
    return;
  }
  if (filled.author) remembered.write("localStorage", authorKey, filled.author);
  const reply = await (mine.run ?? runAction)(filled, mine.name);
  mine.sending = false;
  const open = asked === mine;
  if (reply.ok) {
    remembered.write("sessionStorage", tokenKey, filled.token);
    if (mine.name != null && reply.data.name === mine.name && !mine.removes) take(reply.data);
    if (open) byId("dialog").close();
    say((mine.done ?? doneAction)(reply.data, filled, mine.name), mine.name);
    render(true);
    readStatus();
    return;
  }
  if (reply.status === 401) {
    if (storedToken() === filled.token) remembered.write("sessionStorage", tokenKey, "");
  } else if (reply.status) remembered.write("sessionStorage", tokenKey, filled.token);
  mine.refused?.();
  // The user decided about the override that was shown. Show the current one, so that the next try
  // can replace it.
  if (reply.status === 409 && mine.name != null) {
    await refresh(mine.name);
    mine.replaces = overrideOf(mine.name);
  }
  const words = `${ended(reply.problem)} ${advice(reply.status)}`;
  if (!open) {
    say(`Not done. ${words}`, mine.name, true);
    return;
  }
  drawDialog();
  complain(words, reply.status === 401 ? byId("dialog-token") : null);
  if (reply.status === 401) byId("dialog-token").value = "";
}

function runAction({ kind, for_ms, reason, author, token }, name) {
  const body = ACTIONS[kind].lasts ? { for_ms, reason, author, replaces: asked.replaces } : { reason, author };
  return ask(pathOf(name, `/${kind}`), { method: "POST", body, token });
}
/// Reads a circuit again, to show its current state.
async function refresh(name) {
  const reply = await ask(pathOf(name));
  if (reply.ok) take(reply.data.circuit);
}
function doneAction(_, { kind, for_ms }) {
  const { did, lasts } = ACTIONS[kind];
  return `${did}${lasts ? (for_ms === null ? " until somebody resets it" : ` for ${length(for_ms)}`) : ""}.`;
}

let sayingNoMore = null;
const SAID_FOR_MS = 20_000;
/// Shows a result and announces it to screen readers; anything but a plain success stays until it
/// is dismissed.
function say(words, name, stays = Array.isArray(words)) {
  clearTimeout(sayingNoMore);
  if (!stays) sayingNoMore = setTimeout(() => !byId("toast").matches(":hover, :focus-within") && unsay(), SAID_FOR_MS);
  const parts = Array.isArray(words) ? words : [words];
  byId("result").replaceChildren(...(name != null ? [foreign(name), " "] : []), ...parts);
  setHidden(byId("toast-close"), false);
  byId("toast").classList.add("shown");
}

function unsay() {
  byId("toast").classList.remove("shown");
  byId("result").replaceChildren();
  setHidden(byId("toast-close"), true);
}

function startActions() {
  const dialog = byId("dialog");
  byId("dialog-kinds").append(...Object.entries(ACTIONS).map(([kind, { word, about }]) => h("label", { class: "kind" },
    h("input", { type: "radio", name: "kind", value: kind, "data-testid": `kind-${kind}` }), h("span", {}, h("strong", {}, word), h("span", { class: "hint" }, about)))));
  dialog.addEventListener("input", () => drawDialog());
  dialog.addEventListener("close", () => {
    asked = null;
    byId("dialog-now").replaceChildren();
    byId("dialog-token").value = "";
  });
  byId("dialog-cancel").addEventListener("click", () => dialog.close());
  byId("dialog-forget").addEventListener("click", () => {
    remembered.write("sessionStorage", tokenKey, "");
    if (live.status) live.status.you = { name: null, role: null };
    drawDialog();
    byId("dialog-token").focus();
  });
  const confirm = byId("dialog-confirm");
  byId("dialog-form").addEventListener("submit", (event) => event.preventDefault());
  // Enter in a field only moves to the button; it takes another press to act.
  byId("dialog-form").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    if (event.target === confirm && event.repeat) event.preventDefault();
    if (event.key === "Enter" && event.target instanceof HTMLInputElement) {
      event.preventDefault();
      if (!event.repeat && !event.isComposing) confirm.focus();
    }
  });
  confirm.addEventListener("click", () => confirmDialog());
  byId("toast-close").addEventListener("click", unsay);
}
