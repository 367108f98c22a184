"""JSON routes by subject; each parses, calls one function and shapes the answer."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.routing import APIRoute

from service.schemas import ProblemOut


def api_router(tag: str) -> APIRouter:
    """A router whose routes are named as their functions are, and whose errors are problems."""
    return APIRouter(
        tags=[tag],
        generate_unique_id_function=_operation_id,
        responses={"default": {"model": ProblemOut, "description": "Problem (RFC 9457)"}},
    )


def _operation_id(route: APIRoute) -> str:
    return route.name
