// The policy of a circuit: what is in force, where that differs from the code, and its editor. The
// server validates settings; this page only tells whole numbers from other text.

/// Settings that 0 switches off.
const OFF_AT_0 = ["window_calls", "failure_rate_threshold", "failure_count_threshold", "consecutive_failures_threshold", "slow_call_duration_threshold_ms", "ramp_duration_ms", "call_timeout_ms"];
/// What the numbers of some settings mean.
const CHOICES = {
  latency_recording: "; 0 none, 1 a sample, 2 every call",
  abandoned_calls: "; 0 ignored, 1 failures",
  history: "; 0 off, 1 on",
  abandoned_after_ms: "; 0 is automatic",
  timed_out_calls: "; 0 ignored, 1 failures",
  minimum_applies_to: "; 0 rates, 1 every condition",
};
const SETTINGS = [
  ["Window", [
    ["window_ms", "Time window", "ms"],
    ["window_buckets", "Buckets in the time window", ""],
    ["window_calls", "Window of the last calls instead", "calls"],
    ["minimum_number_of_calls", "Minimum calls before rates count", "calls"],
    ["minimum_applies_to", "Conditions that wait for the minimum", ""],
  ]],
  ["Opens at", [
    ["failure_rate_threshold", "Failure rate", "%"],
    ["failure_count_threshold", "Failures in the window", "failures"],
    ["consecutive_failures_threshold", "Failures in a row", "failures"],
    ["slow_call_duration_threshold_ms", "Slow call duration", "ms"],
    ["slow_call_rate_threshold", "Slow call rate", "%"],
    ["quorum", "Quorum of failing replicas", "replicas"],
  ]],
  ["While open", [
    ["wait_duration_in_open_state_ms", "Wait before the first probe", "ms"],
    ["backoff_multiplier_percent", "Backoff multiplier", "%"],
    ["max_wait_duration_in_open_state_ms", "Longest wait", "ms"],
    ["jitter", "Jitter: random extra wait, at most", "%"],
    ["backoff_reset_after_ms", "Time closed that resets the backoff", "ms"],
  ]],
  ["Half-open", [
    ["permitted_number_of_calls_in_half_open_state", "Probes at once, fleet-wide", "probes"],
    ["success_threshold", "Successes to close", "probes"],
    ["half_open_failure_threshold", "Failures to reopen", "probes"],
    ["max_wait_duration_in_half_open_state_ms", "Half-open timeout", "ms"],
    ["probe_lease_ms", "Probe lease", "ms"],
  ]],
  ["After recovery", [
    ["ramp_duration_ms", "Ramp duration", "ms"],
    ["ramp_initial", "Share admitted at the start", "%"],
  ]],
  ["Calls and reports", [
    ["call_timeout_ms", "Call timeout", "ms"],
    ["timed_out_calls", "Calls past the timeout", ""],
    ["abandoned_calls", "Abandoned calls that ran too long", ""],
    ["abandoned_after_ms", "Too long for an abandoned call", "ms"],
    ["decision_ttl_ms", "Decision cache time", "ms"],
    ["report_interval_ms", "Report interval", "ms"],
    ["latency_recording", "Latency recording", ""],
    ["history", "History for graphs and simulations", ""],
  ]],
];

/// A setting's value in words.
function settingWords(key, value, unit) {
  if (value === 0 && OFF_AT_0.includes(key)) return "off";
  if (value === 0 && key === "decision_ttl_ms") return "off: every call asks Redis";
  if (value === 0 && key === "report_interval_ms") return "at once";
  if (value === 0 && key === "abandoned_after_ms") return "automatic";
  if (unit === "ms") return value >= 1000 ? length(value) : `${number(value)} ms`;
  if (key === "abandoned_calls" || key === "timed_out_calls") return ["ignored", "count as failures"][value] ?? String(value);
  if (key === "history") return ["off", "on"][value] ?? String(value);
  if (key === "minimum_applies_to") return ["rates", "every condition"][value] ?? String(value);
  if (key === "latency_recording") return ["no calls", "a sample", "every call"][value] ?? String(value);
  return unit === "%" ? `${number(value)}%` : number(value);
}

