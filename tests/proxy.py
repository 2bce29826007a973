# SPDX-License-Identifier: Apache-2.0
"""A reverse proxy before a server, as people put one there: a name and a path of its own, and another `Host` behind."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

HOST = "192.0.2.7:8188"
"""What the server hears itself called: an address of the network, as with nginx's default `proxy_set_header Host`."""

HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length", "upgrade"}
NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  proxy_max_temp_file_size 0;
  client_body_buffer_size 1m;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location {prefix}/ {{
      proxy_pass http://127.0.0.1:{target}/;
      proxy_set_header Host {host};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(target: int, folder: Path, prefix: str = "") -> Iterator[int]:
    """A real nginx, where there is one; gives its port."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx; the proxy written here does the same")
    port, folder = _free_port(), folder / "nginx"  # which it takes for its own
    folder.mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, host=HOST, target=target, port=port, prefix=prefix))
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        _until_it_listens(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def proxy(target: int, folder: Path, prefix: str = "") -> Iterator[int]:
    """The same without nginx; gives its port."""
    loop, port = asyncio.new_event_loop(), _free_port()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(_serve(port, target, prefix), loop).result(30)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(_end(runner), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


async def _serve(port: int, target: int, prefix: str) -> web.AppRunner:
    async def forward(request: web.Request) -> web.StreamResponse:
        address = f"http://127.0.0.1:{target}{request.raw_path.removeprefix(prefix)}"
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        headers["Host"] = HOST
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _forward_socket(request, address, headers)
        body = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=True) as client,
            client.request(request.method, address, headers=headers, data=body, allow_redirects=False) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", prefix + "/{tail:.*}", forward)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def _end(runner: web.AppRunner) -> None:
    await runner.cleanup()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _forward_socket(request: web.Request, address: str, headers: dict) -> web.WebSocketResponse:
    headers = {name: value for name, value in headers.items() if not name.lower().startswith("sec-websocket")}
    here = web.WebSocketResponse(max_msg_size=0)
    await here.prepare(request)
    async with aiohttp.ClientSession() as client, client.ws_connect(address, headers=headers, max_msg_size=0) as there:

        async def pump(source, target) -> None:
            async for message in source:
                await (target.send_str if message.type == aiohttp.WSMsgType.TEXT else target.send_bytes)(message.data)
            await target.close()

        await asyncio.gather(pump(there, here), pump(here, there), return_exceptions=True)
    return here


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _until_it_listens(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < end, "nginx does not listen"
        time.sleep(0.05)
