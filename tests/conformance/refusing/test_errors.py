# SPDX-License-Identifier: MIT
"""The errors that calls are documented to end with; what was refused is in nobody's way afterwards."""

from collections.abc import Callable
from itertools import chain

import pytest

from harness.definition import SpawnedKernel
from harness.multikernel import calls
from harness.multikernel.interface import LOAD_LIMIT, MOUNT, Interface
from harness.multikernel.payload import FILE, Payload
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("instances", "unload", "remove", "halt", "force")

ERRORS = "kernels/reference/README.md: errors"
UNKNOWN_BITS = (6, 7, 9, 15, 27, 31, 32, 63)
"""Of the flags of kexec_file_load(2)."""


def refuse(mk: Interface, cases: dict[str, tuple[str, str]], good: list[str], seen: Seen) -> None:
    """Require each case's error of its call, and that the ``good`` calls succeed after each."""
    lines = list(chain.from_iterable([line, *good] for line, _ in cases.values()))
    outcomes = calls.calls(mk.host, lines, limit=LOAD_LIMIT)
    wrong = []
    for number, (what, (_, error)) in enumerate(cases.items()):
        said, *after = outcomes[number * (len(good) + 1) :][: len(good) + 1]
        seen(f"{what}: {said.error or 'accepted'}")
        if said.error != error:
            wrong.append(f"{what} should be {error}: {said}")
        wrong += [f"after {what} ({said.error or 'accepted'}): {one}" for one in after if not one.ok]
    assert not wrong, "\n".join(wrong)


