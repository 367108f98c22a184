"""A catalogue of individuals without pixels, for tests of who is who."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.queries import catalogue
from db.queries.changes import Actor, Journal
from indexer.identity import assign, new_individual

ANNA = Actor("anna")
BERT = Actor("bert")
_numbers = itertools.count(1)


def home(session: Session) -> UUID:
    return catalogue.default_catalogue(session).id


def add_photo(session: Session, encounter: UUID | None = None) -> int:
    """A photo with one annotation, of nobody."""
    digest = hashlib.sha256(f"photo {next(_numbers)}".encode()).hexdigest()
    media = session.execute(
        text(
            "INSERT INTO media_asset (sha256, media_type, byte_size, width_px, height_px)"
            " VALUES (:digest, 'image/png', 1, 9, 9) RETURNING id"
        ),
        {"digest": digest},
    ).scalar_one()
    made: int = session.execute(
        text(
            "INSERT INTO annotation (catalogue_id, media_id, encounter_id)"
            " VALUES (:home, :media, :encounter) RETURNING id"
        ),
        {"home": home(session), "media": media, "encounter": encounter},
    ).scalar_one()
    return made


def add_photos(session: Session, count: int) -> list[int]:
    return [add_photo(session) for _ in range(count)]


def add_encounter(session: Session) -> UUID:
    return catalogue.ensure_encounter(session, catalogue_id=home(session), external_id=None)


def create(
    session: Session, name: str, annotations: list[int] | None = None, actor: Actor = ANNA
) -> tuple[UUID, int]:
    """A new individual with annotations, as a reviewer makes one; it and the change."""
    journal = Journal(session)
    made = new_individual(session, journal, actor, catalogue_id=home(session), name=name)
    assign(session, journal, annotations or [], made.id)
    change = journal.close(actor, "create", {"individual": {"id": str(made.id), "name": name}})
    return made.id, change.id


def individual(session: Session, name: str, photos: int = 0) -> UUID:
    return create(session, name, add_photos(session, photos))[0]


def photos_of(session: Session, individual_id: UUID) -> list[int]:
    return [item.id for item in catalogue.annotations_of(session, individual_id, limit=1000).items]


def say(
    session: Session,
    verdict: str,
    individual_id: UUID,
    *,
    annotation: int | None = None,
    other: UUID | None = None,
    is_vote: bool = False,
) -> UUID:
    """Somebody's verdict; its decision."""
    decision = uuid4()
    session.execute(
        text(
            "INSERT INTO review (decision_id, verdict, individual_id, annotation_id,"
            " other_individual_id, is_vote, reviewer)"
            " VALUES (:decision, :verdict, :individual, :annotation, :other, :vote, 'bert')"
        ),
        {
            "decision": decision,
            "verdict": verdict,
            "individual": individual_id,
            "annotation": annotation,
            "other": other,
            "vote": is_vote,
        },
    )
    return decision


def take_back(session: Session, decision: UUID) -> None:
    session.execute(
        text("INSERT INTO review (verdict, undoes, reviewer) VALUES ('undo', :id, 'bert')"),
        {"id": decision},
    )


def rows_of(session: Session) -> dict[str, list[Any]]:
    """All that identities are, as stored; without individuals that were withdrawn."""
    queries = {
        "individual": "SELECT to_jsonb(t) FROM individual t WHERE NOT withdrawn ORDER BY id",
        "name": "SELECT to_jsonb(t) FROM individual_name t ORDER BY id",
        "annotation": "SELECT to_jsonb(t) FROM annotation t ORDER BY id",
        "encounter": "SELECT to_jsonb(t) FROM encounter t ORDER BY id",
    }
    return {name: list(session.execute(text(query)).scalars()) for name, query in queries.items()}


def broken(session: Session) -> list[str]:
    """What must never be: each entry says what is wrong."""
    checks = {
        "an annotation of an individual that is no more": "SELECT a.id::text FROM annotation a"
        " JOIN individual i ON i.id = a.individual_id WHERE i.withdrawn",
        "a redirect to one that is redirected": "SELECT i.id::text FROM individual i"
        " JOIN individual t ON t.id = i.merged_into_id"
        " WHERE t.merged_into_id IS NOT NULL OR t.withdrawn",
        "a name of an individual that is no more": "SELECT n.name FROM individual_name n"
        " JOIN individual i ON i.id = n.individual_id WHERE i.withdrawn",
        "an individual without a primary name": "SELECT i.id::text FROM individual i"
        " WHERE NOT i.withdrawn AND i.merged_into_id IS NULL AND NOT EXISTS (SELECT FROM"
        " individual_name n WHERE n.individual_id = i.id AND n.is_primary)",
    }
    return [
        f"{what}: {key}"
        for what, query in checks.items()
        for key in session.execute(text(query)).scalars()
    ]
