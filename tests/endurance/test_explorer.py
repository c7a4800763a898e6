"""The page of `explore`, served: malformed posts, half-open connections, large bodies, Ctrl-C.

Nothing but the refusals that HTTP has may come back, and nothing on stderr.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import bad_files
import psutil
import pytest
from damage import generator, mutated

import perturb_nc as pnc

pytest.importorskip("dash", reason="needs dash")
from perturb_nc.show.explore.page import SCALES

ROOT = Path(pnc.__file__).parent.parent
WHERE = "/_dash-update-component"
POSTS, CONNECTIONS, INTERRUPTS = 600, 300, 8
CODE = "import signal; signal.signal(2, signal.default_int_handler); "
CODE += "from perturb_nc.cli.main import main; main()"
STOPS = {name: scale.start for name, scale in SCALES.items()}
MOVE = {"number": 7, "layer": "a", "stops": STOPS, "exact": True, "fit": False}


@contextmanager
def served(folder):
    """The command, its port, and at the end what it said."""
    file = bad_files.write_layers(folder / "net.safetensors")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CODE, "explore", str(file), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    process.port = int(process.stdout.readline().split("/ (")[0].rsplit(":", 1)[1])
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.said = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            process.said = "Traceback: it did not end"


def asked(port, method, path, body=None, headers=(), timeout=60):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with closing(connection):
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()


def posted(port, body, timeout=60):
    return asked(port, "POST", WHERE, body, {"Content-Type": "application/json"}, timeout)[0]


def move(port):
    """A good post."""
    for found in json.loads(asked(port, "GET", "/_dash-dependencies")[1]):
        if [f"{i['id']}.{i['property']}" for i in found["inputs"]] == ["asked.data"]:
            output = found["output"]
    parts = [part.rsplit(".", 1) for part in output.strip(".").split("...")]
    return {
        "output": output,
        "outputs": [{"id": name, "property": kind} for name, kind in parts],
        "inputs": [{"id": "asked", "property": "data", "value": MOVE}],
        "changedPropIds": ["asked.data"],
    }


JUNK = [None, -1, 10**9, "x", [], {}, [[1]], True, 1e308, "\u2028", 0.5, "__class__", "a" * 999]


def spots(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from spots(item, (*path, key))


def malformed(good, rng):
    """Other fields, values and types; JSON cut, flipped or nested; or no JSON at all."""
    kind = rng.random()
    if kind < 0.2:
        return mutated(json.dumps(good).encode(), rng)
    if kind < 0.25:
        return rng.choice((b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 9999, b"\0" * 99))
    bad = json.loads(json.dumps(good))
    for _ in range(rng.randint(1, 3)):
        *above, last = rng.choice(list(spots(bad)))
        part = bad
        for key in above:
            part = part[key]
        if rng.random() < 0.3:
            del part[last]
        elif isinstance(part, dict) and rng.random() < 0.2:
            part[rng.choice(["x", "state", "parsedChangedPropsIds"])] = rng.choice(JUNK)
        else:
            part[last] = rng.choice(JUNK)
        if not bad:
            break
    return json.dumps(bad).encode()


def test_malformed_posts(tmp_path, ledger):
    with served(tmp_path) as process:
        good = move(process.port)
        assert posted(process.port, json.dumps(good)) == 200
        for i in range(POSTS):
            body = malformed(good, generator(ledger.seed, "post", i))
            status = posted(process.port, body)
            if status in (200, 204, 400, 413):
                ledger.ends({200: "still a move", 204: "still a move"}.get(status, str(status)))
            else:
                ledger.falls_by("tracebacks", f"post {i}: {status} for {body[:300]!r}")
        assert posted(process.port, json.dumps(good)) == 200
    if process.said or process.returncode:
        ledger.falls_by("tracebacks", f"{process.returncode}: {process.said[-1000:]}")


def raw(port, text, timeout=30):
    """What comes back for bytes that are no HTTP, or only nearly."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=timeout)) as connection:
        connection.sendall(text)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)
    return b""


def test_half_open_connections_and_bodies_of_any_size(tmp_path, ledger):
    with served(tmp_path) as process:
        port, watched = process.port, psutil.Process(process.pid)
        good = json.dumps(move(port))
        assert posted(port, good) == 200
        memory, threads = watched.memory_info().rss, watched.num_threads()
        begun = b"POST " + WHERE.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le"
        connections = []
        for i in range(CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            if i % 2:
                connection.sendall(begun)
            connections.append(connection)
        time.sleep(1)
        most = watched.num_threads()
        assert most <= threads + 70, most
        deadline = time.monotonic() + 60
        answer = None
        while answer != 200 and time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                answer = posted(port, good, timeout=20)
            time.sleep(0.2)
        assert answer == 200, "the page does not answer beside half-open connections"
        for connection in connections:
            connection.close()
        ledger.ends("half-open, and the page answers", CONNECTIONS)
        head = b"POST " + WHERE.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += b"Content-Type: application/json\r\n"
        for length in (b"1000000000000", b"-1", b"x", b"9" * 99, b"", b"65537", b"1e3"):
            found = raw(port, head + b"Content-Length: " + length + b"\r\n\r\n" + b"x" * 999)
            outcome(ledger, length, found)
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n" + b"x" * 99999
        outcome(ledger, "chunked", raw(port, chunked))
        for i in range(100):
            rng = generator(ledger.seed, "http", i)
            text = mutated(head + b"Content-Length: 9\r\n\r\n" + rng.randbytes(9), rng)
            outcome(ledger, text, raw(port, text))
        for size in (10**5, 10**7, 5 * 10**7):
            with suppress(OSError):  # the server need not read what it refuses
                assert posted(port, b"x" * size) == 413
            ledger.ends("refused body")
        assert posted(port, good) == 200
        grown = (watched.memory_info().rss - memory) / 2**20
        assert grown < 64, f"{grown:.0f} MiB"
    if process.said or process.returncode:
        ledger.falls_by("tracebacks", f"{process.returncode}: {process.said[-1000:]}")


def outcome(ledger, what, found):
    if b" 500 " in found[:20] or b"Traceback" in found:
        ledger.falls_by("tracebacks", f"{what!r}: {found[:300]!r}")
    else:
        ledger.ends("refused" if found else "hung up")


def test_ctrl_c_during_a_move(tmp_path, ledger):
    for i in range(INTERRUPTS):
        rng = generator(ledger.seed, "interrupt", i)
        with served(tmp_path) as process:
            good = json.dumps(move(process.port))

            def keep_moving(port=process.port, body=good):
                with suppress(OSError, http.client.HTTPException):
                    while True:
                        posted(port, body, timeout=30)

            threads = [threading.Thread(target=keep_moving, daemon=True) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.05, 0.6))
        for thread in threads:
            thread.join(timeout=60)
        if process.returncode not in (0, 130) or process.said:
            ledger.falls_by("tracebacks", f"{process.returncode}: {process.said[-500:]}")
        else:
            ledger.ends("ended in order")
