# SPDX-License-Identifier: MIT
"""A message-id is fetched by the real b4, from a small archive served on this computer."""

from __future__ import annotations

import gzip
import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from mails import box, mail, whole

from harness.build import b4, series
from harness.errors import HarnessError

ID = "20261122.1-dev@example.org"


@pytest.mark.parametrize(
    "place",
    [
        ID,
        f"<{ID}>",
        f"b4:{ID}",
        f"https://lore.kernel.org/all/{ID}/",
        f"https://lore.kernel.org/r/{ID}",
        f"https://patch.msgid.link/{ID}",
        f"http://lore.kernel.org/linux-mm/{ID}/T/#u",
    ],
)
def test_every_way_to_write_a_message_id_is_known(place):
    assert b4.message_id(place) == ID


@pytest.mark.parametrize(
    "place", ["a", "patches/a@b", "/tmp/x", "git:a..b", "../linux:v1..v2", "https://x.org/"]
)
def test_nothing_else_is_taken_for_a_message_id(place):
    assert b4.message_id(place) is None


def test_without_b4_the_error_says_how_to_get_it_or_to_do_without(tmp_path, monkeypatch):
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(HarnessError, match=r"(?s)b4, which is not installed.*pip install b4.*mbox"):
        series.read(ID)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Serves threads as public-inbox does; returns the paths that were asked for."""
    pytest.importorskip("b4", reason="b4 is an optional part: pip install 'mkharness[b4]'")
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    thread = box(
        mail("[PATCH v2 0/3] cover", "What for.\n", message_id=ID),
        *(
            one.replace(b"Message-ID:", f"In-Reply-To: <{ID}>\nReferences: <{ID}>\nMessage-ID:".encode())
            for one in (*reversed(whole(3, " v2")), *whole(3), mail("Re: [PATCH v2 1/3] part 1", "Nice.\n"))
        ),
    )
    asked = []

    class Archive(BaseHTTPRequestHandler):
        def do_HEAD(self) -> bool:
            asked.append(self.path)
            self.send_response(200 if ID in unquote(self.path) else 404)
            self.end_headers()
            return ID in unquote(self.path)

        def do_GET(self) -> None:
            if self.do_HEAD():
                self.wfile.write(gzip.compress(thread))

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = f"[b4]\n\tmidmask = http://127.0.0.1:{server.server_port}/all/%s\n"
    (tmp_path / "home" / ".gitconfig").write_text(config)
    yield asked
    server.shutdown()
    server.server_close()


def test_a_thread_is_fetched_once_and_sorted_like_any_other(archive):
    found = series.read(ID)
    assert [patch.subject for patch in found.patches] == [f"[PATCH v2 {n}/3] part {n}" for n in (1, 2, 3)]
    assert sorted(entry.why for entry in found.left_out) == [
        "a cover letter",
        "a reply",
        *["v1; v2 is newer"] * 3,
    ]
    assert archive
    count = len(archive)
    assert series.read(f"https://lore.kernel.org/r/{ID}").digest == found.digest
    assert len(archive) == count


def test_what_the_archive_does_not_have_is_an_error_and_leaves_nothing(archive, tmp_path):
    with pytest.raises(HarnessError, match="b4 cannot fetch none@example") as error:
        series.read("none@example.org")
    assert "mbox" in error.value.advice
    assert not [file for file in (tmp_path / "cache" / "threads").iterdir() if file.suffix != ".lock"]


def test_b4_is_where_the_harness_looks_for_it():
    if importlib.util.find_spec("b4") is None:
        pytest.skip("b4 is not installed")
    assert b4._command().endswith("/b4")
