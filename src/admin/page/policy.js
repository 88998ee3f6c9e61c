// The policy of a circuit: what is in force, where that differs from the code, and its editor.
// The server says what is valid; here only whole numbers are told from other text.

/// Settings that 0 switches off.
const OFF_AT_0 = ["window_calls", "failure_rate_threshold", "failure_count_threshold", "consecutive_failures_threshold", "slow_call_duration_threshold_ms", "ramp_duration_ms", "call_timeout_ms"];
/// What the numbers of some settings mean.
const CHOICES = {
  latency_recording: "; 0 none, 1 a sample, 2 every call",
  abandoned_calls: "; 0 ignored, 1 failures",
  abandoned_after_ms: "; 0 is automatic",
};
const SETTINGS = [
  ["Window", [
    ["window_ms", "Length of the time window", "ms"],
    ["window_buckets", "Buckets of the time window", ""],
    ["window_calls", "Count the last calls instead", "calls"],
    ["minimum_number_of_calls", "Calls below which no rate opens", "calls"],
  ]],
  ["Opens at", [
    ["failure_rate_threshold", "Failure rate", "%"],
    ["failure_count_threshold", "Failures in the window", "failures"],
    ["consecutive_failures_threshold", "Failures in a row", "failures"],
    ["slow_call_duration_threshold_ms", "A call is slow from", "ms"],
    ["slow_call_rate_threshold", "Rate of slow calls", "%"],
    ["quorum", "Replicas that must have failed", "replicas"],
  ]],
  ["While open", [
    ["wait_duration_in_open_state_ms", "Wait before probes", "ms"],
    ["backoff_multiplier_percent", "Each further wait, of the one before", "%"],
    ["max_wait_duration_in_open_state_ms", "Longest wait", "ms"],
    ["jitter", "Lengthen waits at random by up to", "%"],
    ["backoff_reset_after_ms", "Calm time after which the wait is short again", "ms"],
  ]],
  ["Half-open", [
    ["permitted_number_of_calls_in_half_open_state", "Probes out at once, in the fleet", "probes"],
    ["success_threshold", "Successes that close", "probes"],
    ["half_open_failure_threshold", "Failures that open again", "probes"],
    ["max_wait_duration_in_half_open_state_ms", "Longest half-open", "ms"],
    ["probe_lease_ms", "A probe may be out for", "ms"],
  ]],
  ["After recovery", [
    ["ramp_duration_ms", "Admit more and more for", "ms"],
    ["ramp_initial", "Share admitted at first", "%"],
  ]],
  ["Calls and reports", [
    ["call_timeout_ms", "A call may take", "ms"],
    ["abandoned_calls", "Dropped calls that ran too long", ""],
    ["abandoned_after_ms", "A dropped call ran too long from", "ms"],
    ["decision_ttl_ms", "A decision is good for", "ms"],
    ["report_interval_ms", "Report every", "ms"],
    ["latency_recording", "Latencies are recorded of", ""],
  ]],
];

/// A setting's number as a person reads it.
function settingWords(key, value, unit) {
  if (value === 0 && OFF_AT_0.includes(key)) return "off";
  if (value === 0 && key === "decision_ttl_ms") return "no time: always ask";
  if (value === 0 && key === "report_interval_ms") return "at once";
  if (value === 0 && key === "abandoned_after_ms") return "automatic";
  if (unit === "ms") return value >= 1000 ? length(value) : `${number(value)} ms`;
  if (key === "abandoned_calls") return ["are ignored", "are failures"][value] ?? String(value);
  if (key === "latency_recording") return ["no calls", "a sample", "every call"][value] ?? String(value);
  return unit === "%" ? `${number(value)} %` : number(value);
}

/// The groups above, and what this page has not heard of yet.
function groupsOf(policy) {
  const known = new Set(SETTINGS.flatMap(([, settings]) => settings.map(([key]) => key)));
  const others = Object.keys(policy.in_force).filter((key) => !known.has(key)).map((key) => [key, "", ""]);
  const here = SETTINGS.map(([title, settings]) => [title, settings.filter(([key]) => Object.hasOwn(policy.in_force, key))]);
  return [...here, ["Others", others]].filter(([, settings]) => settings.length);
}

