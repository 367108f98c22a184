"""Column types and enumerations: Vector32 (1-D float32 both ways), UTC datetimes, string enums."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import DateTime, Dialect, String, TypeDecorator
from sqlalchemy.types import UserDefinedType

Vector = NDArray[np.float32]


def vector_to_text(vector: Vector) -> str:
    """pgvector's text form of a 1-D float32 array, exact to the last bit.

    Raises:
        ValueError: the array is not 1-D, is empty, or holds NaN or an infinity.
    """
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"a vector is 1-D and not empty, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError("a vector holds finite numbers only, got NaN or infinity")
    return "[" + ",".join(map(repr, vector.astype(np.float32).tolist())) + "]"


def vector_from_text(text: str) -> Vector:
    """The float32 array of pgvector's text form."""
    return np.array(text[1:-1].split(","), dtype=np.float32)


class Vector32(UserDefinedType[Vector]):
    """pgvector's `vector`, as a 1-D float32 array in both directions.

    The column has no dimension of its own: each partition of `embedding` checks it.
    """

    cache_ok = True

    def get_col_spec(self, **_kw: object) -> str:
        return "VECTOR"

    def bind_processor(self, dialect: Dialect) -> Any:  # noqa: ARG002
        return lambda value: None if value is None else vector_to_text(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        return lambda value: None if value is None else vector_from_text(value)


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id, as a Python int."""

    cache_ok = True

    def get_col_spec(self, **_kw: object) -> str:
        return "XID8"

    def bind_processor(self, dialect: Dialect) -> Any:  # noqa: ARG002
        return lambda value: None if value is None else str(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002
        return lambda value: None if value is None else int(value)


class UtcDateTime(TypeDecorator[datetime]):
    """`timestamptz` that refuses naive datetimes and always answers in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time needs its zone, got {value.isoformat()}")
        return value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.astimezone(UTC) if value is not None else None


class EnumText(TypeDecorator[StrEnum]):
    """A StrEnum stored as text; the table's CHECK lists the allowed values."""

    impl = String
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: StrEnum | str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else str(self.enum(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002
        return None if value is None else self.enum(value)


class Sex(StrEnum):
    FEMALE = "female"
    MALE = "male"
    UNKNOWN = "unknown"


class Vitality(StrEnum):
    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Modality(StrEnum):
    PHOTO = "photo"
    SOUND = "sound"
    TEXT = "text"


class GateState(StrEnum):
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    ABSTAINED = "abstained"


class LifeStage(StrEnum):
    CALF = "calf"
    JUVENILE = "juvenile"
    SUBADULT = "subadult"
    ADULT = "adult"
    UNKNOWN = "unknown"


class QueryKind(StrEnum):
    """`encounter`: annotations of the catalogue asked as one question, to be reviewed."""

    IDENTIFY = "identify"
    PREDICT = "predict"
    ENCOUNTER = "encounter"


class QueryState(StrEnum):
    """Where a query of the desk stands. `open`: nobody has decided; `second`: votes are wanted;
    the others are what was decided last."""

    OPEN = "open"
    SECOND = "second"
    UNSURE = "unsure"
    NO_MATCH = "no_match"
    SAME = "same"
    NEW = "new"
    NOT_USABLE = "not_usable"


class Verdict(StrEnum):
    """A person's word. `none`: none of those shown, each of which is `different`; `undo` takes a
    former decision back; `usable` contradicts the gate's rejection."""

    SAME = "same"
    DIFFERENT = "different"
    UNSURE = "unsure"
    NEW = "new"
    NONE = "none"
    NOT_USABLE = "not_usable"
    USABLE = "usable"
    UNDO = "undo"


class UnusableReason(StrEnum):
    BLURRED = "blurred"
    NO_ANIMAL = "no_animal"
    SEVERAL_ANIMALS = "several_animals"
    OTHER = "other"


class SnapshotState(StrEnum):
    READY = "ready"
    RETIRED = "retired"


class RunState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Role(StrEnum):
    """What a key may do: each role includes those before it."""

    VIEWER = "viewer"
    REVIEWER = "reviewer"
    CURATOR = "curator"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what `other` may."""
        order = tuple(Role)
        return order.index(self) >= order.index(other)

    @staticmethod
    def least(one: Role, other: Role) -> Role:
        """What is allowed by both."""
        return other if one.includes(other) else one


class HeadSource(StrEnum):
    """Where a head's rows come from: the bundle, or a fit on this catalogue."""

    BUNDLE = "bundle"
    FIT = "fit"


class JobKind(StrEnum):
    EMBED_MISSING = "embed_missing"
    REINDEX = "reindex"
    BUILD_SNAPSHOT = "build_snapshot"
    BUILD_ANN = "build_ann"
    IMPORT = "import"
    FIT_HEAD = "fit_head"
    EVALUATE = "evaluate"
    EXPORT = "export"
    CALIBRATE = "calibrate"


class JobState(StrEnum):
    """`done` with `failed > 0` is "done with n failures"; the last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DONE = "done"


class ChunkState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class ReindexState(StrEnum):
    REQUESTED = "requested"
    EMBEDDING = "embedding"
    BUILDING = "building"
    VERIFYING = "verifying"
    READY = "ready"
    ACTIVE = "active"
    RETIRED = "retired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
