# SPDX-License-Identifier: MIT
"""Messages that cannot be delivered: who sends them is told, and nothing is kept of them."""

import pytest

from harness.definition import SpawnedKernel
from harness.errors import HarnessError
from harness.lab import Lab
from harness.multikernel import census, messaging
from harness.multikernel.interface import Interface
from harness.plugin import Seen, claim

pytestmark = pytest.mark.needs("instances", "remove")


@claim(
    "a message to an instance that does not run is refused, and its memory is free when it is removed",
    source="RFC v2 14/16: mk_send_message(); known bug V2-08: a failed send keeps the instance",
)
def test_message_to_nobody(lab: Lab, mk: Interface, alpha: SpawnedKernel, seen: Seen) -> None:
    before = census.take(lab.host)
    mk.create(alpha).require()
    with pytest.raises(HarnessError, match="ended with status 1") as refused:
        messaging.send(lab.host, alpha.id, b"is anybody there?")
    mk.remove(alpha.name).require()
    kept = [line for line in census.take(lab.host).lost_since(before) if line.startswith("iomem")]
    seen(f"{str(refused.value).splitlines()[-1]}; {'; '.join(kept) or 'its memory is back'}")
    assert not kept, "\n".join(kept)
