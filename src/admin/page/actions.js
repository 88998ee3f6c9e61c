// What changes something: one dialog for all of it, the token, and what came of it.
// Nothing is sent but by the confirming button, and that only as a whole press.

const ACTIONS = {
  "force-open": { word: "Force open", lasts: true, did: "is forced open", about: "Rejects every call, on every replica. Only the end of its time or a reset ends it." },
  disable: { word: "Disable", lasts: true, did: "is disabled", about: "Lets every call pass and counts none in the window: nothing is protected and nothing opens the circuit until it ends." },
  "metrics-only": { word: "Metrics only", lasts: true, did: "only measures", about: "Lets every call pass and counts them, but nothing opens the circuit: a dry run." },
  reset: { word: "Reset", lasts: false, did: "was reset", about: "Closes the circuit at once, ends any override, and begins with an empty window and the shortest wait. Calls go out again on every replica. Stored settings stay." },
};

const ADVICE = {
  0: "It is not known whether it was done: look at the state before you try again.",
  401: "The token is forgotten; give the right one.",
  403: "This server takes no commands; use one that was started with a token.",
  404: "The circuit may be gone: close this and look at the list.",
  412: "Close this, look at what is stored now, and decide again.",
  413: "Write less.",
  422: "Nothing was changed. Mend it and try again.",
};
const advice = (status) => ADVICE[status] ?? (status >= 500 ? "The store may be away. Look at the state before you try again." : "Nothing was changed.");

const authorKey = "commontrip author";
let asked = null; // what the open dialog is about

function openAction(name, kind) {
  openDialog({ name, kinds: true, kind });
}

function openResetAll() {
  const others = [...live.circuits.values()].filter((c) => c.state !== "closed").length;
  openDialog({
    title: "Reset all circuits", typed: "reset-all", confirm: "Reset all", danger: true,
    about: [h("p", {}, `Resets ${count(live.circuits.size, "circuit")}, of which ${others ? number(others) : "none"} ${others === 1 ? "is" : "are"} not closed: closes each at once and ends every override. Calls go out again everywhere.`)],
    run: ({ reason, author, token, typed }) => ask("reset-all", { method: "POST", body: { confirm: typed, reason, author }, token }),
    done: ({ reset, failed }) => {
      if (!failed.length) return `${count(reset.length, "circuit was", "circuits were")} reset.`;
      return [`${count(reset.length, "circuit was", "circuits were")} reset, ${number(failed.length)} not: `,
        ...failed.flatMap(({ name, error }, i) => [i ? "; " : "", foreign(name), ` (${error})`]), ". Reset those one by one."];
    },
  });
}

/// `about`: what is changed. `run` sends it; `done` says what came of it; `refused` hears of a no.
function openDialog(given) {
  if (live.status?.read_only || byId("dialog").open) return;
  asked = { ...given, sending: false };
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
  (given.kinds && !given.kind ? byId("dialog-kinds").querySelector("input") : byId("dialog-reason")).focus();
}

const chosenKind = () => byId("dialog-kinds").querySelector("input:checked")?.value;

/// How long the override lasts, ms; null: until ended; undefined: no number was given.
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
  setText(byId("dialog-title"), asked.title ?? (action ? action.word : "Act on a circuit"));
  const c = asked.name != null && live.circuits.get(asked.name);
  const now = byId("dialog-now");
  setHidden(now, !c);
  if (c) {
    if (!now.firstChild) now.append("now ", badge(c.state), h("span"));
    setBadge(now.children[0], c.state);
    setText(now.children[1], ` ${endingSaid(c)}`);
  }
  setHidden(byId("dialog-expiry"), !action?.lasts);
  setHidden(byId("dialog-other"), byId("dialog-form").querySelector('[name="for"]:checked').value !== "other");
  const ms = chosenLength();
  setText(byId("dialog-ends"), ms === undefined ? "" : ms === null ? "It lasts until somebody resets the circuit." : `It ends by itself at ${clockTime(serverNow() + ms)}.`);
  const token = remembered.read("sessionStorage", tokenKey);
  setHidden(byId("dialog-token-line"), Boolean(token));
  setHidden(byId("dialog-token-kept"), !token);
  const confirm = byId("dialog-confirm");
  const words = asked.confirm ?? (action ? (action.lasts && ms !== undefined ? `${action.word} ${ms === null ? "until ended" : `for ${length(ms)}`}` : action.word) : "Choose what to do");
  setText(confirm, asked.sending ? "Sending …" : words);
  confirm.disabled = asked.sending || Boolean(asked.kinds && !action);
  confirm.classList.toggle("danger", Boolean(asked.danger || action));
}