@claim(
    "a load or an unload that is refused ends with the documented error, and the next good ones succeed",
    source=ERRORS,
)
@pytest.mark.needs("userns")
def test_loads(mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    mk.create(SpawnedKernel("tiny", 3, bravo.cpus, 4096)).require()
    mk.host.run("echo 'this is no kernel' >/run/text")
    good, id = mk.load_call(ready.id, image=FILE), ready.id
    head, _, flags = good.rpartition(" ")
    flag = mk.numbers.load_flag

    def flagged(more: int, less: int = 0) -> str:
        return f"{head} {int(flags, 0) & ~less | more:#x}"

    cases = {
        "a load for no instance": (mk.load_call(7, image=FILE), "ENOENT"),
        "an unload for no instance": (mk.unload_call(7), "ENOENT"),
        "an unload of nothing": (mk.unload_call(id), "ENOENT"),
        "an id without the flag": (flagged(0, less=flag), "EINVAL"),
        "the flag without an id": (mk.load_call(0, image=FILE), "EINVAL"),
        "an unload without an id": (mk.unload_call(0), "EINVAL"),
        "a crash kernel": (flagged(0x2), "EINVAL"),
        **{f"flag {1 << bit:#x}": (flagged(1 << bit), "EINVAL") for bit in UNKNOWN_BITS},
        **{f"id {id}": (mk.load_call(id, image=FILE), "EINVAL") for id in (2048, 2049)},
        "an unload of id 2049": (mk.unload_call(2049), "EINVAL"),
        "no file": (good.replace(f"fd:{FILE}", "-1"), "EBADF"),
        "no kernel": (mk.load_call(id, image="/run/text"), "ENOEXEC"),
        "a command line without NUL": (good.replace(" 1 s: ", " 1 raw:a "), "EINVAL"),
        "a command line too long": (good.replace(" 1 s: ", " 4096 fill:4096:0 "), "EINVAL"),
        "a kernel too large": (mk.load_call(3, image=FILE), "EADDRNOTAVAIL"),
        "another user": (f"uid:1000 {good}", "EPERM"),
        "another user's unload": (f"uid:1000 {mk.unload_call(id)}", "EPERM"),
        "root of a user namespace": (f"userns {good}", "EPERM"),
    }
    refuse(mk, cases, [good, mk.unload_call(id)], seen)


@claim(
    "what is changed in the file system by other means than its own is refused with the documented error,"
    " and instances come and go after that",
    source=ERRORS,
)
@pytest.mark.needs("userns")
def test_file_system(mk: Interface, ready: SpawnedKernel, bravo: SpawnedKernel, seen: Seen) -> None:
    folder = f"{MOUNT}/instances"
    own, control = f"{folder}/{ready.name}", f"{MOUNT}/device_tree"
    cases = {
        "mkdir beside the instances": (f"mkdir s:{folder}/new 0755", "EPERM"),
        "mkdir at the top": (f"mkdir s:{MOUNT}/new 0755", "EPERM"),
        "mkdir in an instance": (f"mkdir s:{own}/new 0755", "EPERM"),
        "rename an instance": (f"rename s:{own} s:{folder}/other", "EPERM"),
        "rename all instances": (f"rename s:{folder} s:{MOUNT}/other", "EPERM"),
        "unlink an instance's file": (f"unlink s:{own}/id", "EPERM"),
        "unlink the control file": (f"unlink s:{control}", "EPERM"),
        "rmdir of all instances": (f"rmdir s:{folder}", "EPERM"),
        "another user's rmdir": (f"uid:1000 {mk.remove_call(ready.name)}", "EACCES"),
        "rmdir by root of a user namespace": (f"userns {mk.remove_call(ready.name)}", "EPERM"),
        "another user's tree": (f"uid:1000 write fdw:{control} hex:00 1", "EACCES"),
        "a tree by root of a user namespace": (f"userns write fdw:{control} hex:00 1", "EPERM"),
        "no tree": (f"write fdw:{control} hex:00 1", "EINVAL"),
        "a tree of 64 KiB and a byte": (f"write fdw:{control} fill:65537:0 65537", "E2BIG"),
    }
    mk.create(bravo).require()
    mk.remove(bravo.name).require()
    # The tree that was written last: it makes bravo.
    refuse(mk, cases, [mk.write_tree_call("/run/tree.dtb"), mk.remove_call(bravo.name)], seen)
    assert mk.state(ready.name) == "ready"


@claim(
    "what an instance's state does not allow is refused with the documented error, and changes nothing",
    source="kernels/reference/README.md: states",
)
@pytest.mark.parametrize(
    ("state", "errors"),
    [
        ("ready", {"unload": "ENOENT", "start": "EINVAL", "halt": "EINVAL", "force": "EINVAL"}),
        ("loaded", {"load": "EBUSY", "halt": "EINVAL", "force": "EINVAL", "rmdir": "EBUSY"}),
        ("active", {"load": "EBUSY", "unload": "EBUSY", "start": "EBUSY", "rmdir": "EBUSY"}),
        ("failed", {"load": "EBUSY", "start": "EINVAL", "halt": "EINVAL", "force": "EINVAL"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_states(
    mk: Interface, in_state: Callable[[str], Payload], seen: Seen, state: str, errors: dict[str, str]
) -> None:
    instance = in_state(state).instance
    id, name, numbers = instance.id, instance.name, mk.numbers
    assert numbers.halt is not None
    assert numbers.force is not None
    lines = {
        "load": mk.load_call(id, image=FILE),
        "unload": mk.unload_call(id),
        "start": mk.reboot_call(numbers.start, id),
        "halt": mk.reboot_call(numbers.halt, id),
        "force": mk.reboot_call(numbers.force, id),
        "rmdir": mk.remove_call(name),
    }
    wrong = []
    for what, error in errors.items():
        outcome, after = mk.call(lines[what], limit=LOAD_LIMIT), mk.state(name)
        seen(f"{state}, {what}: {outcome.error or 'accepted'}")
        if (outcome.error, after) != (error, state):
            wrong.append(
                f"{what} while {state} should be {error}: {outcome}, and it is {after or 'gone'} now"
            )
    assert not wrong, "\n".join(wrong)
