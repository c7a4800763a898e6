import socket
import sys
from contextlib import closing

import pytest
from explored import network

import perturb_nc as pnc
from perturb_nc.cli import explore


@pytest.fixture(scope="module")
def layers():
    return network(12)


@pytest.fixture
def file(layers, tmp_path):
    pnc.save_layers(layers, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


class Server:
    """In place of the server of werkzeug: says what it was given."""

    given = None

    def __init__(self, host, port, app, *, threaded, request_handler, fd):
        with closing(socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM)) as listener:
            Server.given = (listener.getsockname(), app, threaded)

    def serve_forever(self):
        """Not at all."""

    server_close = handle_error = serve_forever


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("werkzeug.serving.make_server", Server)
    return Server


def test_the_page_is_for_this_machine_unless_asked_otherwise(file, run, server, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    code, out, err = run("explore", file, "--port", 0)
    (host, port), app, threaded = server.given
    assert (code, host, threaded, err) == (0, "127.0.0.1", True, "")
    assert out == f"http://127.0.0.1:{port}/ (Ctrl-C stops it)\n"
    assert not opened
    client = app.test_client()
    assert client.get("/", headers={"Host": f"127.0.0.1:{port}"}).status_code == 200
    assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
    code, _, err = run("explore", file, "--port", 0, "--host", "0.0.0.0", "--open")
    assert code == 0
    assert server.given[0][0] == "0.0.0.0"
    assert err == "perturb-nc: other machines can reach this page, without a password\n"
    assert len(opened) == 1
    assert "exposes the page" in " ".join(run("explore", "--help")[1].replace("│", " ").split())


def test_what_cannot_be_served_is_refused_before_anything_starts(file, run, server, tmp_path):
    server.given = None
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            ((file, "--port", port), f"cannot listen on 127.0.0.1, port {port}: Address already"),
            ((file, "--port", 70000), "port must be 0..65535, got 70000"),
            ((file, "--host", "192.0.2.1", "--port", 0), "cannot listen on 192.0.2.1"),
            ((tmp_path / "none.safetensors",), "none.safetensors"),
            ((tmp_path / "bad.safetensors",), "could not be read as a safetensors file"),
        ):
            code, out, err = run("explore", *arguments)
            assert (code, out) == (2, "")
            assert err.startswith("perturb-nc: ")
            assert len(err.splitlines()) == 1
            assert message in err
    assert server.given is None


def test_a_connection_closed_under_its_thread_is_no_error():
    told = []
    handle = explore._closed_connections_are_no_errors(lambda *connection: told.append(connection))
    for error in (OSError(9, "Bad file descriptor"), ConnectionResetError(), ValueError()):
        try:
            raise error
        except Exception:
            handle("request", type(error))
    assert told == [("request", ValueError)]


def test_without_dash_the_command_names_what_to_install(file, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "dash", None)
    monkeypatch.delitem(sys.modules, "perturb_nc.show.explore.page")
    code, out, err = run("explore", file)
    assert (code, out) == (2, "")
    assert err == "perturb-nc: the page needs Dash: pip install 'perturb-nc[explore]'\n"