/// `details` gives what was read last; `reread` asks for it anew.
function makePolicy(name, details, reread) {
  const about = h("p", { class: "policy-about" });
  const note = h("div", { class: "policy-note", role: "status" });
  const table = h("div", { class: "policy-table" });
  const error = h("p", { class: "error", role: "alert", "data-testid": "policy-error" });
  const write = { type: "button", "data-write": true };
  const edit = h("button", { ...write, "data-testid": "policy-edit", onclick: () => begin() }, "Edit what is stored");
  const remove = h("button", { ...write, class: "danger-quiet", "data-testid": "policy-remove", onclick: () => takeAway() }, "Take it away …");
  const save = h("button", { ...write, class: "primary", "data-testid": "policy-save", onclick: () => openSave() }, "Save …");
  const cancel = h("button", { type: "button", "data-testid": "policy-cancel", onclick: () => end() }, "Do not save");
  const buttons = h("p", { class: "buttons" }, edit, remove, save, cancel);
  const element = h("div", { class: "policy", "data-testid": "policy" }, about, note, table, error, buttons);
  let editing = null; // { version, inputs: Map of key to input }
  let drawn = "";

  function begin() {
    const { circuit, policy } = details();
    editing = { version: circuit.policy_version, inputs: new Map() };
    for (const [key, words, unit] of groupsOf(policy).flatMap(([, settings]) => settings)) {
      const hint = h("span", { class: "hint", "aria-live": "off" });
      const input = h("input", { type: "text", inputmode: "numeric", autocomplete: "off", size: 9, "data-key": key, "aria-label": `${words || key}: stored value${unit ? `, ${unit}` : ""}; empty: as in code`, placeholder: String(policy.code[key] ?? "") });
      input.value = policy.stored[key] ?? "";
      const tell = () => {
        const value = whole(input.value);
        setText(hint, input.value.trim() === "" ? `as in code${unit ? `, in ${unit}` : ""}${OFF_AT_0.includes(key) ? "; 0 is off" : CHOICES[key] ?? ""}` : value == null ? "not a whole number" : settingWords(key, value, unit));
      };
      input.addEventListener("input", tell);
      tell();
      editing.inputs.set(key, { input, hint });
    }
    drawn = "";
    setText(error, "");
    draw();
    editing.inputs.values().next().value?.input.focus();
  }
  function end() {
    editing = null;
    drawn = "";
    setText(error, "");
    draw();
    edit.focus();
  }

  function whole(text) {
    const trimmed = text.trim();
    const value = Number(trimmed);
    return /^[0-9]+$/.test(trimmed) && Number.isSafeInteger(value) ? value : null;
  }
  function read() {
    const set = {};
    for (const [key, { input }] of editing.inputs) {
      input.removeAttribute("aria-invalid");
      if (input.value.trim() === "") continue;
      const value = whole(input.value);
      if (value == null) {
        input.setAttribute("aria-invalid", "true");
        setText(error, `${key} is “${input.value}”, which is not a whole number. Leave it empty to have what the code says.`);
        input.focus();
        return null;
      }
      set[key] = value;
    }
    setText(error, "");
    return set;
  }

  function changes(stored, set, code) {
    const keys = [...new Set([...Object.keys(stored), ...Object.keys(set)])].filter((key) => stored[key] !== set[key]);
    const side = (of, key) => (of[key] === undefined ? `${code[key]} (code)` : String(of[key]));
    return keys.map((key) => h("li", {}, h("code", {}, key), `: ${side(stored, key)} → ${side(set, key)}`));
  }

  function openSave() {
    const set = read();
    if (!set) return;
    const { policy } = details();
    const lines = changes(policy.stored, set, policy.code);
    if (!lines.length) {
      setText(error, "Nothing is different from what is stored.");
      return;
    }
    if (!Object.keys(set).length) {
      takeAway();
      return;
    }
    openDialog({
      title: "Store settings", name, confirm: "Store them",
      about: [h("p", {}, "These win over the code, in every replica, with its next report:"), h("ul", { class: "changes" }, lines)],
      run: ({ reason, author, token }) => ask(`${pathOf(name)}/policy`, { method: "PUT", body: { set, reason, author }, token, version: editing?.version ?? 0 }),
      done: () => {
        end();
        return "Settings were stored.";
      },
      refused: () => reread(),
    });
  }

  function takeAway() {
    const { circuit, policy } = details();
    openDialog({
      title: "Take the stored settings away", name, confirm: "Take them away", danger: true,
      about: [h("p", {}, "What the code says is in force again, in every replica:"), h("ul", { class: "changes" }, changes(policy.stored, {}, policy.code))],
      run: ({ reason, author, token }) => ask(`${pathOf(name)}/policy`, { method: "DELETE", body: { reason, author }, token, version: editing?.version ?? circuit.policy_version }),
      done: () => {
        if (editing) end();
        return "The stored settings were taken away.";
      },
      refused: () => reread(),
    });
  }

  function draw() {
    const known = details();
    setHidden(element, !known);
    if (!known) return;
    const { circuit, policy } = known;
    const stored = Object.keys(policy.stored).length;
    const differing = Object.keys(policy.in_force).filter((key) => policy.in_force[key] !== policy.code[key]).length;
    const key = JSON.stringify([policy, circuit.policy_version, Boolean(editing), editing?.version]);
    if (drawn === key) return;
    drawn = key;
    setText(about, stored
      ? `${count(stored, "setting is", "settings are")} stored with the circuit and ${stored === 1 ? "wins" : "win"} over the code in every replica; ${differing ? count(differing, "differs", "differ") : "none differs"} from it. Version ${circuit.policy_version}.`
      : "Nothing is stored with the circuit: what the code says is in force.");
    setHidden(edit, Boolean(editing));
    setText(edit, stored ? "Edit what is stored" : "Store other settings");
    setHidden(remove, Boolean(editing) || !stored);
    setHidden(save, !editing);
    setHidden(cancel, !editing);
    note.replaceChildren();
    if (editing && editing.version !== circuit.policy_version) {
      note.append(h("p", {}, h("strong", {}, "Somebody stored other settings since you began. "), "The column beside yours shows them."),
        h("p", { class: "buttons" },
          h("button", { type: "button", "data-testid": "policy-theirs", onclick: begin }, "Begin again from theirs"),
          h("button", { type: "button", "data-testid": "policy-mine", onclick: () => { editing.version = circuit.policy_version; draw(); } }, "Go on with mine")));
    }
    const focused = document.activeElement;
    const head = ["Setting", "In force", "In code", "Stored", editing && "To store"].filter(Boolean);
    const body = groupsOf(policy).map(([title, settings]) => h("tbody", {},
      h("tr", { class: "group" }, h("th", { colspan: head.length, scope: "colgroup" }, title)),
      settings.map(([key, words, unit]) => {
        const differs = policy.in_force[key] !== policy.code[key];
        const value = (of, cell) => h("td", { ...cell }, of[key] === undefined ? h("span", { class: "quiet" }, "–") : settingWords(key, of[key], unit));
        const own = editing?.inputs.get(key);
        return h("tr", { class: differs && "differs", "data-key": key },
          h("th", { scope: "row" }, h("span", {}, words || key), words && h("code", {}, key)),
          value(policy.in_force, { class: "in-force", "data-label": "in force" }), value(policy.code, { "data-label": "in code" }), value(policy.stored, { "data-label": "stored" }),
          editing && h("td", { class: "to-store", "data-label": "to store" }, own && [own.input, own.hint]));
      })));
    table.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, head.map((word) => h("th", { scope: "col" }, word)))), body));
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }
  return { element, draw };
}
