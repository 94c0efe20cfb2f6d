# SPDX-License-Identifier: MIT
"""`mkh build` is killed at random moments, or interrupted, and the next one gives the right kernel.

The kernel is a tree of thirty files whose Makefile has the targets of a kernel's and, like
compilers, writes its objects in place and not at once: what a kill leaves looks finished to make.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from images import TO_BZIMAGE, TO_ELF

MAKEFILE = """
names := $(shell seq 30)
objects := $(names:%=$(O)/%.o)
tinyconfig: $(O)/conf.o ; @echo CONFIG_MODULES=y > $(O)/.config
olddefconfig: ; @test $$(wc -l < $(O)/conf.o) = 2
savedefconfig: ; @cp $(O)/.config $(O)/defconfig
$(O)/conf.o: common.h ; @echo half > $@ && sleep 0.1 && echo whole >> $@
modules: ; @true
bzImage: $(O)/arch/x86/boot/bzImage
	@mkdir -p $(O)/include/config && echo 7.3.4 > $(O)/include/config/kernel.release
$(O)/arch/x86/boot/bzImage: $(O)/vmlinux
	@mkdir -p $(@D) && TO_BZIMAGE < $< > $@
$(O)/vmlinux: $(objects)
	@echo "  LD      vmlinux" && cat $^ | TO_ELF > $@
$(O)/%.o: %.c common.h
	@echo "  CC      $*.o" && head -c 3 $< > $@ && sleep 0.02 && cat common.h $< > $@
""".replace("TO_ELF", TO_ELF).replace("TO_BZIMAGE", TO_BZIMAGE)
DEFINITION = """
summary = "thirty files"
dialect = "reference"
series = "series"
configs = ["base"]
topology = "pair"
[files]
"etc/mine" = "mine"
[[bases]]
kind = "path"
path = "{path}"
"""
KILLS = 10


class Mini:
    """A definition and a cache; ``edit`` makes the series another, and says what is then right."""

    def __init__(self, top: Path) -> None:
        self.top, self.cache = top, top / "cache"
        (top / "source").mkdir()
        for name in ("Kbuild", "Kconfig"):
            (top / "source" / name).touch()
        (top / "source/Makefile").write_text(MAKEFILE)
        for number in range(1, 31):
            (top / f"source/{number}.c").write_text(f"one {number}\n")
        (top / "source/common.h").write_text("common\n")
        (top / "mine").write_text("mine")
        (top / "series").mkdir()
        (top / "mini.toml").write_text(DEFINITION.format(path=top / "source"))
        (self.cache / "guest").mkdir(parents=True)
        (self.cache / "guest/busybox").write_text("busybox")

    def edit(self, value: int) -> bytes:
        """Change what every file depends on in one round, and three files in another."""
        names = ["common.h"] if value % 2 else ["1.c", "17.c", "30.c"]
        patch = ""
        for name in names:
            old = (self.top / "source" / name).read_text().rstrip()
            patch += f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-{old}\n+edited {value}\n"
        (self.top / "series/1.patch").write_text(patch)
        common = f"edited {value}\n" if value % 2 else "common\n"
        changed = {} if value % 2 else dict.fromkeys(("1.c", "17.c", "30.c"), f"edited {value}\n")
        return "".join(common + changed.get(f"{n}.c", f"one {n}\n") for n in range(1, 31)).encode()

    def start(self) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("mkh")
        return subprocess.Popen(
            [program, "build", "--json", self.top / "mini.toml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "MKHARNESS_CACHE": str(self.cache)},
            start_new_session=True,
        )

    def build(self) -> dict[str, str]:
        child = self.start()
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err.decode()
        return dict(json.loads(out))


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    return Mini(tmp_path)


def test_ten_kills_at_random_moments_each_followed_by_the_right_kernel(mini):
    mini.edit(-1)
    mini.build()
    mini.edit(0)
    started = time.monotonic()
    mini.build()
    whole = time.monotonic() - started
    moments = random.Random()
    kills = value = 0
    while kills < KILLS:
        value += 1
        right = mini.edit(value)
        child = mini.start()
        time.sleep(moments.uniform(0.2, 0.9) * whole)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        if child.returncode == -signal.SIGKILL:
            kills += 1
        else:
            # A busy computer was less so; the moments come sooner.
            whole *= 0.7
        complete = [path for path in (mini.cache / "store").iterdir() if path.suffix != ".new"]
        built = mini.build()
        image = Path(built["image"]).read_bytes()
        assert right in image, f"after a kill, change {value}"
        assert right in Path(built["vmlinux"]).read_bytes()
        assert right in Path(built["host_initrd"]).read_bytes()
        assert all((path / "meta.json").exists() for path in complete)
    assert not list((mini.cache / "store").glob("*.new")), "the last good build leaves nothing half done"


def left(folder: Path) -> list[str]:
    """Return what runs in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_ctrl_c_ends_the_build_and_its_compilers(mini):
    right = mini.edit(1)
    child = mini.start()
    work = mini.cache / "work"
    limit = time.monotonic() + 120
    while len(list(work.glob("**/mkharness-build/[0-9].o"))) < 3:
        assert time.monotonic() < limit
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    assert left(work)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, err.decode()
    assert out == b""
    assert b"interrupted: stopping" in err
    assert b"Traceback" not in err
    assert not left(work)
    assert right in Path(mini.build()["image"]).read_bytes()
