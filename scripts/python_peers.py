"""Measures pybreaker and purgatory on one Redis, like `cargo bench --bench fleet`.

Run by scripts/python-peers: 10 processes, an upstream that dies. Each process makes calls as a
Poisson process, one at a time (a second thread of pybreaker would wait for the first). Both are
used as their documentation says: pybreaker with CircuitRedisStorage, purgatory with its
asynchronous Redis unit of work. Neither has a window: they open after 5 consecutive failures,
whichever processes these come from.

All child processes end on their own: the workers when their stdin closes, the server with its
shell, which reads a pipe from this process.
"""

import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import redis

PROCESSES = 10
# The same as plan::rate for 10 replicas.
RATE = 200
FAILURES_TO_OPEN = 5
OPEN_S = 2
STEADY_S = 5
OUTAGES = 3
# pybreaker stores the time of opening in whole seconds, so it is certainly open for this long.
SURELY_OPEN_S = 0.9
STAMPEDE = 16


class Failure(Exception):
    """The upstream's."""


class Pybreaker:
    STATE_KEY = "peers:pybreaker:state"

    def __init__(self, port):
        import pybreaker

        client = redis.StrictRedis(port=port)
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace="peers")
        self.open = pybreaker.CircuitBreakerError
        self.breaker = pybreaker.CircuitBreaker(
            fail_max=FAILURES_TO_OPEN, reset_timeout=OPEN_S, state_storage=storage
        )

    def call(self, function):
        try:
            self.breaker.call(function)
        except (self.open, Failure):
            pass


class Purgatory:
    STATE_KEY = "cbr::peers"

    def __init__(self, port):
        from purgatory import AsyncCircuitBreakerFactory
        from purgatory.domain.model import OpenedState
        from purgatory.service._async.unit_of_work import AsyncRedisUnitOfWork

        self.open = OpenedState
        self.loop = asyncio.new_event_loop()
        self.factory = AsyncCircuitBreakerFactory(
            default_threshold=FAILURES_TO_OPEN,
            default_ttl=OPEN_S,
            uow=AsyncRedisUnitOfWork(f"redis://127.0.0.1:{port}"),
        )
        self.loop.run_until_complete(self.factory.initialize())

    def call(self, function):
        self.loop.run_until_complete(self._call(function))

    async def _call(self, function):
        try:
            async with await self.factory.get_breaker("peers"):
                function()
        except (self.open, Failure):
            pass


PEERS = {"pybreaker": Pybreaker, "purgatory": Purgatory}


class Upstream:
    """The upstream as one process sees it: whether it is dead, and the calls that reached it."""

    def __init__(self):
        self.dead = False
        self.latency_s = None
        self.calls = []

    def __call__(self):
        begun = time.monotonic_ns()
        time.sleep(self.latency_s or random.randint(1, 5) / 1000)
        self.calls.append((begun, time.monotonic_ns()))
        if self.dead or random.random() < 0.01:
            raise Failure


def work(peer, port):
    """Runs a worker: makes calls after the order `call`, and answers each order."""
    upstream, breaker, calling, told = Upstream(), PEERS[peer](port), threading.Event(), {"calls": 0}

    def obey():
        for line in sys.stdin:
            order, *value = line.split()
            answer = None
            if order == "call":
                calling.set()
            elif order == "dead":
                upstream.dead = value[0] == "yes"
            elif order == "stampede":
                # One slow call at the given moment.
                upstream.latency_s = 0.5
                time.sleep(max(0, int(value[0]) / 1e9 - time.monotonic()))
                breaker.call(upstream)
            elif order == "take":
                calls, upstream.calls = upstream.calls, []
                answer = {"upstream": calls, "calls": told["calls"]}
            print(json.dumps(answer), flush=True)
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()
    calling.wait()
    due = time.monotonic()
    while True:
        due += random.expovariate(RATE)
        time.sleep(max(0, due - time.monotonic()))
        told["calls"] += 1
        breaker.call(upstream)


