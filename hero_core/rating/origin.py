# SPDX-License-Identifier: Apache-2.0
"""Whose page asks: a browser tells, no page can forge it, and pages of other sites are refused.

Scripts and curl send neither `Sec-Fetch-Site` nor `Origin` and are let in. Browsers send the first to https and to this
machine alone, so on a network without https the second is all there is; and a proxy there may have put another name
into `Host`. That is what ComfyUI takes: it compares the two only where `Host` is this machine. Marks stay out of reach
of other sites all the same: they are taken as JSON only, for which a browser asks leave first and is given none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

OTHER_SITE = "Requests from other web sites are refused. Open the rating page itself, at /hero/."
_PORTS = {"http": 80, "https": 443}


def why_foreign(headers: Mapping[str, str]) -> str | None:
    """Why a request of a foreign page is refused, in a sentence with the remedy; None for all others."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site == "cross-site":
        return OTHER_SITE
    if origin is None or site == "same-origin":
        return None
    page, host = _split(origin), headers.get("Host", "")
    named = [_split(f"//{name}") for name in (host, headers.get("X-Forwarded-Host")) if name]
    if page.scheme in _PORTS and any(_same(page, one) for one in named):
        return None
    name = _split(f"//{host}").hostname or ""
    perhaps_a_proxy = page.scheme in _PORTS and site is None and not (is_loopback(name) or _is_no_name(name))
    return None if perhaps_a_proxy else _another_page(origin, host)


def is_loopback(host: str) -> bool:
    """Whether a host's name (no port) is this machine's own. Nothing is looked up: any name may be pointed here."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_no_name(host: str) -> bool:
    """Whether this is no address to be reached at: none, or 0.0.0.0 and [::], which browsers take for this machine."""
    return host.strip("0.:[]") == ""


def _another_page(origin: str, host: str) -> str:
    return (
        f"Requests from other web pages are refused: this one came from {origin[:80]!r} and was sent to {host[:80]!r}. "
        "If that is your own proxy, let it pass the name on (nginx: proxy_set_header Host $http_host;)."
    )


def _split(address: str) -> SplitResult:
    """The parts of an address; all empty where it is none."""
    try:
        parts = urlsplit(address.lower())
        _ = parts.port  # raises where it is no number
        return parts
    except ValueError:
        return SplitResult("", "", "", "", "")


def _same(page: SplitResult, host: SplitResult) -> bool:
    """Whether a page's address and a `Host` name one server: a port that is left out is the scheme's own."""
    ports = (page.port or _PORTS[page.scheme], host.port or _PORTS[page.scheme])
    return bool(page.hostname) and page.hostname == host.hostname and ports[0] == ports[1]
