# SPDX-License-Identifier: MIT
"""A base becomes a folder with pristine source, or an error that says why not.

Debian bases are tested with a real apt and a small archive on the disk.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from rich.console import Console

from harness.build import apt, mirrors, source
from harness.definition import DebianBase, PathBase, TarballBase
from harness.errors import HarnessError, UsageError
from harness.progress import Progress

KERNEL = {
    "Kbuild": "",
    "Makefile": "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n",
    "init/main.c": "x\n",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "NEEDED_SPACE", 1_000_000)
    return tmp_path / "cache"


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(file=io.StringIO()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "mine"
    for name, text in KERNEL.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tarball(file: Path, folder: Path, name: str = "linux-7.3") -> str:
    with tarfile.open(file, "w:xz") as archive:
        archive.add(folder, name)
    return sha256(file.read_bytes())


class Archive:
    """A Debian archive on the disk, with one suite and package for each ``add``."""

    def __init__(self, top: Path, kernel: Path) -> None:
        self.top = top
        self.kernel = kernel

    def add(self, suite: str, package: str, version: str) -> None:
        build = self.top / "build" / f"{package}-{version}"
        (build / "DEBIAN").mkdir(parents=True)
        fields = f"Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@example.org>\n"
        (build / "DEBIAN/control").write_text(f"{fields}Description: x\n")
        (build / "usr/src").mkdir(parents=True)
        tarball(build / f"usr/src/{package}.tar.xz", self.kernel)
        pool = self.top / "pool"
        pool.mkdir(exist_ok=True)
        deb = pool / f"{package}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", build, deb], check=True, capture_output=True)
        index = self.top / f"dists/{suite}/main/binary-amd64/Packages.gz"
        index.parent.mkdir(parents=True, exist_ok=True)
        old = gzip.decompress(index.read_bytes()).decode() if index.exists() else ""
        content = deb.read_bytes()
        place = f"Filename: pool/{deb.name}\nSize: {len(content)}\nSHA256: {sha256(content)}\n"
        plain = f"{old}{fields}{place}Description: x\n\n".encode()
        packed = gzip.compress(plain)
        index.write_bytes(packed)
        (self.top / f"dists/{suite}/Release").write_text(
            f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
            "Date: Sat, 01 Nov 2025 00:00:00 UTC\nSHA256:\n"
            f" {sha256(plain)} {len(plain)} main/binary-amd64/Packages\n"
            f" {sha256(packed)} {len(packed)} main/binary-amd64/Packages.gz\n"
        )


@pytest.fixture
def archive(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    top = tmp_path / "archive"
    top.mkdir()
    mirror = mirrors.Mirror(f"file:{top}", (("trusted", "yes"),))
    monkeypatch.setattr(apt, "mirrors", lambda: (mirror,))
    return Archive(top, folder)


def test_debian_takes_the_newest_that_matches_from_the_first_suite(archive, progress):
    archive.add("backports", "linux-source-7.9", "7.9.1-1~bpo1")
    archive.add("backports", "linux-source-7.10", "7.10.2-1~bpo1")
    archive.add("backports", "linux-source-8.1", "8.1-1")
    archive.add("sid", "linux-source-7.11", "7.11-1")
    base = DebianBase("linux-source-7.*", ("backports", "sid"))
    found = source.obtain([base], progress)
    assert found.version == "linux-source-7.10 7.10.2-1~bpo1"
    assert (found.tree / "init/main.c").read_text() == "x\n"
    assert not (source.paths.cache() / "apt/sid").exists(), "the second suite must not be fetched"


def test_debian_falls_back_to_the_next_suite_and_base_and_says_so(archive, progress):
    archive.add("backports", "other", "1")
    archive.add("sid", "linux-source-7.2", "7.2-1")
    bases = [DebianBase(f"linux-source-7.{n}", ("backports", "sid")) for n in (3, 2)]
    assert source.obtain(bases, progress).version == "linux-source-7.2 7.2-1"
    assert "linux-source-7.3" in progress.console.file.getvalue()


def test_what_was_obtained_needs_no_archive_any_more(archive, progress, monkeypatch):
    archive.add("sid", "linux-source-7.3", "7.3.4-1")
    bases = [DebianBase("linux-source-7.4", ("sid",)), DebianBase("linux-source-7.3", ("sid",))]
    first = source.obtain(bases, progress)
    monkeypatch.setattr(apt, "mirrors", lambda: pytest.fail("asked the archive again"))
    assert source.obtain(bases, progress) == first


def test_refresh_finds_a_newer_version(archive, progress):
    base = DebianBase("linux-source-7.3", ("sid",))
    archive.add("sid", "linux-source-7.3", "7.3.4-1")
    old = source.obtain([base], progress)
    archive.add("sid", "linux-source-7.3", "7.3.5-1")
    assert source.obtain([base], progress) == old
    new = source.obtain([base], progress, refresh=True)
    assert new.version.endswith("7.3.5-1")
    assert new.digest != old.digest
    assert old.tree.exists()


def test_unreachable_archive_is_one_error_that_names_all(tmp_path, progress, monkeypatch):
    monkeypatch.setattr(apt, "mirrors", lambda: (mirrors.Mirror(f"file:{tmp_path}/nowhere"),))
    bases = [DebianBase("linux-source-7.3", ("sid",)), PathBase(str(tmp_path / "missing"))]
    with pytest.raises(HarnessError) as caught:
        source.obtain(bases, progress)
    assert "linux-source-7.3" in caught.value.details
    assert str(tmp_path / "missing") in caught.value.details
    assert "--base" in caught.value.advice


def test_damaged_package_is_refused_by_apt(archive, progress):
    archive.add("sid", "linux-source-7.3", "7.3.4-1")
    (deb,) = (archive.top / "pool").iterdir()
    content = bytearray(deb.read_bytes())
    content[len(content) // 2] ^= 1
    deb.write_bytes(content)
    with pytest.raises(HarnessError, match="no source"):
        source.obtain([DebianBase("linux-source-7.3", ("sid",))], progress)


def test_half_extracted_source_of_a_killed_run_is_not_used(archive, progress, cache):
    archive.add("sid", "linux-source-7.3", "7.3.4-1")
    base = DebianBase("linux-source-7.3", ("sid",))
    tree = source.obtain([base], progress).tree
    tree.rename(tree.with_name(tree.name + ".new"))
    (tree.with_name(tree.name + ".new") / "init/main.c").unlink()
    assert (source.obtain([base], progress).tree / "init/main.c").exists()


def test_full_disk_is_told_before_anything_is_fetched(archive, progress, monkeypatch):
    monkeypatch.setattr(source, "NEEDED_SPACE", 1 << 60)
    with pytest.raises(HarnessError) as caught:
        source.obtain([DebianBase("linux-source-7.3", ("sid",))], progress)
    assert "GB free" in str(caught.value)
    assert "MKHARNESS_CACHE" in str(caught.value)


def test_tarball_on_this_computer(tmp_path, folder, progress):
    file = tmp_path / "linux.tar.xz"
    tarball(file, folder)
    found = source.obtain([source.parse_base(str(file))], progress)
    assert (found.tree / "Makefile").exists()
    assert file.exists()


def test_wrong_sha_keeps_nothing_and_names_both(tmp_path, folder, progress, cache):
    file = tmp_path / "linux.tar.xz"
    right = tarball(file, folder)
    with pytest.raises(HarnessError, match="no source") as caught:
        source.obtain([TarballBase(str(file), "0" * 64)], progress)
    assert right in caught.value.details
    assert "0" * 64 in caught.value.details
    assert file.exists()
    assert not list((cache / "sources").glob("linux*"))


def test_tarball_that_is_no_kernel(tmp_path, progress):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    file = tmp_path / "other.tar.xz"
    base = TarballBase(str(file), tarball(file, tmp_path / "other"))
    with pytest.raises(HarnessError) as caught:
        source.obtain([base], progress)
    assert "no Linux source" in caught.value.details


def test_download_that_was_cut_off_is_continued(tmp_path, folder, progress, cache):
    file = tmp_path / "linux.tar.xz"
    sha = tarball(file, folder)
    content = file.read_bytes()
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Range"])
            start = int(self.headers["Range"][6:-1])
            self.send_response(206)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / sha).write_bytes(content[:100])
    try:
        url = f"http://127.0.0.1:{server.server_port}/linux.tar.xz"
        assert (source.obtain([TarballBase(url, sha)], progress).tree / "Makefile").exists()
    finally:
        server.shutdown()
    assert asked == ["bytes=100-"]


def test_folder_is_copied_and_known_by_its_content(folder, progress):
    base = source.parse_base(str(folder))
    first = source.obtain([base], progress)
    assert source.obtain([base], progress) == first
    (folder / "init/main.c").write_text("changed\n")
    second = source.obtain([base], progress)
    assert second.digest != first.digest
    assert (first.tree / "init/main.c").read_text() == "x\n"
    assert (second.tree / "init/main.c").read_text() == "changed\n"
    assert (second.tree / "Makefile").samefile(first.tree / "Makefile")
    assert not (second.tree / "Makefile").samefile(folder / "Makefile")


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words], cwd=folder, check=True
    )


def test_git_work_tree_is_known_by_commit_and_changes(folder, progress):
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("*.o\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    base = PathBase(str(folder))
    first = source.obtain([base], progress)
    (folder / "init/main.o").write_text("built in place")
    (folder / "Makefile").touch()
    assert source.obtain([base], progress).digest == first.digest
    (folder / "new.c").write_text("new\n")
    second = source.obtain([base], progress)
    assert second.digest != first.digest
    assert (second.tree / "new.c").exists()
    assert not (second.tree / "init/main.o").exists()
    assert not (second.tree / ".git").exists()


def test_folder_comes_before_what_was_fetched_earlier(archive, folder, progress):
    archive.add("sid", "linux-source-7.3", "7.3.4-1")
    debian, mine = DebianBase("linux-source-7.3", ("sid",)), PathBase(str(folder))
    source.obtain([debian], progress)
    assert source.obtain([mine, debian], progress).kind == "path"
    assert source.obtain([PathBase("/nonexistent"), debian], progress).kind == "debian"


def test_folder_that_was_built_in_place_is_refused(folder, progress):
    (folder / ".config").touch()
    with pytest.raises(HarnessError, match="built in place") as caught:
        source.obtain([PathBase(str(folder))], progress)
    assert "mrproper" in caught.value.advice


def test_base_that_is_nothing_is_a_usage_error(tmp_path):
    for text in (str(tmp_path), str(tmp_path / "missing"), ""):
        with pytest.raises(UsageError, match="neither"):
            source.parse_base(text)


def test_mirror_is_found_in_both_formats_of_apt():
    one = mirrors.parse_list(
        "# x\ndeb-src http://m/debian sid main\n"
        "deb [signed-by=/k arch=amd64] http://m/d bookworm main contrib # c\n"
    )
    assert one[1] == {
        "types": "deb", "uris": "http://m/d", "suites": "bookworm", "components": "main contrib",
        "signed-by": "/k", "arch": "amd64",
    }  # fmt: skip
    two = mirrors.parse_deb822(
        "# c\nTypes: deb\nURIs: http://m/d\nSuites: a b\nComponents: main\n"
        "Signed-By:\n -----BEGIN\n .\n x\n\n\nTypes: deb\n"
    )
    assert len(two) == 2
    assert two[0]["signed-by"] == "\n -----BEGIN\n .\n x"


def test_mirror_is_neither_security_nor_a_third_party(monkeypatch):
    entries = mirrors.parse_list(
        "deb http://third/party bookworm stable\n"
        "deb http://m/debian-security bookworm-security main\n"
        "deb-src http://m/source bookworm main\n"
        "deb http://other/debian bookworm main\n"
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://m/debian bookworm main\n"
    )
    monkeypatch.setattr(mirrors, "_configured_entries", lambda: entries)
    monkeypatch.setattr(mirrors, "_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    assert [mirror.uri for mirror in mirrors.mirrors()] == ["http://m/debian", "http://other/debian"]
