"""A running service and the head in use: whom it does not know, and a head it does not have."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from db.queries import embeddings, heads
from indexer.head import rollback_head
from tests.service.conftest import Service
from tests.service.small import add, head_of, identify, scene, serving_of

SOON_S = 20.0


def codes(answer: dict[str, Any]) -> list[str]:
    return [notice["code"] for notice in answer["notices"]]


def test_an_individual_newer_than_the_head_is_found_and_the_answer_says_so(serve: Service) -> None:
    """Until a re-fit it is answered by retrieval alone."""
    client = serve(serving_of(head_of([("anna", scene(0)), ("bert", scene(1))])))
    add(client, "anna", scene(0))
    assert "head_does_not_know" not in codes(identify(client, scene(0, shift=1)))
    add(client, "cora", scene(2))
    answer = identify(client, scene(2, shift=1))
    assert answer["matches"][0]["individual"]["name"] == "cora"
    (notice,) = [one for one in answer["notices"] if one["code"] == "head_does_not_know"]
    assert "cora" in notice["detail"]
    assert "resight head fit" in notice["detail"]
    without = serve(serving_of())
    assert "head_does_not_know" not in codes(identify(without, scene(2, shift=1)))


def test_a_head_that_this_bundle_does_not_have_is_not_taken_for_its_own(
    serve: Service, sessions: sessionmaker[Session]
) -> None:
    """After an update of the bundle, a rollback would give old names to new rows."""
    former = head_of([("anna", scene(0)), ("bert", scene(1))])
    now = replace(head_of([("bert", scene(1)), ("anna", scene(0))]), version="2", digest="2" * 64)
    serve(serving_of(former))
    client = serve(serving_of(now))
    add(client, "anna", scene(0))
    assert identify(client, scene(0))["default_answer"]["individual"]["name"] == "anna"
    with sessions.begin() as session:
        space = embeddings.active_space(session)
        assert space is not None
        assert rollback_head(session, space.id, principal="ada").head.version == "1"
    until = time.monotonic() + SOON_S
    while "head_not_here" not in codes(answer := identify(client, scene(0))):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert answer["default_answer"]["individual"]["name"] == "anna"
    with sessions() as session:
        active = heads.active_head(session, space.id)
        assert active is not None
        assert active.version == "1"
