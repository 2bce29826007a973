# SPDX-License-Identifier: Apache-2.0
"""Real ComfyUI servers, one for each version at hand, shared by the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.comfy.host import ODDITIES, Checkout, Server, checkouts, install

FOUND = checkouts()
MISSING = "NO COMFYUI WAS FOUND: SET COMFYUI_PATH, OR RUN `python start.py test`, WHICH FETCHES ONE"


@pytest.fixture(scope="session", params=FOUND or [None], ids=[c.version for c in FOUND] or ["none"])
def checkout(request: pytest.FixtureRequest) -> Checkout:
    """Each ComfyUI at hand."""
    if request.param is None:
        pytest.skip(MISSING)
    return request.param


@pytest.fixture(scope="session")
def comfy(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with the pack installed; sessions of different names do not meet."""
    base = tmp_path_factory.mktemp(f"comfyui-{checkout.version}")
    install(base)
    shutil.copy2(ODDITIES, base / "custom_nodes")
    server = Server(checkout, base)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def own_server(checkout: Checkout, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, not started yet, which it may kill."""
    install(tmp_path)
    server = Server(checkout, tmp_path)
    yield server
    server.kill()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/comfy/" in item.nodeid:
            item.add_marker("comfy")
