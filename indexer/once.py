"""Owns that a request with a key is carried out once: its answer is stored with what it did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from db.errors import Conflict
from db.queries import records
from db.session import unless_met

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to create something: who sends it, under which key (None: it is carried out each
    time), and the digest of all that it asks for."""

    principal: str
    key: str | None
    sha256: str

    @classmethod
    def of(
        cls,
        principal: str,
        key: str | None,
        kind: str,
        fields: Mapping[str, Any],
        photos: Sequence[bytes] = (),
    ) -> Asked:
        """Photos count by their content."""
        asked = {
            "kind": kind,
            "fields": dict(fields),
            "photos": [hashlib.sha256(photo).hexdigest() for photo in photos],
        }
        text = json.dumps(asked, sort_keys=True, default=str)
        return cls(principal, key, hashlib.sha256(text.encode()).hexdigest())


def once(
    sessions: sessionmaker[Session], asked: Asked, work: Callable[[Session], Json]
) -> tuple[Json, bool]:
    """Do the work in one transaction, or repeat the answer that the key got before; and whether it
    was repeated. The work is done anew where its transaction met another one.

    Raises:
        Conflict: `idempotency_key_reused`: the key came with another request. What `work` raises.
    """

    def attempt() -> tuple[Json, bool]:
        with sessions.begin() as session:
            done = _answer(session, asked)
            if done is not None:
                return done, True
            answer = work(session)
            if asked.key is not None:
                records.put_idempotent(
                    session,
                    principal=asked.principal,
                    key=asked.key,
                    request_sha256=asked.sha256,
                    status=201,
                    answer=answer,
                )
        return answer, False

    try:
        return unless_met(attempt)
    except Conflict:
        # A twin of this request may have been committed while this one was under way.
        with sessions() as session:
            done = _answer(session, asked)
        if done is None:
            raise
        return done, True


def _answer(session: Session, asked: Asked) -> Json | None:
    if asked.key is None:
        return None
    stored = records.get_idempotent(
        session, principal=asked.principal, key=asked.key, request_sha256=asked.sha256
    )
    return stored.answer if stored is not None else None
