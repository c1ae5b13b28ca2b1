from __future__ import annotations

import dataclasses
import http.server
import logging
import sys
import tempfile
import threading

import pytest

from dashpot.data.loading import load_idx
from dashpot.errors import DataError

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet():
    """Silence pooch, which logs every download."""
    logger = logging.getLogger("pooch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.fixture
def server():
    """Local HTTP server of `pages` (path -> bytes); `requests` lists the requested paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        pages: dict[str, bytes] = {}  # noqa: RUF012 - one class per test
        requests: list[str] = []  # noqa: RUF012

        def do_GET(self):
            self.requests.append(self.path)
            body = self.pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    Handler.pages, Handler.requests = {}, []
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as instance:
        thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Handler.address = f"http://127.0.0.1:{instance.server_port}"
        yield Handler
        instance.shutdown()
        thread.join()


def with_mirrors(tiny, *mirrors):
    return dataclasses.replace(tiny.dataset, mirrors=mirrors)


def publish(server, tiny, folder: str) -> None:
    for key, file in tiny.dataset.files.items():
        server.pages[f"/{folder}/{file.name}.gz"] = tiny.compressed(key)


def test_missing_data_set_is_downloaded_and_cached(server, tiny):
    publish(server, tiny, "good")
    dataset = with_mirrors(tiny, f"{server.address}/good/")
    assert tiny.equals(load_idx(dataset))
    assert tiny.equals(load_idx(dataset))
    assert len(server.requests) == 4
    assert {path.name for path in tiny.cache.iterdir()} == {"decoded.npz"} | {
        f"{file.name}.gz" for file in dataset.files.values()
    }


def test_download_falls_back_to_next_mirror(server, tiny):
    publish(server, tiny, "good")
    publish(server, tiny, "partial")
    server.pages["/partial/train-labels.gz"] = b"<html>Please log in</html>"
    del server.pages["/partial/eval-images.gz"]
    assert tiny.equals(load_idx(with_mirrors(tiny, f"{server.address}/partial/", f"{server.address}/good/")))
    assert [path for path in server.requests if path.startswith("/good/")] == [
        "/good/train-labels.gz",
        "/good/eval-images.gz",
    ]


def test_download_fetches_only_missing_files(server, tiny):
    publish(server, tiny, "good")
    tiny.write(tiny.cache, omit="eval_images")
    assert tiny.equals(load_idx(with_mirrors(tiny, f"{server.address}/good/")))
    assert server.requests == ["/good/eval-images.gz"]


def test_download_with_wrong_checksum_raises_and_keeps_nothing(server, tiny):
    publish(server, tiny, "bad")
    server.pages["/bad/train-images.gz"] = b"something else"
    with pytest.raises(DataError) as error:
        load_idx(with_mirrors(tiny, f"{server.address}/bad/"))
    assert tiny.dataset.files["train_images"].gzip_sha256 in str(error.value)
    assert "but got" in str(error.value)
    assert str(error.value).endswith("use a different data set.")
    assert list(tiny.cache.iterdir()) == []


def test_download_of_missing_file_raises_with_mirror_and_status(server, tiny):
    with pytest.raises(DataError, match=r"\(127\.0\.0\.1:\d+: HTTPError 404\); use a different data set\.$"):
        load_idx(with_mirrors(tiny, f"{server.address}/none/"))


def test_download_without_network_raises_with_advice(tiny):
    with pytest.raises(DataError) as error:
        load_idx(with_mirrors(tiny, "http://127.0.0.1:1/", "https://no-such-host.invalid/"))
    message = str(error.value)
    assert message.startswith("Tiny-MNIST was not found, and downloads failed (127.0.0.1:1: Connection")
    assert "no-such-host.invalid: " in message
    assert message.endswith("); use a different data set.")
    assert "\n" not in message
    assert list(tiny.cache.iterdir()) == []


def test_download_without_pooch_raises_with_extra(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(
        DataError, match=r"; pip install 'dashpot\[data\]' to download it, or use a different data set\."
    ):
        load_idx(with_mirrors(tiny, "http://127.0.0.1:1/"))


def test_download_with_unwritable_cache_uses_temporary_folder(server, tiny, logged, monkeypatch):
    publish(server, tiny, "good")
    tiny.cache.parent.write_text("a file in place of the cache folder")
    created, real = [], tempfile.TemporaryDirectory

    def recording(*args, **kwargs):
        created.append(real(*args, **kwargs))
        return created[-1]

    monkeypatch.setattr(tempfile, "TemporaryDirectory", recording)
    assert tiny.equals(load_idx(with_mirrors(tiny, f"{server.address}/good/")))
    assert "Downloads are not cached in" in logged.text
    assert len(created) == 1
