// Removing a circuit that no replica uses: a dialog that shows which replicas still report, and
// waits until none does. The server applies the same rule.

/// A replica that reported within this time uses the circuit.
const IN_USE_MS = 60_000;
const MOST_REPORTERS = 5;

function openRemove(name) {
  const about = h("div", { "data-testid": "remove-about" });
  const reporters = () => [...(page?.details?.replicas ?? [])].filter(({ seen_ms }) => serverNow() - seen_ms < IN_USE_MS).sort((a, b) => b.seen_ms - a.seen_ms);
  let drawn = "";
  const draw = () => {
    const using = reporters();
    const key = using.map(({ name, seen_ms }) => `${name} ${seen_ms}`).join("\n");
    if (drawn !== key || !about.firstChild) {
      drawn = key;
      about.replaceChildren(...(using.length ? inUse(using) : unused()));
    }
    for (const time of about.querySelectorAll("time")) setMoment(time, Number(time.dataset.at));
    return using.length > 0;
  };
  readDetails(true);
  draw();
  openDialog({
    title: "Remove circuit", name, confirm: "Remove circuit", danger: true, unsaid: true, removes: true, about: [about], blocked: draw,
    run: ({ token }) => ask(pathOf(name), { method: "DELETE", token }),
    done: () => {
      live.circuits.delete(name);
      location.hash = overviewHref(filter);
      return "was removed.";
    },
    refused: () => readDetails(true),
  });
}

function inUse(using) {
  const more = using.length - MOST_REPORTERS;
  return [
    h("p", {}, h("strong", {}, `${count(using.length, "replica uses", "replicas use")} this circuit`), ", so it cannot be removed:"),
    h("ul", { class: "list" }, using.slice(0, MOST_REPORTERS).map(({ name, seen_ms }) => h("li", {}, h("span", { class: "mono" }, foreign(name)), h("span", { class: "quiet" }, "reported ", moment(seen_ms)))),
      more > 0 && h("li", { class: "quiet" }, `and ${number(more)} more`)),
    h("p", {}, "It can be removed a minute after the last report. Deploy the services without it first: a replica that still calls it would create it again."),
  ];
}

function unused() {
  return [h("p", {}, "No replica has reported within the last minute. Its state, counts, events and stored settings are deleted, which cannot be undone.")];
}
