"""Who is known, and the photos that show them."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Base, now, one_of, serial_key, uuid_key
from db.types import (
    EnumText,
    LifeStage,
    Sex,
    Vitality,
)


class Catalogue(Base):
    """A set of individuals inside which names are unique."""

    __tablename__ = "catalogue"
    __table_args__ = (
        CheckConstraint("btrim(name) <> ''", name="name_not_blank"),
        Index("uq_catalogue_name", text("lower(name)"), unique=True),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    name: Mapped[str]
    created_at: Mapped[datetime] = now()


class Taxon(Base):
    __tablename__ = "taxon"
    __table_args__ = (
        CheckConstraint("btrim(scientific_name) <> ''", name="scientific_name_not_blank"),
        Index("uq_taxon_scientific_name", text("lower(scientific_name)"), unique=True),
    )

    id: Mapped[int] = serial_key()
    scientific_name: Mapped[str]
    common_name: Mapped[str | None]
    aphia_id: Mapped[int | None] = mapped_column(Integer, unique=True)
    """Identifier in the World Register of Marine Species."""
    created_at: Mapped[datetime] = now()


class TaxonSynonym(Base):
    """A raw label (typos included) that means a taxon."""

    __tablename__ = "taxon_synonym"
    __table_args__ = (Index("uq_taxon_synonym_label", text("lower(label)"), unique=True),)

    id: Mapped[int] = serial_key()
    taxon_id: Mapped[int] = mapped_column(ForeignKey("taxon.id", ondelete="CASCADE"), index=True)
    label: Mapped[str]


class Individual(Base):
    """A named animal. Never deleted by a merge: `merged_into_id` redirects to the one that stays,
    and always to one that is not itself redirected."""

    __tablename__ = "individual"
    __table_args__ = (
        CheckConstraint("merged_into_id <> id", name="not_merged_into_itself"),
        one_of("sex", Sex),
        one_of("vitality", Vitality),
        one_of("life_stage", LifeStage),
        Index("ix_individual_catalogue_id_created_at_id", "catalogue_id", "created_at", "id"),
        Index("ix_individual_created_at_id", "created_at", "id"),
        Index("ix_individual_survivor", text("coalesce(merged_into_id, id)")),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    taxon_id: Mapped[int | None] = mapped_column(ForeignKey("taxon.id"), index=True)
    sex: Mapped[Sex] = mapped_column(EnumText(Sex), server_default="unknown")
    vitality: Mapped[Vitality] = mapped_column(EnumText(Vitality), server_default="unknown")
    life_stage: Mapped[LifeStage] = mapped_column(EnumText(LifeStage), server_default="unknown")
    notes: Mapped[str | None]
    links: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    """Addresses of pages about it elsewhere."""
    withdrawn: Mapped[bool] = mapped_column(server_default=text("false"))
    """Its making was undone: it has no names and no photos, and only its history speaks of it."""
    merged_into_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("individual.id"), index=True
    )
    created_at: Mapped[datetime] = now()


class IndividualName(Base):
    """One of an individual's names: unique inside its catalogue, whatever the case."""

    __tablename__ = "individual_name"
    __table_args__ = (
        CheckConstraint("btrim(name) <> ''", name="name_not_blank"),
        Index("uq_individual_name_name", "catalogue_id", text("lower(name)"), unique=True),
        Index(
            "uq_individual_name_primary",
            "individual_id",
            unique=True,
            postgresql_where=text("is_primary"),
        ),
        # Everybody in the order of the names that they go by, a page at a time.
        Index(
            "ix_individual_name_order",
            text("lower(name)"),
            "individual_id",
            postgresql_where=text("is_primary"),
        ),
    )

    id: Mapped[int] = serial_key()
    individual_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("individual.id", ondelete="CASCADE"), index=True
    )
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    name: Mapped[str]
    is_primary: Mapped[bool]
    created_at: Mapped[datetime] = now()


class Encounter(Base):
    """One individual (or one group) at one place and time; groups annotations."""

    __tablename__ = "encounter"
    __table_args__ = (
        CheckConstraint("ended_at >= started_at", name="ends_after_start"),
        CheckConstraint("latitude BETWEEN -90 AND 90", name="latitude_in_range"),
        CheckConstraint("longitude BETWEEN -180 AND 180", name="longitude_in_range"),
        Index(
            "uq_encounter_external_id",
            "catalogue_id",
            "external_id",
            unique=True,
            postgresql_where=text("external_id IS NOT NULL"),
        ),
        Index("ix_encounter_when", text("coalesce(started_at, created_at)"), "id"),
    )

    id: Mapped[uuid.UUID] = uuid_key()
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    external_id: Mapped[str | None]
    """The name that the source of the data gives this encounter."""
    started_at: Mapped[datetime | None] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]
    place: Mapped[str | None]
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    observer: Mapped[str | None]
    notes: Mapped[str | None]
    created_at: Mapped[datetime] = now()