class Fleet:
    def __init__(self, peer, port, processes):
        command = [sys.executable, __file__, "--work", peer, str(port)]
        pipe = subprocess.PIPE
        self.workers = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(processes)
        ]

    def order(self, words):
        for worker in self.workers:
            worker.stdin.write(words + "\n")
            worker.stdin.flush()
        return [json.loads(worker.stdout.readline()) for worker in self.workers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers:
            worker.stdin.close()
        for worker in self.workers:
            worker.wait()


class Server:
    """A Redis server that ends with this process, however that ends."""

    # The server is a child of a shell that reads a pipe which only this process holds open.
    SHELL = '"$@" >/dev/null & pid=$!; read -r order; kill -s KILL "$pid"; wait'

    def __init__(self):
        if shutil.which("redis-server") is None:
            raise SystemExit("there is no redis-server on PATH")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        server = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        self.shell = subprocess.Popen(
            ["sh", "-c", self.SHELL, "sh", *server],
            stdin=subprocess.PIPE,
            cwd=self.folder.name,
            start_new_session=True,
        )
        self.client = redis.Redis(port=self.port, decode_responses=True)
        for _ in range(500):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)
        raise SystemExit("redis-server does not answer")

    def work(self):
        """Commands and microseconds so far, except those of this process."""
        stats = self.client.info("commandstats")
        mine = ("info", "ping", "config", "psubscribe", "memory", "keys", "client")
        theirs = [stat for name, stat in stats.items() if not name[8:].startswith(mine)]
        return sum(stat["calls"] for stat in theirs), sum(stat["usec"] for stat in theirs)

    def memory(self):
        return sum(self.client.memory_usage(key, samples=0) for key in self.client.keys("*"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shell.stdin.close()
        self.shell.wait()
        self.folder.cleanup()


def measure(peer):
    found = {}
    with Server() as server:
        with Fleet(peer, server.port, PROCESSES) as fleet:
            fleet.order("call")
            time.sleep(1)
            made, before = fleet.order("take"), server.work()
            time.sleep(STEADY_S)
            after, then = server.work(), fleet.order("take")
            calls = sum(b["calls"] - a["calls"] for a, b in zip(made, then))
            found["commands"] = (after[0] - before[0]) * 1000 / calls
            found["time"] = (after[1] - before[1]) * 1000 / calls
            found["leaked"] = [outage(peer, server, fleet) for _ in range(OUTAGES)]
            found["memory"] = server.memory()
    with Server() as server:
        found["probes"] = stampede(peer, server)
    return found


def outage(peer, server, fleet):
    """Counts calls that began after the trip, which is when the state in Redis first changes."""
    server.client.config_set("notify-keyspace-events", "K$")
    with server.client.pubsub() as changes:
        changes.psubscribe(f"__keyspace@0__:{PEERS[peer].STATE_KEY}")
        changes.get_message(timeout=5)
        fleet.order("take")
        fleet.order("dead yes")
        change = changes.get_message(timeout=30)
        tripped = time.monotonic_ns()
        if change is None:
            raise SystemExit(f"{peer} does not open within 30 s")
    time.sleep(SURELY_OPEN_S)
    begun = [call[0] for taken in fleet.order("take") for call in taken["upstream"]]
    fleet.order("dead no")
    # Wait for open, the trial, closed, and a calm moment.
    time.sleep(OPEN_S + 2)
    return sum(tripped < at < tripped + SURELY_OPEN_S * 1e9 for at in begun)


def stampede(peer, server):
    """Counts the calls at the upstream at once when all processes call at the end of the wait."""
    breaker, upstream = PEERS[peer](server.port), Upstream()
    upstream.dead = True
    with Fleet(peer, server.port, STAMPEDE) as fleet:
        fleet.order("take")
        for _ in range(FAILURES_TO_OPEN):
            breaker.call(upstream)
        time.sleep(OPEN_S + 1)
        fleet.order(f"stampede {time.monotonic_ns() + 300_000_000}")
        spans = [call for taken in fleet.order("take") for call in taken["upstream"]]
    ends = sorted([(begun, 1) for begun, _ in spans] + [(ended, -1) for _, ended in spans])
    there = most = 0
    for _, change in ends:
        there += change
        most = max(most, there)
    return most


def of_ours(file):
    with open(file) as text:
        figures = json.load(text)

    def value(case, metric):
        for f in figures:
            is_it = f["case"] == case and f["metric"] == metric
            if is_it and f["replicas"] == PROCESSES and f["topology"] == "one":
                return f["value"]
        raise SystemExit(f"{file} has no {metric} of {PROCESSES} replicas on one Redis, {case}")

    return {
        "commands": value("steady", "redis_commands_per_1000_calls"),
        "time": value("steady", "redis_time_per_1000_calls"),
        "leaked": [value("outage", "leaked_calls_p50"), value("outage", "leaked_calls_max")],
        "over": value("outage", "probes_over_limit"),
        "memory": value("steady", "memory"),
    }


def main(file):
    columns = {"commontrip": of_ours(file)}
    for peer in PEERS:
        print(f"{peer} ...", file=sys.stderr)
        columns[peer] = measure(peer)
        columns[peer]["over"] = columns[peer]["probes"] - 1
    rows = {
        "Redis commands per 1,000 calls": lambda c: f"{c['commands']:,.0f}",
        "round trips that a call waits for": lambda c: (
            f"{c['commands'] / 1000:.1f}" if "probes" in c else "0"
        ),
        "Redis' time per 1,000 calls, µs": lambda c: f"{c['time']:,.0f}",
        "calls leaked after a trip, most": lambda c: f"{max(c['leaked']):.0f}",
        "probes beyond the limit": lambda c: f"{c['over']:.0f}",
        "memory in Redis, bytes": lambda c: f"{c['memory']:,.0f}",
    }
    print(f"\n| {PROCESSES} processes, {RATE} calls/s each | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cell in rows.items():
        print(f"| {name} | " + " | ".join(cell(column) for column in columns.values()) + " |")
    print(
        f"\nProbes: commontrip's limit is 3; of the peers {STAMPEDE} processes call at once where 1 may."
        " Only commontrip has a window: what it keeps and takes for it is in these figures."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1])
