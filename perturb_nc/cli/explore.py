"""The command `perturb-nc explore`."""

import ipaddress
import logging
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb_nc.cli.arguments import Bias, File, Loss, layers_for, name_of

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.serving import WSGIRequestHandler

_CONNECTIONS, _SILENCE = 64, 10  # at a time; seconds
_HOST = (
    "address to listen on; any but this machine's own 127.0.0.1 exposes the page to other "
    "machines, without a password"
)


def explore(
    file: File,
    loss: Loss = "squared",
    bias: Bias = False,
    host: Annotated[str, typer.Option(help=_HOST)] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free")] = 8050,
    bench: Annotated[
        Path | None, typer.Option(help="bench.json of `perturb-nc bench` on FILE, to be shown")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="open a browser")] = False,
) -> None:
    """A local page: drag λ_W, λ_H, β and the flow time and see the prediction beside the layers."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be 0..65535, got {port}")
    layers = layers_for(file, loss)
    said = [] if bench is None else _followed(bench, name_of(file))
    try:
        from perturb_nc.show.explore.page import build_app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("dash", "flask", "werkzeug"):
            raise
        raise ValueError("the page needs Dash: pip install 'perturb-nc[explore]'") from error

    with _listening(host, port) as listener:
        app = build_app(layers, title=file.name, loss=loss, bias=bias, said=said)
        _serve(app.server, listener, host, open_browser)


def _followed(bench: Path, name: str) -> list[str]:
    """What a stored bench says of the network: the theory it follows, and how straight it is."""
    import json

    from perturb_nc.show.bench_tables import sentences
    from perturb_nc.storage import existing

    try:
        return sentences(json.loads(existing(bench).read_text(encoding="utf8"))[name])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{bench} holds no bench of {name}; write one with `perturb-nc bench` on the same file"
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address, or ValueError in one line."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(
            f"host must be an address of this machine, got {host!r}: {error}"
        ) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ValueError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --port (0: any)"
        ) from error
    return listener


def _serve(server: "Flask", listener: socket.socket, host: str, open_browser: bool) -> None:
    """Serve until Ctrl-C."""
    from werkzeug.serving import make_server

    from perturb_nc.show.explore.guard import MOVES

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every move
    name = f"[{host}]" if ":" in host else host
    port = listener.getsockname()[1]
    address = f"http://{name}:{port}/"
    if _is_loopback(listener):
        # A page of another site that has its own name resolved to this address gets nothing.
        server.config["TRUSTED_HOSTS"] = ["localhost", "127.0.0.1", name]
    else:
        print("perturb-nc: other machines can reach this page, without a password", file=sys.stderr)
    web = make_server(
        host, port, server, threaded=True, request_handler=_handler(), fd=listener.fileno()
    )
    web.handle_error = _closed_connections_are_no_errors(  # type: ignore[method-assign]
        web.handle_error
    )
    print(f"{address} (Ctrl-C stops it)", flush=True)
    if open_browser:
        webbrowser.open(address)
    try:
        web.serve_forever()
    finally:
        web.server_close()
        if MOVES in server.config:
            # The move under way ends, and none begins: torch must not compute while Python ends.
            server.config[MOVES].acquire()


def _closed_connections_are_no_errors(tell: Callable[..., None]) -> Callable[..., None]:
    """Ctrl-C may close a connection whose thread has just begun; so may its other end."""

    def handle_error(*connection: object) -> None:
        if not isinstance(sys.exception(), OSError):
            tell(*connection)

    return handle_error


def _handler() -> "type[WSGIRequestHandler]":
    """Of connections: so many at a time, and none that says nothing for long."""
    from werkzeug.serving import WSGIRequestHandler

    room = threading.BoundedSemaphore(_CONNECTIONS)

    class Handler(WSGIRequestHandler):
        timeout = _SILENCE

        def handle(self) -> None:
            if room.acquire(blocking=False):
                try:
                    super().handle()
                finally:
                    room.release()

        def log_error(self, *_: object) -> None:
            """Nothing: what is no HTTP comes from others, and has its answer."""

    return Handler


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
