# SPDX-License-Identifier: Apache-2.0
"""What is thrown at the HTTP interface: names, bodies and headers that are not meant well, and a client for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from email.message import Message
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from tests.patience import PATIENCE

ROUND = "/hero/rounds/rose.0001"
JSON = {"Content-Type": "application/json"}
MARKS = b'{"rev": 0, "labels": {"0": "good"}, "best": 0}'

TRAVERSALS = [
    "..", "../..", "../../../../etc/passwd", "....//....//etc/passwd", "/etc/passwd", "//etc/passwd",
    "C:\\Windows\\win.ini", "..\\..\\session.json", "\\\\host\\share", "file:///etc/passwd", "rose/../../etc.0001",
    "../rose.0001", "./rose.0001", "rose.0001/../../session.json", "~root.0001", "~/x.0001", "rose.0001/",
    "rose/0001", "%2e%2e", "%252e%252e%252f",
]  # fmt: skip
DEVICES = [f"{name}{end}" for name in ("CON", "NUL", "AUX", "COM1", "LPT1") for end in ("", ".0001", ".txt", ":")]
ODD = [
    "\0", "rose\0.0001", "rose.0001\0.png", "\r\nX-Evil: 1", "rose.0001\n", "rose .0001", " rose.0001", "rose.0001 ",
    "rose.00001", "rose.-001", "rose.+001", "rose.1e3", "rose.0x01", "rose.\u0660\u0660\u0660\u0661",
    "r\u043ese.0001", "ROSE.0001", "rose..0001", ".0001", "rose.", ".", "rose.99999999", "rose.999999999",
    "\u202erose.0001", "\U0001f339.0001", "rose.0001#", "rose.0001?", "*", "?", "<script>.0001",
    "'; drop table rounds; --", "${7*7}", "{{7*7}}", "%s%n%x", "-1", "01", "1.0", "1e1", "NaN", "Infinity", "null",
    "true", "best.", "BEST", "999999", "99999999999999999999", "pyproject.toml", "__init__.py", "docs", "hero.js",
    "rating.html", ".comfyignore", "a" * 300, "a" * 5000, "a" * 10_000 + ".0001", "." * 5000, "%" * 300,
]  # fmt: skip
NAMES = [*TRAVERSALS, *DEVICES, *ODD]
"""Names of files, rounds and pictures that do not exist, or should not."""

DEEP = 20_000
BODIES = [
    b"", b"{", b"}", b"[]", b"null", b"true", b"0", b'""', b"NaN", b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b"{}", b"\0",
    b'{"rev": 0}', b'{"labels": {}}', b'{"rev": 0, "labels": {}, "more": 1}', b'{"rev": 0, "rev": 0, "labels": {}}',
    b'{"rev": 0, "labels": {}, "__proto__": {"x": 1}}', b'{"rev": 0, "labels": {"0": "good", "0": "bad"}}',
    b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"rev": 0, "labels": ' + b'{"0":' * 8000 + b"1" + b"}" * 8001,
    b'{"rev": 0, "labels": {}, "best": ' + b"[" * DEEP + b"}", b'{"rev":' + b"9" * 5000 + b', "labels": {}}',
    b'{"rev": 1e999, "labels": {}}', b'{"rev": 0, "labels": {}} {"rev": 0, "labels": {}}', b"{'rev': 0, 'labels': {}}",
    b'{"rev": 0, "labels": {"0": "good"}, "best": 0' + b" " * 70_000 + b"}", b" " * 1_000_000, b"rev=0&labels=",
    b'{"rev": 0, "labels": {' + b",".join(b'"%d": "bad"' % i for i in range(6, 3000)) + b"}}",
]  # fmt: skip
"""Bodies that are no request to mark."""

REVS = ["true", "-1", "0.5", '"0"', "null", "[]", "{}", "NaN", "1e400", "9007199254740992", "99", "1"]
LABELS = [
    "[]", "null", "0", '"good"', '{"6": "bad"}', '{"-1": "bad"}', '{"x": "bad"}', '{"": "bad"}', '{"0": "best"}',
    '{"0": null}', '{"0": ["good"]}', '{"0": {}}', '{"0": true}', '{"1.0": "bad"}', '{"1e0": "bad"}',
    '{"\u0660": "bad"}', '{"9999999": "bad"}', '{"0": "GOOD"}', '{"0": "good "}', '{"../0": "bad"}', '{" 0": "bad"}',
    '{"0": "bad\\u0000"}', '{"+0": "bad"}', '{"\\ud800": "bad"}', '{"0": "\\ud800"}',
]  # fmt: skip
BESTS = [
    "6", "-1", "true", "false", "1.0", "{}", "[]", "[0]", '"worst"', '"KEEP"', '"0"', "1e9", '"\\u202e"', '"keep "',
    "NaN",
]  # fmt: skip
BODIES += [f'{{"rev": {rev}, "labels": {{}}}}'.encode() for rev in REVS]
BODIES += [f'{{"rev": 0, "labels": {labels}}}'.encode() for labels in LABELS]
BODIES += [f'{{"rev": 0, "labels": {{"1": "bad"}}, "best": {best}}}'.encode() for best in [*BESTS, "1"]]

KINDS = [
    "", "text/plain", "text/html", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json",
    "application/jsonp", "application/json-patch+json", "application/xml", "image/png", "json", "*/*", ";", "a" * 3000,
]  # fmt: skip
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "file://"},
    {"Origin": "http://["}, {"Origin": "http://localhost.evil.example"}, {"Origin": "chrome-extension://abcdef"},
    {"Origin": ""}, {"Origin": "null", "Sec-Fetch-Site": "same-site"}, {"Origin": "null", "Host": "null"},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "none"},
]  # fmt: skip
"""Headers that a browser sends along for a page that is not ours."""


class Attack(NamedTuple):
    """One request as it goes over the wire; ``heard`` is False where the HTTP parser answers in our place."""

    method: str
    path: str
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    heard: bool = True


class Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes

    @property
    def kind(self) -> str:
        """The body's content type."""
        return self.headers.get_content_type()

    @property
    def sentence(self) -> str:
        """The sentence of a refusal."""
        return json.loads(self.body)["error"]


