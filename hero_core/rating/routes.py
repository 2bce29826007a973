# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface over the store; ComfyUI and the standalone app mount the same handlers.

`GET` never changes anything. Every refusal is a 4xx whose JSON body holds `error`, one sentence a person can act on.
All work that touches the disk runs in a thread, so that the event loop (ComfyUI's own, too) stays free.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..errors import HeroError, NotFound, StaleRevision
from ..feedback import Feedback
from .origin import why_foreign

if TYPE_CHECKING:
    from ..store import Round, Session, Size, Store

WEB_DIR = Path(__file__).resolve().parents[2] / "web"
ROUND_EVENT = "hero.round"
MAX_BODY = 64 * 1024  # labels of 4096 pictures fit; nothing we take is larger
BODY_SECONDS = 20.0  # a client that dribbles its body is let go after this
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

_LOG = logging.getLogger(__name__)
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
_STATIC_TYPES = {".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_STATUSES = ("pending", "rated", "saved")
_FOREVER = "private, max-age=31536000, immutable"
_REVALIDATE = "private, no-cache"

Notify = Callable[[str, dict], None]
About = Callable[[str], dict[str, Any]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(Exception):
    """A request that is answered with a 4xx: its status, its sentence, further headers and what else the body has."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(sentence)
        self.status, self.headers, self.body = status, headers or {}, {"error": sentence, **extra}


def add_routes(
    router: web.RouteTableDef | web.Application,
    store: Callable[[], Store],
    notify: Notify = lambda event, data: None,
    web_dir: Path = WEB_DIR,
    about: About = lambda round_id: {"running": False, "notes": []},
) -> None:
    """Mount every route under `/hero` on a ComfyUI `RouteTableDef` or on an `Application`.

    `store` is asked on every request (never at import, when folders may not be known yet); `notify(event, data)` is
    told of each change of a round with the round's JSON and must be safe to call from the event loop. `about(round_id)`
    gives what only the host knows: `running`, whether a run waits for the round or goes on with it, and `notes`, what
    its rater should read before the first mark.
    """
    table = RatingApi(store, notify, web_dir, about).table()
    if isinstance(router, web.RouteTableDef):
        for route in (route for route in table if isinstance(route, web.RouteDef)):
            router.route(route.method, route.path, **route.kwargs)(route.handler)
    else:
        router.add_routes(table)


class RatingApi:
    """The handlers. They hold no state of their own: everything is asked of the store."""

    def __init__(self, store: Callable[[], Store], notify: Notify, web_dir: Path, about: About) -> None:
        self.store, self.notify, self.web_dir, self.about = store, notify, web_dir, about

    def table(self) -> web.RouteTableDef:
        """Each path with its methods, then a `*` that answers any other method with a sentence."""
        table = web.RouteTableDef()
        for path, methods in {
            "/hero": {"GET": self.to_page},
            "/hero/": {"GET": self.page},
            "/hero/sessions": {"GET": self.sessions},
            "/hero/rounds": {"GET": self.rounds},
            "/hero/rounds/{id}": {"GET": self.round},
            "/hero/rounds/{id}/pictures/{picture}": {"GET": self.picture},
            "/hero/rounds/{id}/labels": {"PUT": self.put_labels},
            "/hero/rounds/{id}/submit": {"POST": self.submit},
        }.items():
            for method, handler in methods.items():
                table.route(method, path)(_answered(handler))
            table.route("*", path)(_answered(_wrong_method(", ".join(methods))))
        # Our modules hold no secret, and not every proxy lets a browser's request for one look like its own.
        table.route("GET", "/hero/static/{name}")(_answered(self.static, anyone=True))
        table.route("*", "/hero/static/{name}")(_answered(_wrong_method("GET")))
        table.route("*", "/hero/{tail:.*}")(_answered(_no_such_path))
        return table

    async def to_page(self, request: web.Request) -> web.StreamResponse:
        """`/hero` leads to `/hero/`, so that the page's relative addresses work under any prefix."""
        return web.Response(status=302, headers={"Location": "hero/"})

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The rating page."""
        headers = {
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": _REVALIDATE,
        }
        return _file(self.web_dir / "rating.html", "text/html", headers)

    async def static(self, request: web.Request) -> web.StreamResponse:
        """A module or stylesheet of the page; the name is looked up in the folder's listing, never joined to it."""
        listing = await asyncio.to_thread(lambda: {path.name: path for path in self.web_dir.iterdir()})
        path = listing.get(request.match_info["name"])
        if path is None or path.suffix not in _STATIC_TYPES:
            raise Refusal(404, "There is no such file of the rating page. Reload the page.")
        return _file(path, _STATIC_TYPES[path.suffix], {"Cache-Control": _REVALIDATE})

    async def sessions(self, request: web.Request) -> web.StreamResponse:
        """Every session with its rounds."""
        return _json(await asyncio.to_thread(lambda: {"sessions": [_session_json(s) for s in self.store().sessions()]}))

    async def rounds(self, request: web.Request) -> web.StreamResponse:
        """Rounds of all sessions, `?status=pending|rated|saved` of them or all."""
        status = request.query.get("status")
        if status is not None and status not in _STATUSES:
            raise Refusal(400, f"status is {status[:40]!r}; it must be one of {', '.join(_STATUSES)}, or be left out.")
        rounds = await asyncio.to_thread(lambda: [self._describe(r) for r in self.store().rounds(status)])
        return _json({"rounds": rounds})

    async def round(self, request: web.Request) -> web.StreamResponse:
        """One round with its marks."""
        return _json(await asyncio.to_thread(lambda: self._describe(self._round(request))))

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """A picture of a round (`0` …), or `best`, the old best. A `v` that is the round's stamp is cached for good."""
        name, size = request.match_info["picture"], request.query.get("size", "full")
        if size not in ("thumb", "full"):
            raise Refusal(400, f"size is {size[:40]!r}; it must be thumb or full.")
        shown: Size = "thumb" if size == "thumb" else "full"
        if name != "best" and not _INDEX.fullmatch(name):
            raise Refusal(404, "There is no such picture: ask for a number from 0 on, or for best.")

        def find() -> tuple[Path, str | None]:
            round_ = self._round(request)
            return round_.picture("best" if name == "best" else int(name), shown), _stamp(round_)

        path, stamp = await asyncio.to_thread(find)
        cache = _FOREVER if stamp is not None and request.query.get("v") == stamp else _REVALIDATE
        return _file(path, None, {"Cache-Control": cache})

    async def put_labels(self, request: web.Request) -> web.StreamResponse:
        """Replace all marks of a round, if `rev` is still the round's revision."""
        body = await _read_json(request, required={"rev", "labels"}, optional={"best"})
        rev = _checked_rev(body["rev"])

        def put() -> dict:
            round_ = self._round(request)
            feedback = Feedback.from_json(body, round_.n)
            try:
                round_.put_marks(rev, feedback)
            except HeroError as error:
                self._refuse_marks(round_, error, feedback)
            return self._describe(round_)

        return self._changed(await asyncio.to_thread(put))

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Close a round for marks. A second time it is a no-op with the same answer."""
        body = await _read_json(request, required={"rev"}, optional=set())
        rev = _checked_rev(body["rev"])

        def submit() -> dict:
            round_ = self._round(request)
            about = self.about(round_.id)  # before: what waits for the marks may be done with them in a moment
            try:
                round_.submit(rev)
            except HeroError as error:
                status = 409 if isinstance(error, StaleRevision) else 400
                raise Refusal(status, str(error), current=self._describe(round_)) from error
            return describe(round_) | about

        return self._changed(await asyncio.to_thread(submit))

    def _round(self, request: web.Request) -> Round:
        # The store checks the id: nothing that came over HTTP is joined to a path here.
        return self.store().round(request.match_info["id"])

    def _describe(self, round_: Round) -> dict:
        return describe(round_) | self.about(round_.id)

    def _refuse_marks(self, round_: Round, error: HeroError, feedback: Feedback) -> None:
        """Marks that the store refused: equal ones after submit are fine, others and stale ones are a conflict."""
        marks = round_.marks()
        if marks.submitted and marks.feedback == feedback:
            return
        if marks.submitted or isinstance(error, StaleRevision):
            raise Refusal(409, str(error), current=self._describe(round_)) from error
        raise error

    def _changed(self, data: dict) -> web.StreamResponse:
        self.notify(ROUND_EVENT, data)
        return _json(data)


def describe(round_: Round) -> dict:
    """The round's JSON, with `stamp`: changes when the round's pictures are written anew, for picture addresses."""
    return {**round_.to_json(), "stamp": _stamp(round_)}


def _stamp(round_: Round) -> str | None:
    try:
        return f"{round_.picture(0, 'thumb').stat().st_mtime_ns:x}"
    except (NotFound, FileNotFoundError):
        return None


def _session_json(session: Session) -> dict:
    return {
        "name": session.name,
        "saved_round": session.saved_round,
        "open_round": session.open_round,
        "rounds": [{"id": r.id, "round": r.number, "status": r.status, "n": r.n} for r in session.rounds()],
    }


def _answered(handler: Handler, anyone: bool = False) -> Handler:
    """Refuse foreign requests (but with `anyone`), and turn every fault into a JSON answer with a sentence."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if not anyone:
                _refuse_foreign(request)
            return await handler(request)
        except Refusal as refusal:
            return _json(refusal.body, refusal.status, refusal.headers)
        except NotFound as error:
            return _json({"error": str(error)}, 404)
        except HeroError as error:
            return _json({"error": str(error)}, 400)
        except ConnectionError:  # the client is gone: nobody to answer
            raise
        except OSError as error:
            _LOG.exception("%s %s failed", request.method, request.path)
            reason = error.strerror or type(error).__name__
            return _json({"error": f"The disk refused ({reason}). Free space or mend its rights, then try again."}, 500)

    return answer


def _wrong_method(allowed: str) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise Refusal(405, f"{request.method[:20]} is not possible here; use {allowed}.", {"Allow": allowed})

    return refuse


async def _no_such_path(request: web.Request) -> web.StreamResponse:
    raise Refusal(404, "There is nothing at this address; the rating page is at /hero/.")


def _refuse_foreign(request: web.Request) -> None:
    """Other web pages may not read or mark. A link to the rating page itself may be followed from anywhere."""
    sentence = why_foreign(request.headers)
    if sentence is not None and not _is_link_to_page(request):
        raise Refusal(403, sentence)


def _is_link_to_page(request: web.Request) -> bool:
    page = request.path.endswith(("/hero", "/hero/")) and request.headers.get("Origin") is None
    return page and request.method == "GET" and request.headers.get("Sec-Fetch-Dest") == "document"


async def _read_json(request: web.Request, required: set[str], optional: set[str]) -> dict[str, Any]:
    """The body as an object with exactly these keys; limited in size, time and depth."""
    if request.content_type != "application/json":
        raise Refusal(415, "Send JSON with the header Content-Type: application/json.")
    try:
        raw = await asyncio.wait_for(_read_limited(request), BODY_SECONDS)
        body = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except asyncio.TimeoutError as error:  # not the builtin one before Python 3.11
        raise Refusal(408, f"The body did not arrive within {BODY_SECONDS:.0f} seconds. Send it again.") from error
    except (ValueError, RecursionError, web.RequestPayloadError) as error:
        raise Refusal(400, "The body is not valid JSON. Send one object.") from error
    names = ", ".join(sorted(required | optional))
    if not isinstance(body, dict) or not required <= body.keys() <= required | optional:
        raise Refusal(400, f"The body must be one JSON object with {names} and nothing else.")
    return body


async def _read_limited(request: web.Request) -> bytes:
    too_large = Refusal(413, f"The body is larger than {MAX_BODY} bytes. Send only rev, labels and best.")
    if (request.content_length or 0) > MAX_BODY:
        raise too_large
    raw = bytearray()
    while chunk := await request.content.read(MAX_BODY + 1 - len(raw)):
        raw += chunk
        if len(raw) > MAX_BODY:
            raise too_large
    return bytes(raw)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def _checked_rev(rev: object) -> int:
    if type(rev) is not int or not 0 <= rev < 2**53:
        raise Refusal(400, "rev must be the whole number that the round's JSON gives. GET the round and use its rev.")
    return rev


def _json(data: dict, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    always = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.json_response(data, status=status, headers={**always, **(headers or {})})


def _file(path: Path, content_type: str | None, headers: dict[str, str]) -> web.StreamResponse:
    """A file with ETag and Last-Modified (aiohttp's own), never sniffed as something else."""
    response = web.FileResponse(path, headers={**headers, "X-Content-Type-Options": "nosniff"})
    if content_type is not None:
        response.content_type = content_type
    return response