function complain(words, field) {
  setText(byId("dialog-error"), words);
  for (const input of byId("dialog-form").querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  field?.setAttribute("aria-invalid", "true");
  field?.focus();
  if (words && !field) byId("dialog-error").scrollIntoView({ block: "nearest" });
}

const bytes = (text) => new TextEncoder().encode(text).length;

/// What was filled in, or null when something is missing, which is then said.
function fields() {
  const value = (id) => byId(id).value.trim();
  const [reason, author, typed] = [value("dialog-reason"), value("dialog-author"), value("dialog-typed")];
  const token = remembered.read("sessionStorage", tokenKey) || value("dialog-token");
  const wrong = (words, id) => {
    complain(words, byId(id));
    return null;
  };
  const kind = asked.kinds ? chosenKind() : null;
  const for_ms = kind && ACTIONS[kind].lasts ? chosenLength() : null;
  if (for_ms === undefined) return wrong("Give a length from 1 second to 1 year.", "for-count");
  if (!reason) return wrong("Say why: whoever looks next will want to know.", "dialog-reason");
  if (bytes(reason) > 1000) return wrong(`The reason has ${bytes(reason)} bytes; 1,000 are allowed.`, "dialog-reason");
  if (!author) return wrong("Say who you are: it is kept with the change.", "dialog-author");
  if (bytes(author) > 200) return wrong(`The name has ${bytes(author)} bytes; 200 are allowed.`, "dialog-author");
  if (!token) return wrong("Give the token that this server was started with.", "dialog-token");
  if (!/^[\x21-\x7e]+$/.test(token)) return wrong("A token has no spaces and only plain characters: look for what was copied along.", "dialog-token");
  if (asked.typed && typed !== asked.typed) return wrong(`Type ${asked.typed} to confirm.`, "dialog-typed");
  return { kind, for_ms, reason, author, token, typed };
}

async function confirmDialog() {
  if (!asked || asked.sending) return;
  const filled = fields();
  if (!filled) return;
  const mine = asked;
  remembered.write("localStorage", authorKey, filled.author);
  complain("");
  mine.sending = true;
  drawDialog();
  const reply = await (mine.run ?? runAction)(filled, mine.name);
  mine.sending = false;
  const open = asked === mine;
  if (reply.ok) {
    remembered.write("sessionStorage", tokenKey, filled.token);
    if (mine.name != null && reply.data.name === mine.name) take(reply.data);
    if (open) byId("dialog").close();
    say((mine.done ?? doneAction)(reply.data, filled, mine.name), mine.name);
    render(true);
    return;
  }
  if (reply.status === 401) remembered.write("sessionStorage", tokenKey, "");
  else if (reply.status) remembered.write("sessionStorage", tokenKey, filled.token);
  mine.refused?.();
  const words = `${/[.!?]$/.test(reply.problem) ? reply.problem : `${reply.problem}.`} ${advice(reply.status)}`;
  if (!open) {
    say(`Not done. ${words}`, mine.name, true);
    return;
  }
  drawDialog();
  complain(words, reply.status === 401 ? byId("dialog-token") : null);
  if (reply.status === 401) byId("dialog-token").value = "";
}

function runAction({ kind, for_ms, reason, author, token }, name) {
  const path = pathOf(name);
  if (!path) return { ok: false, status: 404, problem: "A browser cannot name this circuit to a server, as it takes the name for a folder" };
  const body = ACTIONS[kind].lasts ? { for_ms, reason, author } : { reason, author };
  return ask(`${path}/${kind}`, { method: "POST", body, token });
}
function doneAction(_, { kind, for_ms }) {
  const { did, lasts } = ACTIONS[kind];
  return `${did}${lasts ? (for_ms === null ? " until somebody resets it" : ` for ${length(for_ms)}`) : ""}.`;
}

let sayingNoMore = null;
const SAID_FOR_MS = 20_000;
/// Says what came of it, to eyes and ears; what is more than a plain yes stays until it is dismissed.
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
    drawDialog();
    byId("dialog-token").focus();
  });
  const confirm = byId("dialog-confirm");
  byId("dialog-form").addEventListener("submit", (event) => event.preventDefault());
  // Enter in a field only leads to the button; it takes another press to act.
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