def attacks(round_path: str = ROUND) -> Iterator[Attack]:
    """Every attack; ``round_path`` names a round with marks at revision 0 and six pictures."""
    for name in NAMES:
        for segment in {quote(name, safe=""), quote(quote(name, safe=""), safe="")}:
            for path in _places(round_path, segment):
                heard = len(path) < 8000
                yield Attack("GET", path, heard=heard)
            for method, end in (("PUT", "labels"), ("POST", "submit")):
                yield Attack(method, f"/hero/rounds/{segment}/{end}", JSON, MARKS, len(segment) < 8000)
    for body in BODIES:
        yield Attack("PUT", f"{round_path}/labels", JSON, body)
        yield Attack("POST", f"{round_path}/submit", JSON, body)
    for kind in KINDS:
        yield Attack("PUT", f"{round_path}/labels", {"Content-Type": kind}, MARKS)
        yield Attack("POST", f"{round_path}/submit", {"Content-Type": kind}, b'{"rev": 0}')
    for headers in FOREIGN:
        for path in (round_path, f"{round_path}/pictures/0", "/hero/sessions", "/hero/"):
            yield Attack("GET", path, headers)
        yield Attack("PUT", f"{round_path}/labels", {**headers, **JSON}, MARKS)
        yield Attack("POST", f"{round_path}/submit", {**headers, **JSON}, b'{"rev": 0}')
    for method in ("DELETE", "PATCH", "POST", "PUT", "OPTIONS", "TRACE", "PROPFIND"):
        for path in ("/hero/", "/hero/sessions", "/hero/rounds", round_path, f"{round_path}/pictures/0"):
            yield Attack(method, path)
    for method in ("GET", "POST", "DELETE"):
        yield Attack(method, f"{round_path}/labels")


def _places(round_path: str, segment: str) -> list[str]:
    return [
        f"/hero/rounds/{segment}", f"/hero/rounds/{segment}/pictures/0", f"/hero/static/{segment}",
        f"{round_path}/pictures/{segment}", f"{round_path}/pictures/0?size={segment}", f"/hero/rounds?status={segment}",
    ]  # fmt: skip


MALFORMED = [
    b"GET /hero/rounds/rose\x00.0001 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /hero/static/ rating.mjs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"XXXXXXXX /hero/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /hero/ HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    b"GET /hero/sessions HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
    b"PUT /hero/rounds/rose.0001/labels HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"PUT /hero/rounds/rose.0001/labels HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"PUT /hero/rounds/rose.0001/labels HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\nZZ\r\n",
    b"PUT /hero/rounds/rose.0001/labels HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 5\r\nContent-Type: application/json\r\n\r\n0\r\n\r\n",
]
"""Bytes that are no HTTP request."""


def send(address: str, attack: Attack, timeout: float = PATIENCE) -> Answer:
    """Send one attack on a connection of its own, letter by letter as it is written, and read the answer."""
    parts = urlsplit(address)
    headers = {"Host": f"{parts.hostname}:{parts.port}", **attack.headers}
    if attack.body or attack.method in ("PUT", "POST"):
        headers["Content-Length"] = str(len(attack.body))
    lines = [f"{attack.method} {attack.path} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items())]
    return send_bytes(address, "\r\n".join(lines).encode() + b"\r\n\r\n" + attack.body, timeout)


def send_bytes(address: str, data: bytes, timeout: float = PATIENCE) -> Answer:
    """Send these bytes on a connection of their own and read the answer."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout) as connection:
        with contextlib.suppress(ConnectionError):  # refused in the middle of a large body: the answer is there
            connection.sendall(data)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return Answer(answer.status, answer.headers, answer.read())