/// The groups above, and settings that this page does not know.
function groupsOf(policy) {
  const known = new Set(SETTINGS.flatMap(([, settings]) => settings.map(([key]) => key)));
  const others = Object.keys(policy.in_force).filter((key) => !known.has(key)).map((key) => [key, "", ""]);
  const here = SETTINGS.map(([title, settings]) => [title, settings.filter(([key]) => Object.hasOwn(policy.in_force, key))]);
  return [...here, ["Other settings", others]].filter(([, settings]) => settings.length);
}

/// `details` returns the data last read; `reread` reads it again.
function makePolicy(name, details, reread) {
  const about = h("p", { class: "policy-about" });
  const note = h("div", { class: "policy-note", role: "status" });
  const table = h("div", { class: "policy-table" });
  const error = h("p", { class: "error", role: "alert", "data-testid": "policy-error" });
  const write = { type: "button", "data-write": true };
  const edit = h("button", { ...write, "data-testid": "policy-edit", onclick: () => begin() }, "Edit stored settings");
  const remove = h("button", { ...write, class: "danger-quiet", "data-testid": "policy-remove", onclick: () => takeAway() }, "Remove stored settings …");
  const save = h("button", { ...write, class: "primary", "data-testid": "policy-save", onclick: () => openSave() }, "Save …");
  const cancel = h("button", { type: "button", "data-testid": "policy-cancel", onclick: () => end() }, "Cancel");
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
        setText(error, `${key} is “${input.value}”, which is not a whole number. Leave it empty to use the value in code.`);
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
      setText(error, "Nothing was changed.");
      return;
    }
    if (!Object.keys(set).length) {
      takeAway();
      return;
    }
    openDialog({
      title: "Override settings", name, confirm: "Override settings",
      about: [h("p", {}, "Every replica uses these instead of the values in code, from its next report on:"), h("ul", { class: "changes" }, lines)],
      run: ({ reason, author, token }) => ask(pathOf(name, "/policy"), { method: "PUT", body: { set, reason, author }, token, version: editing?.version ?? 0 }),
      done: () => {
        end();
        return "has new stored settings.";
      },
      refused: () => reread(),
    });
  }

  function takeAway() {
    const { circuit, policy } = details();
    openDialog({
      title: "Remove stored settings", name, confirm: "Remove stored settings", danger: true,
      about: [h("p", {}, "Every replica uses the values in code again:"), h("ul", { class: "changes" }, changes(policy.stored, {}, policy.code))],
      run: ({ reason, author, token }) => ask(pathOf(name, "/policy"), { method: "DELETE", body: { reason, author }, token, version: editing?.version ?? circuit.policy_version }),
      done: () => {
        if (editing) end();
        return "uses the settings in code again.";
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
      ? `${count(stored, "setting is", "settings are")} stored in Redis and ${stored === 1 ? "applies" : "apply"} to every replica; ${differing ? count(differing, "differs", "differ") : "none differs"} from the code. Version ${circuit.policy_version}.`
      : "No stored settings: every replica uses the settings in code.");
    setHidden(edit, Boolean(editing));
    setText(edit, stored ? "Edit stored settings" : "Override settings");
    setHidden(remove, Boolean(editing) || !stored);
    setHidden(save, !editing);
    setHidden(cancel, !editing);
    note.replaceChildren();
    if (editing && editing.version !== circuit.policy_version) {
      note.append(h("p", {}, h("strong", {}, "Somebody changed the stored settings since you began. "), "The column “Stored” shows theirs."),
        h("p", { class: "buttons" },
          h("button", { type: "button", "data-testid": "policy-theirs", onclick: begin }, "Start again from theirs"),
          h("button", { type: "button", "data-testid": "policy-mine", onclick: () => { editing.version = circuit.policy_version; draw(); } }, "Keep mine")));
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
