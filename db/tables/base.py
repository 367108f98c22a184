"""What every table shares: naming convention, key columns, CHECKs of enumerations."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    MetaData,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.types import (
    UtcDateTime,
)

MAX_DIM = 4000
"""pgvector indexes `halfvec` up to this many dimensions; a wider space is refused."""

Json = dict[str, Any]


def one_of(column: str, enum: type[StrEnum]) -> CheckConstraint:
    """CHECK that a text column holds one of the enumeration's values."""
    allowed = ", ".join(f"'{member.value}'" for member in enum)
    return CheckConstraint(f"{column} IN ({allowed})", name=f"{column}_known")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        uuid.UUID: UUID(as_uuid=True),
        str: Text,
        int: BigInteger,
        Json: JSONB,
    }


def uuid_key() -> Mapped[uuid.UUID]:
    return mapped_column(primary_key=True, server_default=func.gen_random_uuid())


def serial_key() -> Mapped[int]:
    return mapped_column(BigInteger, Identity(), primary_key=True)


def now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())
