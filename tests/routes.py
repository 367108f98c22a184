"""The routes of the application, found by walking it, and addresses that lead to each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
NO_ID = "00000000-0000-0000-0000-000000000000"
UUIDS = frozenset({"individual_id", "query_id", "encounter_id", "job_id", "run_id", "decision_id"})
VALUES = {"path": "fluke.svg", "action": "pause", "key": "known", "name": "to_review"}
"""What stands for a path parameter that is no number."""
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


@dataclass(frozen=True, order=True)
class Route:
    """One method of one path."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def changes(self) -> bool:
        return self.method not in SAFE

    @property
    def is_page(self) -> bool:
        """Drawn for people; everything else is for programs."""
        programs = ("/v1/", "/predict-", "/drift-stats", "/export", "/health", "/ready", "/metrics")
        return not self.path.startswith((*programs, "/openapi.json", "/static/"))

    @property
    def url(self) -> str:
        """An address that leads here and names nothing that exists."""
        return _PARAMETER.sub(lambda found: _value(found[1]), self.path)


def _value(name: str) -> str:
    return NO_ID if name in UUIDS else VALUES.get(name, "999999")


def routes_of(app: FastAPI) -> dict[Route, frozenset[str]]:
    """Every route, with the roles that its dependencies name; none where it is open."""
    return {
        Route(method, route.path): frozenset(_roles(route.dependant))
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }


def _roles(dependant: Dependant) -> Iterator[str]:
    for inner in dependant.dependencies:
        name = getattr(inner.call, "__name__", "")
        if name.startswith("needs_"):
            yield name.removeprefix("needs_")
        elif name == "reads_public":
            yield name
        yield from _roles(inner)


def table(text: str) -> frozenset[Route]:
    """Routes from lines such as `GET /v1/jobs`; `GET,POST /v1/jobs` are two."""
    found = set()
    for line in filter(None, map(str.strip, text.splitlines())):
        methods, path = line.split()
        found |= {Route(method, path) for method in methods.split(",")}
    return frozenset(found)
