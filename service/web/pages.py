"""What every page shares: templates, the frame around the content, errors told on a page."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from db.queries import catalogue
from service.deps import found_caller, get_runtime
from service.errors import Problem, problem_of
from service.runtime import Resight
from service.web import appearance, figures, terms, words
from service.web.me import me_of, way_in, with_token
from service.web.told import told
from service.web.view import sentence

log = logging.getLogger("resight")

STATIC = Path(__file__).resolve().parent / "static"
VARY = "HX-Request, Accept-Language, Cookie"


@dataclass(frozen=True, slots=True)
class Shell:
    """What surrounds every page; a stranger without a key is told nothing about the catalogue."""

    state: Literal["ready", "not ready", ""] = ""
    detail: str = ""
    notices: tuple[str, ...] = ()
    species: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProblemView:
    title: str
    detail: str
    errors: tuple[str, ...]
    url: str | None = None
    """The job or run that is in the way."""


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The templates; whatever they show is escaped, whatever they misspell fails."""
    environment = Environment(
        loader=PackageLoader("service.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = asset_url
    environment.globals |= {
        "_": words.gettext,
        "gettext": words.gettext,
        "ngettext": words.ngettext,
        "pgettext": words.pgettext,
        "markup": words.markup,
        "language": words.language,
        "languages": words.languages,
        "for_scripts": words.for_scripts,
        "common_name": terms.common_name,
        "latin_name": terms.latin_name,
    }
    environment.filters |= {
        "number": figures.number,
        "percent": figures.percent,
        "day": figures.day,
        "moment": figures.moment,
        "viewpoint": terms.viewpoint_word,
        "body_part": terms.body_part_word,
    }
    return environment


@lru_cache(maxsize=1)
def _assets() -> tuple[str, frozenset[str]]:
    """A digest of all static files, and their names."""
    digest, names = hashlib.sha256(), []
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            names.append(path.relative_to(STATIC).as_posix())
            digest.update(f"{names[-1]}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12], frozenset(names)


def asset_version() -> str:
    """Stands in the address of every static file; another one whenever one of them changes."""
    return _assets()[0]


def asset_url(name: str) -> str:
    """The address of a static file. A module finds those it imports beside it, in the same version.

    Raises:
        KeyError: there is no such file.
    """
    version, names = _assets()
    if name not in names:
        raise KeyError(name)
    return f"/static/{version}/{name}"


def is_fragment(request: Request) -> bool:
    """Whether HTMX asks for a part of a page; without JavaScript it is always a whole one."""
    return request.headers.get("hx-request") == "true"


def render(
    request: Request, template: str, *, status: int = 200, here: str = "match", **context: Any
) -> HTMLResponse:
    """A page, or a fragment of one when the template's name begins with `_`."""
    defaults: dict[str, Any] = {
        "here": here,
        "answer": None,
        "problem": None,
        "samples": (),
        "add_problem": None,
        "add_name": "",
        "add_taxon": "",
        "theme": appearance.theme_of(request),
        "back": appearance.address_of(request),
        "me": me_of(request),
    }
    if not template.startswith("_") and "shell" not in context:
        defaults["shell"] = _shell(get_runtime(request))
    html = templates().get_template(template).render(**(defaults | context))
    html = with_token(html, found_caller(request))
    return HTMLResponse(html, status_code=status, headers={"Vary": VARY})


def _shell(runtime: Resight) -> Shell:
    readiness = runtime.readiness()
    banner = (runtime.settings.banner,) if runtime.settings.banner else ()
    reasons = (told(n.detail) for n in (*readiness.reasons, *readiness.notices))
    notices = tuple(dict.fromkeys((*banner, *reasons)))
    # A page that says what is wrong is worth more than none.
    silent = Shell(state="not ready", notices=notices)
    sizes = readiness.sizes
    if sizes is None:
        return silent
    try:
        with runtime.sessions() as session:
            taxa = catalogue.list_taxa(session)
    except SQLAlchemyError:
        return silent
    return Shell(
        state="ready" if readiness.ready else "not ready",
        detail=words.gettext(
            "%(photos)s of %(individuals)s",
            photos=terms.photos(sizes.annotations),
            individuals=terms.individuals(sizes.individuals),
        ),
        notices=notices,
        species=tuple(taxon.scientific_name for taxon in taxa),
    )


class PageRoute(APIRoute):
    """Errors of a page are told on a page: the same table as the API's, drawn instead of JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors drawn."""
        handler = super().get_route_handler()

        async def drawn(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                problem = _problem(error)
                if problem.status >= 500:
                    log.exception("%s %s failed", request.method, request.url.path)
            return await run_in_threadpool(_draw_problem, request, problem)

        async def worded(request: Request) -> Response:
            with words.speaking(appearance.language_of(request)):
                return await drawn(request)

        return worded


def _problem(error: Exception) -> Problem:
    if isinstance(error, HTTPException):
        return Problem(error.status_code, "http", str(error.detail), headers=error.headers or {})
    if isinstance(error, RequestValidationError):
        detail = words.gettext("This address, or what was sent to it, is not complete.")
        return Problem(422, "invalid", detail)
    return problem_of(error)


def _draw_problem(request: Request, problem: Problem) -> Response:
    elsewhere = way_in(request) if problem.status == 401 else None
    if elsewhere is not None:
        return elsewhere
    shown = ProblemView(
        _title(problem.status),
        sentence(problem.detail),
        tuple(
            dict.fromkeys(sentence(e.detail) for e in problem.errors if e.detail != problem.detail)
        ),
        # Pages lie where the API's resources lie, without the version.
        next(
            (
                problem.links[what].removeprefix("/v1")
                for what in ("run", "job")
                if what in problem.links
            ),
            None,
        ),
    )
    context: dict[str, Any] = {"problem": shown}
    if problem.status in (401, 403):
        context["shell"] = Shell()
    template = "_problem.html" if is_fragment(request) else "problem.html"
    page = render(request, template, status=problem.status, **context)
    page.headers.update(problem.headers)
    return page


TITLES = {
    401: words.lazy("Sign in first, or send a key"),
    403: words.lazy("Not allowed"),
    404: words.lazy("Not found"),
    409: words.lazy("Not possible now"),
    413: words.lazy("Too large"),
    415: words.lazy("Not a photo that can be read"),
    429: words.lazy("Too many requests"),
    503: words.lazy("Not able to answer right now"),
}


def _title(status: int) -> str:
    if status in TITLES:
        return str(TITLES[status])
    if status < 500:
        return words.gettext("This could not be answered")
    return words.gettext("Something failed inside")
