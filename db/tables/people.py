"""Who may ask, and what they asked before."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, Json, now, one_of, serial_key
from db.types import (
    EnumText,
    Role,
)


class Account(Base):
    """A person. Decisions carry the name; who is disabled keeps it and can do nothing more."""

    __tablename__ = "account"
    __table_args__ = (
        CheckConstraint("btrim(login) <> ''", name="login_not_blank"),
        CheckConstraint("btrim(name) <> ''", name="name_not_blank"),
        one_of("role", Role),
        Index("uq_account_login", text("lower(login)"), unique=True),
        Index("uq_account_name", text("lower(name)"), unique=True),
        Index("uq_account_local", "is_local", unique=True, postgresql_where=text("is_local")),
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    login: Mapped[str]
    name: Mapped[str]
    role: Mapped[Role] = mapped_column(EnumText(Role))
    password_hash: Mapped[str | None]
    """argon2id; null: signs in with a personal key only."""
    is_local: Mapped[bool] = mapped_column(server_default=text("false"))
    """The one person of a service on loopback that nobody else has an account on."""
    created_at: Mapped[datetime] = now()
    disabled_at: Mapped[datetime | None]


class SignIn(Base):
    """A browser that somebody signed in with, by the SHA-256 of its cookie."""

    __tablename__ = "sign_in"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(
        Integer, ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    api_key_id: Mapped[int | None] = mapped_column(
        Integer, ForeignKey("api_key.id", ondelete="CASCADE"), index=True
    )
    """The personal key that it was made with; it ends with that key and may do no more."""
    created_at: Mapped[datetime] = now()
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class SavedView(Base):
    """Filters and order of a page that a person has given a name."""

    __tablename__ = "saved_view"
    __table_args__ = (
        CheckConstraint("btrim(name) <> ''", name="name_not_blank"),
        Index("uq_saved_view_name", "owner", "page", text("lower(name)"), unique=True),
    )

    id: Mapped[int] = serial_key()
    owner: Mapped[str]
    page: Mapped[str]
    name: Mapped[str]
    params: Mapped[str]
    """The query string."""
    created_at: Mapped[datetime] = now()


class ApiKey(Base):
    """A key's name, role and SHA-256; the key itself is shown once and never stored."""

    __tablename__ = "api_key"
    __table_args__ = (UniqueConstraint("prefix"), UniqueConstraint("name"), one_of("role", Role))

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str]
    sha256: Mapped[str]
    role: Mapped[Role] = mapped_column(EnumText(Role))
    account_id: Mapped[int | None] = mapped_column(
        Integer, ForeignKey("account.id", ondelete="CASCADE"), index=True
    )
    """Whose personal key it is; null for the key of a program."""
    created_at: Mapped[datetime] = now()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The stored answer of a POST that named an `Idempotency-Key`."""

    __tablename__ = "idempotency_key"

    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    status: Mapped[int] = mapped_column(SmallInteger)
    answer: Mapped[Json]
    created_at: Mapped[datetime] = now()
