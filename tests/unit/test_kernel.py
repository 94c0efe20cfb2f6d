# SPDX-License-Identifier: MIT
"""Running make: steps counted, errors cut out, nothing left running, nothing half done trusted.

A small Makefile stands for the kernel's; the kernel itself is built by the tests that boot it.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from images import bzimage, program
from rich.console import Console

from harness.build import kernel, make
from harness.build.worktree import OUTPUT
from harness.errors import HarnessError
from harness.progress import Progress, Step

MAKEFILE = """
good:
	@echo "  CC      init/main.o"
	@echo "  LD      vmlinux"
	@echo "warning: this is no step"
bad:
	@echo "  CC      kernel/a.o"
	@echo "../kernel/a.c: In function 'f':"
	@echo "../kernel/a.c:12:3: error: unknown"
	@echo "   12 |  x;"
	@echo "      |  ^"
	@exit 1
environment:
	@echo "env=[$(KBUILD_BUILD_USER)] [$(MAKEFLAGS)] [$$EVIL] [$$ARCH]"
slow:
	@sleep 63 & echo $$! > pid; wait
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHARNESS_CACHE", str(tmp_path / "cache"))
    top = tmp_path / "linux"
    (top / OUTPUT).mkdir(parents=True)
    (top / "Makefile").write_text(MAKEFILE)
    return top


@pytest.fixture
def step() -> Step:
    with Progress(Console(file=io.StringIO())).step("test") as running:
        return running


def test_steps_are_counted_and_logged(tree, step, tmp_path):
    log = tmp_path / "log"
    assert make.run(tree, ["good"], log, step).steps == 2
    assert "this is no step" in log.read_text()
    assert not (tree / OUTPUT / make.UNFINISHED).exists()


def test_error_is_cut_out_with_file_and_line(tree, step, tmp_path):
    with pytest.raises(HarnessError, match="does not compile") as caught:
        make.run(tree, ["bad"], tmp_path / "log", step)
    lines = caught.value.details.splitlines()
    assert lines[:4] == [
        "kernel/a.c: In function 'f':",
        "kernel/a.c:12:3: error: unknown",
        "   12 |  x;",
        "      |  ^",
    ]
    assert "CC " not in caught.value.details
    assert str(tmp_path / "log") in caught.value.advice


def test_callers_environment_does_not_leak_in(tree, step, tmp_path, monkeypatch):
    for name, value in (("EVIL", "1"), ("ARCH", "arm"), ("MAKEFLAGS", "-n --jobserver-auth=98,99")):
        monkeypatch.setenv(name, value)
    make.run(tree, ["environment"], tmp_path / "log", step)
    said = (tmp_path / "log").read_text()
    assert "env=[mkharness]" in said
    assert "-n" not in said.split("] [")[1].split()
    assert "jobserver-auth=98,99" not in said
    assert "[] []" in said


KILLED = """
import io, sys
from pathlib import Path
from rich.console import Console
from harness.build import kernel, make
from harness.progress import Progress
with Progress(Console(file=io.StringIO())).step("x") as step:
    make.run(Path(sys.argv[1]), ["slow"], Path(sys.argv[2]), step)
"""


@pytest.mark.parametrize(("how", "trusted"), [(signal.SIGKILL, False), (signal.SIGINT, True)])
def test_killed_harness_leaves_no_compiler_running(tree, tmp_path, how, trusted):
    harness = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tree), str(tmp_path / "log")], stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 10
    while not ((tree / "pid").exists() and (tree / "pid").read_text()) and time.monotonic() < limit:
        time.sleep(0.02)
    sleeper = int((tree / "pid").read_text())
    time.sleep(0.5)  # The harness has started make, and may not yet be reading from it.
    os.kill(harness.pid, how)
    harness.wait()
    while Path(f"/proc/{sleeper}").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    assert not Path(f"/proc/{sleeper}").exists()
    assert (tree / OUTPUT / make.UNFINISHED).exists() is not trusted


def test_jobs_are_at_least_one_and_at_most_the_cores(monkeypatch):
    assert 1 <= make.jobs() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(make, "MEMORY_PER_JOB", 1 << 60)
    assert make.jobs() == 1


def test_compiler_is_named_with_its_version():
    assert "gcc" in kernel.compiler()
    assert any(character.isdigit() for character in kernel.compiler())


def test_module_that_does_not_exist_is_named(tree, step, tmp_path):
    with pytest.raises(HarnessError, match="mknone"):
        kernel.compile_modules(tree, [tmp_path / "mknone"], "v1", tmp_path / "log", step)


MODULES = """
modules: ; @for each in $$(sed 's,.* ,,; s,/,,' $(M)/Kbuild); do \\
	test $(M)/$$each/$$each.ko -nt $(M)/$$each/$$each.c || \\
	{ echo "  CC [M]  $$each" && cp $(M)/$$each/$$each.c $(M)/$$each/$$each.ko; }; done
"""


def test_guest_modules_are_compiled_again_when_they_changed_or_a_kill_may_have_cut_one(tree, step, tmp_path):
    (tree / "Makefile").write_text(MODULES)
    sources = [tmp_path / "sources/a", tmp_path / "sources/b"]
    for source in sources:
        source.mkdir(parents=True)
        (source / "Kbuild").touch()
        (source / f"{source.name}.c").write_text("one")

    def compiled() -> list[str]:
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        objects = kernel.compile_modules(tree, sources, "v1", log, step)
        assert [file.read_text() for file in objects] == [
            (source / f"{source.name}.c").read_text() for source in sources
        ]
        return log.read_text().split()[2::3]

    assert compiled() == ["a", "b"]
    assert compiled() == []
    (sources[1] / "b.c").write_text("two")
    os.utime(sources[1] / "b.c", (0, 0))
    assert compiled() == ["b"], "an older time is a change, too"
    (tree.parent / "modules/a/a.ko").write_text("cut sho")
    (tree.parent / "modules" / kernel.UNFINISHED).touch()
    assert compiled() == ["a", "b"]
    assert sorted(path.name for path in sources[0].iterdir()) == ["Kbuild", "a.c"]


TAKES_IN = """
big.o: big.S
	$(CC) -Wp,-MMD,big.d -c -o $@ $<
"""


@pytest.mark.skipif(shutil.which("ccache") is None, reason="ccache is not installed")
def test_a_file_taken_in_is_never_an_earlier_one(tree, step, tmp_path):
    """As piggy.S takes in the packed kernel: of the same size, and the source unchanged."""
    (tree / "Makefile").write_text(TAKES_IN)
    (tree / "big.S").write_text('.incbin "packed"\n')
    made = []
    for content in (b"kernel one", b"kernel two"):
        (tree / "packed").write_bytes(content)
        (tree / "big.o").unlink(missing_ok=True)
        make.run(tree, ["big.o"], tmp_path / "log", step)
        made.append((tree / "big.o").read_bytes())
    assert b"kernel one" in made[0]
    assert b"kernel two" in made[1]


def test_image_of_another_kernel_is_refused_and_not_built_upon(tree, tmp_path):
    output = tree / OUTPUT
    for name, content in (
        ("vmlinux", program(tmp_path, "two")),
        ("arch/x86/boot/bzImage", bzimage(gzip.compress(program(tmp_path, "one")))),
        ("include/config/kernel.release", b"7.3.4"),
    ):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(content)
    with pytest.raises(HarnessError, match="not packed from the vmlinux"):
        kernel.require_packed(tree)
    assert not output.exists()
