# SPDX-License-Identifier: Apache-2.0
"""The rating page without ComfyUI: a small server on this machine over one store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from ..errors import HeroError
from .origin import is_loopback
from .routes import WEB_DIR, add_routes

if TYPE_CHECKING:
    from ..store import Store

DEFAULT_PORT = 8189

_LOG = logging.getLogger(__name__)


def make_app(store: Store, web_dir: Path = WEB_DIR, *, loopback: bool = True) -> web.Application:
    """The app with all routes. With `loopback`, only requests addressed to this machine by its own name are answered:
    a foreign page whose host name was pointed at 127.0.0.1 is not.
    """
    app = web.Application(middlewares=[_only_this_machine] if loopback else [])
    add_routes(app, lambda: store, web_dir=web_dir)
    app.router.add_get("/", _to_page)
    return app


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    web_dir: Path = WEB_DIR,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until interrupted (Ctrl+C). `ready` is told the page's address; without it the address is logged.

    Raises HeroError when the port cannot be had.
    """

    async def forever() -> None:
        runner, address = await _start(store, host, port, web_dir)
        try:
            (ready or _log_address)(address)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(forever())


@contextlib.contextmanager
def serving(store: Store, host: str = "127.0.0.1", port: int = 0, *, web_dir: Path = WEB_DIR) -> Iterator[str]:
    """Serve from a thread of its own while the block runs; gives the page's address. Port 0 takes a free one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hero-rating", daemon=True)
    thread.start()
    runner = None
    try:
        runner, address = asyncio.run_coroutine_threadsafe(_start(store, host, port, web_dir), loop).result()
        yield address
    finally:
        if runner is not None:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(store: Store, host: str, port: int, web_dir: Path) -> tuple[web.AppRunner, str]:
    app = make_app(store, web_dir, loopback=is_loopback(host))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise HeroError(f"Cannot listen on {host}:{port} ({error.strerror or error}). Choose another port.") from error
    real_port = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return runner, f"http://{shown}:{real_port}/hero/"


def _log_address(address: str) -> None:
    _LOG.info("Rate pictures at %s", address)


async def _to_page(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "/hero/"})


@web.middleware
async def _only_this_machine(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if not is_loopback(request.url.host or ""):
        sentence = "This server answers only under the names localhost and 127.0.0.1. Use one of them."
        return web.json_response({"error": sentence}, status=403)
    return await handler(request)
