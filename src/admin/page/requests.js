// Requests to the server with the token that this tab keeps, and reading its stream of events. Owns
// no data but the token.

const base = location.pathname.replace(/\/?$/, "/");
const tokenKey = `commontrip ${base} token`;
const unstored = new Map();
const remembered = {
  // Storage can be blocked; then only this page remembers.
  read(storage, key) {
    try {
      return window[storage].getItem(key) ?? "";
    } catch {
      return unstored.get(key) ?? "";
    }
  },
  write(storage, key, value) {
    try {
      if (value) window[storage].setItem(key, value);
      else window[storage].removeItem(key);
    } catch {
      unstored.set(key, value);
    }
  },
};

/// The path of a circuit, or of an action on it. Every browser resolves `.` and `..` as path
/// segments, so these names are in the query.
function pathOf(name, action = "") {
  const encoded = encodeURIComponent(name);
  return name === "." || name === ".." ? `circuit${action}?name=${encoded}` : `circuits/${encoded}${action}`;
}

const storedToken = () => remembered.read("sessionStorage", tokenKey);

function authorization(token = storedToken()) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/// Reads a stream of events to its end; never throws. An `EventSource` could not send the token.
/// Returns the status.
async function listen(path, signal, heard) {
  let status = 0;
  try {
    const response = await fetch(base + path, { headers: { Accept: "text/event-stream", ...authorization() }, cache: "no-store", signal });
    status = response.status;
    if (!response.ok) return status;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = "", seen = 0; ;) {
      const { value, done } = await reader.read();
      if (done) return status;
      text += value;
      for (let end; (end = text.indexOf("\n\n", seen)) >= 0; seen = 0) {
        hear(text.slice(0, end), heard);
        text = text.slice(end + 2);
      }
      seen = Math.max(0, text.length - 1);
    }
  } catch {
    return status;
  }
}

/// Handles an event with a kind and JSON. Anything else is a proxy's text, or keeps the connection
/// alive.
function hear(text, heard) {
  const field = (name) => text.split("\n").filter((line) => line.startsWith(name)).map((line) => line.slice(name.length)).join("\n");
  const [kind, data] = [field("event: "), field("data: ")];
  let told;
  try {
    told = JSON.parse(data);
  } catch {
    return;
  }
  heard(kind, told);
}

/// Sends a request; never throws. `problem` says in words what went wrong.
async function ask(path, { method = "GET", body, token, version } = {}) {
  const headers = { Accept: "application/json", ...authorization(token) };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (version !== undefined) headers["If-Match"] = `"${version}"`;
  let response, text;
  try {
    response = await fetch(base + path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(10_000) });
    text = await response.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    return { ok: false, status: 0, problem: late ? "The server did not answer within 10 s." : "The server cannot be reached." };
  }
  let data = null;
  try {
    data = JSON.parse(text);
  } catch {
    // Reported below.
  }
  if (response.ok ? data !== null : typeof data?.title === "string") answeredAt = performance.now();
  if (response.ok && data !== null) return { ok: true, status: response.status, data };
  const said = [data?.title, data?.detail].filter((part) => typeof part === "string" && part).join(": ");
  return { ok: false, status: response.status, answered: typeof data?.title === "string", problem: said || `The server answered ${response.status} ${response.statusText}`.trim() };
}
