from __future__ import annotations

import dataclasses
import http.server
import logging
import sys
import tempfile
import threading
import time

import pytest

from dashpot.data.loading import load_idx
from dashpot.errors import DataError

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet():
    """Pooch reports every download on its own logger."""
    logger = logging.getLogger("pooch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.fixture
def server():
    """A server of the dictionary `pages` (path -> bytes) on this machine; `asked` lists the paths asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        pages: dict[str, bytes] = {}  # noqa: RUF012 - shared on purpose, one class per test
        asked: list[str] = []  # noqa: RUF012

        def do_GET(self):
            self.asked.append(self.path)
            body = self.pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    Handler.pages, Handler.asked = {}, []
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as instance:
        thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Handler.address = f"http://127.0.0.1:{instance.server_port}"
        yield Handler
        instance.shutdown()
        thread.join()


def on_mirrors(tiny, *mirrors):
    return dataclasses.replace(tiny.dataset, mirrors=mirrors)


def publish(server, tiny, folder: str) -> None:
    for key, file in tiny.dataset.files.items():
        server.pages[f"/{folder}/{file.name}.gz"] = tiny.packed(key)


def test_what_is_nowhere_is_downloaded_checked_and_kept(server, tiny):
    publish(server, tiny, "good")
    dataset = on_mirrors(tiny, f"{server.address}/good/")
    assert tiny.equals(load_idx(dataset))
    assert tiny.equals(load_idx(dataset))
    assert len(server.asked) == 4
    assert {path.name for path in tiny.cache.iterdir()} == {"decoded.npz"} | {
        f"{file.name}.gz" for file in dataset.files.values()
    }


def test_the_next_mirror_helps_where_one_lacks_a_file_or_sends_a_wrong_one(server, tiny):
    publish(server, tiny, "good")
    publish(server, tiny, "partial")
    server.pages["/partial/train-labels.gz"] = b"<html>Please log in</html>"
    del server.pages["/partial/eval-images.gz"]
    assert tiny.equals(load_idx(on_mirrors(tiny, f"{server.address}/partial/", f"{server.address}/good/")))
    assert [path for path in server.asked if path.startswith("/good/")] == [
        "/good/train-labels.gz",
        "/good/eval-images.gz",
    ]


def test_only_the_missing_files_are_downloaded(server, tiny):
    publish(server, tiny, "good")
    tiny.write(tiny.cache, leave_out="eval_images")
    assert tiny.equals(load_idx(on_mirrors(tiny, f"{server.address}/good/")))
    assert server.asked == ["/good/eval-images.gz"]


def test_a_wrong_file_from_every_mirror_is_an_error_with_both_checksums_and_leaves_nothing(server, tiny):
    publish(server, tiny, "bad")
    server.pages["/bad/train-images.gz"] = b"something else"
    with pytest.raises(DataError) as error:
        load_idx(on_mirrors(tiny, f"{server.address}/bad/"))
    assert tiny.dataset.files["train_images"].gzip_sha256 in str(error.value)
    assert "but got" in str(error.value)
    assert str(error.value).endswith("do something else.")
    assert list(tiny.cache.iterdir()) == []


def test_a_missing_file_names_the_mirror_and_the_status(server, tiny):
    with pytest.raises(DataError, match=r"\(127\.0\.0\.1:\d+: HTTPError 404\): do something else\.$"):
        load_idx(on_mirrors(tiny, f"{server.address}/none/"))


def test_without_a_network_the_error_comes_in_seconds_and_says_what_to_do(tiny):
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        load_idx(on_mirrors(tiny, "http://127.0.0.1:1/", "https://no-such-host.invalid/"))
    assert time.monotonic() - start < 15
    sentence = str(error.value)
    assert sentence.startswith("Tiny-MNIST is not on this machine and could not be downloaded (127.0.0.1:1: Connection")
    assert "no-such-host.invalid: " in sentence
    assert sentence.endswith("): do something else.")
    assert "\n" not in sentence
    assert list(tiny.cache.iterdir()) == []


def test_without_pooch_the_error_names_the_extra(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(
        DataError, match=r"downloading needs pooch \(pip install 'dashpot\[data\]'\): do something else\."
    ):
        load_idx(tiny.dataset)


def test_a_cache_that_cannot_be_written_costs_the_copies_only(server, tiny, logged, monkeypatch):
    publish(server, tiny, "good")
    tiny.cache.parent.write_text("a file where the cache's folder should be")
    made, real = [], tempfile.TemporaryDirectory

    def observing(*args, **kwargs):
        made.append(real(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryDirectory", observing)
    assert tiny.equals(load_idx(on_mirrors(tiny, f"{server.address}/good/")))
    assert "Downloads are not kept in" in logged.text
    assert len(made) == 1