class MediaAsset(Base):
    """One stored photo, immutable, unique by SHA-256; its bytes lie in the media store."""

    __tablename__ = "media_asset"
    __table_args__ = (
        UniqueConstraint("sha256"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256_is_hex"),
        CheckConstraint("width_px > 0 AND height_px > 0", name="size_positive"),
        CheckConstraint("byte_size > 0", name="byte_size_positive"),
        CheckConstraint("location ~ '^[a-z][a-z0-9]*://.'", name="location_is_uri"),
        Index("ix_media_asset_perceptual_hash", "perceptual_hash"),
    )

    id: Mapped[int] = serial_key()
    sha256: Mapped[str]
    media_type: Mapped[str]
    byte_size: Mapped[int]
    width_px: Mapped[int] = mapped_column(Integer)
    """Width after turning by the EXIF orientation."""
    height_px: Mapped[int] = mapped_column(Integer)
    original_name: Mapped[str | None]
    taken_at: Mapped[datetime | None] = mapped_column(index=True)
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    """Where it was taken, as its EXIF says; never in what is served."""
    photographer: Mapped[str | None]
    perceptual_hash: Mapped[int | None]
    """64-bit difference hash (dHash) of the oriented photo, as a signed integer."""
    created_at: Mapped[datetime] = now()
    location: Mapped[str | None]
    """URI of the bytes where they were left in place; null where they lie in the media store."""


class Annotation(Base):
    """A region of an asset: a box in pixels of the oriented photo, or the whole photo (no box)."""

    __tablename__ = "annotation"
    __table_args__ = (
        CheckConstraint(
            "num_nulls(box_x_px, box_y_px, box_w_px, box_h_px) IN (0, 4)", name="box_whole_or_none"
        ),
        CheckConstraint(
            "box_x_px >= 0 AND box_y_px >= 0 AND box_w_px > 0 AND box_h_px > 0",
            name="box_not_empty",
        ),
        Index(
            "uq_annotation_region",
            "catalogue_id",
            "media_id",
            "box_x_px",
            "box_y_px",
            "box_w_px",
            "box_h_px",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
        Index("ix_annotation_viewpoint", text("lower(viewpoint)")),
    )

    id: Mapped[int] = serial_key()
    catalogue_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("catalogue.id"))
    media_id: Mapped[int] = mapped_column(ForeignKey("media_asset.id"), index=True)
    individual_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("individual.id"), index=True)
    """Null while nobody has said who this is."""
    encounter_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("encounter.id"), index=True)
    taxon_id: Mapped[int | None] = mapped_column(ForeignKey("taxon.id"), index=True)
    box_x_px: Mapped[int | None] = mapped_column(Integer)
    box_y_px: Mapped[int | None] = mapped_column(Integer)
    box_w_px: Mapped[int | None] = mapped_column(Integer)
    box_h_px: Mapped[int | None] = mapped_column(Integer)
    viewpoint: Mapped[str | None]
    body_part: Mapped[str | None]
    is_reference: Mapped[bool] = mapped_column(server_default=text("false"))
    """Chosen to stand for its individual."""
    matchable: Mapped[bool] = mapped_column(server_default=text("true"))
    """False: no search answers with it."""
    source_ref: Mapped[str | None]
    """The identifier that the source of the data gives this photo."""
    region_version: Mapped[int] = mapped_column(Integer, server_default="0")
    """Counts the changes of its box or photo; a trigger counts, and deletes the old vectors."""
    created_at: Mapped[datetime] = now()


class ViewpointRule(Base):
    """Whether left and right of a body part are two things that are never compared. The rule for a
    taxon goes before the one for all taxa, the one for a body part before the one for all."""

    __tablename__ = "viewpoint_rule"
    __table_args__ = (
        Index(
            "uq_viewpoint_rule_subject",
            "taxon_id",
            text("lower(body_part)"),
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[int] = serial_key()
    taxon_id: Mapped[int | None] = mapped_column(ForeignKey("taxon.id", ondelete="CASCADE"))
    body_part: Mapped[str | None]
    sided: Mapped[bool]
    set_by: Mapped[str]
    created_at: Mapped[datetime] = now()
