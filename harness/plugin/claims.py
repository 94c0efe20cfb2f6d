# SPDX-License-Identifier: MIT
"""What a test claims, and what it saw: the marker, the fixture, and who counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.claims import Claims

Seen = Callable[[str], None]
"""A test calls ``seen("...")`` with one line of what it observed; the table of claims shows it."""


def claim(text: str, *, source: str) -> pytest.MarkDecorator:
    """Say which claim a test checks, and where the claim is made (post, patch, document)."""
    return pytest.mark.claim(text, source=source)


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """Record one line of what the test saw."""

    def record(text: str) -> None:
        request.node.user_properties.append(("seen", text))

    return record


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count claims when there are any."""
    if any(item.get_closest_marker("claim") for item in items):
        claims_of(config).collected(items)


def claims_of(config: pytest.Config) -> Claims:
    """Return who counts a run's claims; from the first call on they are counted."""
    from harness import claims

    found: Claims | None = config.pluginmanager.get_plugin(claims.NAME)
    if found is None:
        from harness.definition import load_definition
        from harness.errors import UsageError

        try:
            load_definition(config.getoption("--kernel"))
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        found = claims.Claims(config)
        config.pluginmanager.register(found, claims.NAME)
    return found
