"""Who is known: catalogues, individuals and their names, encounters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from db.errors import Conflict, Invalid, NotFound, translated
from db.queries.identity import withdrawn
from db.queries.listing import IndividualSummary as IndividualSummary
from db.queries.listing import list_individuals as list_individuals
from db.queries.media import AnnotationRow as AnnotationRow
from db.queries.media import MediaRow as MediaRow
from db.queries.media import annotations_of as annotations_of
from db.queries.media import ensure_annotation as ensure_annotation
from db.queries.media import ensure_media as ensure_media
from db.queries.media import find_media as find_media
from db.queries.media import get_annotation as get_annotation
from db.queries.media import get_media as get_media
from db.queries.media import list_media as list_media
from db.queries.taxa import TaxonRow as TaxonRow
from db.queries.taxa import ensure_taxon as ensure_taxon
from db.queries.taxa import find_taxon as find_taxon
from db.queries.taxa import get_taxon as get_taxon
from db.queries.taxa import list_taxa as list_taxa
from db.queries.taxa import seed_taxa as seed_taxa
from db.types import LifeStage, Sex, Vitality

DEFAULT_CATALOGUE = "main"


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class IndividualRow:
    """`name` is the primary name, `names` all of them, it first; `taxon` is the scientific name."""

    id: UUID
    catalogue_id: UUID
    name: str
    names: tuple[str, ...]
    taxon_id: int | None
    taxon: str | None
    taxon_common: str | None
    sex: Sex
    vitality: Vitality
    life_stage: LifeStage
    notes: str | None
    links: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EncounterRow:
    id: UUID
    catalogue_id: UUID
    external_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    place: str | None
    latitude: float | None
    longitude: float | None


@dataclass(frozen=True, slots=True)
class CatalogueCounts:
    """Individuals without those merged into others."""

    individuals: int
    media: int
    annotations: int
    encounters: int


def default_catalogue(session: Session) -> CatalogueRow:
    """The catalogue that every database has."""
    return ensure_catalogue(session, DEFAULT_CATALOGUE)


@translated()
def find_catalogue(session: Session, name: str) -> CatalogueRow | None:
    row = session.execute(
        sql("SELECT id, name FROM catalogue WHERE lower(name) = lower(:name)"), {"name": name}
    ).one_or_none()
    return None if row is None else CatalogueRow(*row)


def ensure_catalogue(session: Session, name: str) -> CatalogueRow:
    """The catalogue with this name, made when there is none; any number of callers get one."""
    name = clean_name(name)
    found = find_catalogue(session, name)
    if found is not None:
        return found
    session.execute(
        sql("INSERT INTO catalogue (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name}
    )
    found = find_catalogue(session, name)
    if found is None:  # only where the snapshot is older than another's insert
        raise Conflict("catalogue_name_taken", f"The catalogue {name!r} was just made; try again.")
    return found


# ---------------------------------------------------------------- individuals

_INDIVIDUAL = """
    SELECT i.id, i.catalogue_id, i.taxon_id, t.scientific_name, t.common_name, i.sex, i.vitality,
        i.life_stage, i.notes, i.links, i.withdrawn, i.created_at,
        (SELECT array_agg(n.name ORDER BY n.is_primary DESC, n.id)
           FROM individual_name n WHERE n.individual_id = i.id) AS names
    FROM individual i LEFT JOIN taxon t ON t.id = i.taxon_id
"""


def _individual(row: Row[Any]) -> IndividualRow:
    names = tuple(row.names or (str(row.id),))
    return IndividualRow(
        id=row.id,
        catalogue_id=row.catalogue_id,
        name=names[0],
        names=names,
        taxon_id=row.taxon_id,
        taxon=row.scientific_name,
        taxon_common=row.common_name,
        sex=Sex(row.sex),
        vitality=Vitality(row.vitality),
        life_stage=LifeStage(row.life_stage),
        notes=row.notes,
        links=tuple(row.links),
        created_at=row.created_at,
    )


def get_individual(session: Session, individual_id: UUID) -> IndividualRow:
    """The individual; the one it was merged into, when it was.

    Raises:
        NotFound: `individual_unknown`; `individual_withdrawn`: its making was undone.
    """
    row = session.execute(
        sql(
            f"{_INDIVIDUAL} WHERE i.id ="
            " (SELECT coalesce(merged_into_id, id) FROM individual WHERE id = :id)"
        ),
        {"id": individual_id},
    ).one_or_none()
    if row is None:
        raise NotFound(
            "individual_unknown",
            f"No individual has the id {individual_id}.",
            individual_id=str(individual_id),
        )
    if row.withdrawn:
        raise withdrawn(individual_id)
    return _individual(row)


def get_individuals(session: Session, ids: list[UUID]) -> dict[UUID, IndividualRow]:
    """The individuals that exist among `ids`, by id; merges are not followed."""
    rows = session.execute(sql(f"{_INDIVIDUAL} WHERE i.id = ANY(:ids)"), {"ids": ids})
    return {row.id: _individual(row) for row in rows}


@translated()
def find_individual(session: Session, *, catalogue_id: UUID, name: str) -> IndividualRow | None:
    """The individual that has this name in the catalogue, whatever the case; merges followed."""
    row = session.execute(
        sql(
            f"{_INDIVIDUAL} WHERE i.id = (SELECT coalesce(named.merged_into_id, named.id)"
            " FROM individual_name n JOIN individual named ON named.id = n.individual_id"
            " WHERE n.catalogue_id = :catalogue AND lower(n.name) = lower(:name))"
        ),
        {"catalogue": catalogue_id, "name": name.strip()},
    ).one_or_none()
    return None if row is None else _individual(row)


def create_individual(
    session: Session,
    *,
    catalogue_id: UUID,
    name: str,
    taxon_id: int | None = None,
    sex: Sex = Sex.UNKNOWN,
    vitality: Vitality = Vitality.UNKNOWN,
    notes: str | None = None,
) -> IndividualRow:
    """A new individual.

    Raises:
        Conflict: `individual_name_taken`; `values["individual_id"]` has the name already.
        Invalid: the name is blank.
    """
    made = _insert_individual(session, catalogue_id, name, taxon_id, sex, vitality, notes)
    if made is not None:
        return get_individual(session, made)
    existing = find_individual(session, catalogue_id=catalogue_id, name=name)
    raise Conflict(
        "individual_name_taken",
        f"An individual named {name.strip()!r} is in this catalogue already (upper and lower case "
        "are the same); add the photos to it, or choose another name.",
        name=name.strip(),
        individual_id=None if existing is None else str(existing.id),
    )


def ensure_individual(
    session: Session, *, catalogue_id: UUID, name: str, taxon_id: int | None = None
) -> IndividualRow:
    """The individual with this name, made when there is none; any number of callers get one."""
    found = find_individual(session, catalogue_id=catalogue_id, name=name)
    if found is not None:
        return found
    made = _insert_individual(
        session, catalogue_id, name, taxon_id, Sex.UNKNOWN, Vitality.UNKNOWN, None
    )
    if made is not None:
        return get_individual(session, made)
    found = find_individual(session, catalogue_id=catalogue_id, name=name)
    if found is None:  # only where the snapshot is older than another's insert
        raise Conflict("individual_name_taken", f"{name!r} was just added by another; try again.")
    return found


def _insert_individual(
    session: Session,
    catalogue_id: UUID,
    name: str,
    taxon_id: int | None,
    sex: Sex,
    vitality: Vitality,
    notes: str | None,
) -> UUID | None:
    """The new individual's id; None, and nothing is written, when the name is taken.

    The name goes in first: whoever holds the unique name makes the individual, in one statement.
    """
    with translated():
        made: UUID | None = session.scalar(
            sql(
                "WITH new AS MATERIALIZED (SELECT gen_random_uuid() AS id),"
                " named AS (INSERT INTO individual_name"
                "  (individual_id, catalogue_id, name, is_primary)"
                "  SELECT id, :catalogue, :name, true FROM new"
                "  ON CONFLICT (catalogue_id, lower(name)) DO NOTHING RETURNING individual_id)"
                " INSERT INTO individual (id, catalogue_id, taxon_id, sex, vitality, notes)"
                " SELECT individual_id, :catalogue, :taxon, :sex, :vitality, :notes FROM named"
                " RETURNING id"
            ),
            {
                "catalogue": catalogue_id,
                "name": clean_name(name),
                "taxon": taxon_id,
                "sex": str(Sex(sex)),
                "vitality": str(Vitality(vitality)),
                "notes": notes,
            },
        )
    return made


def clean_name(name: str) -> str:
    """The name without white space around it.

    Raises:
        Invalid: `name_blank`.
    """
    cleaned = name.strip()
    if not cleaned or "\x00" in cleaned:
        raise Invalid("name_blank", f"A name cannot be blank, got {name!r}.", name=name)
    return cleaned


# ---------------------------------------------------------------- encounters


def ensure_encounter(
    session: Session,
    *,
    catalogue_id: UUID,
    external_id: str | None,
    started_at: datetime | None = None,
    ended_at: datetime | None = None,
    place: str | None = None,
    latitude: float | None = None,
    longitude: float | None = None,
) -> UUID:
    """The encounter that the source calls `external_id`, made when there is none; a new one for
    None. What is known of an existing encounter is kept, what was missing is filled in.

    Raises:
        Invalid: the times or the position are impossible.
    """
    with translated():
        found: UUID = session.execute(
            sql(
                "INSERT INTO encounter (catalogue_id, external_id, started_at, ended_at, place,"
                " latitude, longitude)"
                " VALUES (:catalogue, :external, :started, :ended, :place, :latitude, :longitude)"
                " ON CONFLICT (catalogue_id, external_id) WHERE external_id IS NOT NULL"
                " DO UPDATE SET started_at = coalesce(encounter.started_at, excluded.started_at),"
                " ended_at = coalesce(encounter.ended_at, excluded.ended_at),"
                " place = coalesce(encounter.place, excluded.place),"
                " latitude = coalesce(encounter.latitude, excluded.latitude),"
                " longitude = coalesce(encounter.longitude, excluded.longitude)"
                " RETURNING id"
            ),
            {
                "catalogue": catalogue_id,
                "external": external_id,
                "started": started_at,
                "ended": ended_at,
                "place": place,
                "latitude": latitude,
                "longitude": longitude,
            },
        ).scalar_one()
    return found


def get_encounter(session: Session, encounter_id: UUID) -> EncounterRow:
    """Raises:
    NotFound: no encounter has this id.
    """
    row = session.execute(
        sql(
            "SELECT id, catalogue_id, external_id, started_at, ended_at, place, latitude,"
            " longitude FROM encounter WHERE id = :id"
        ),
        {"id": encounter_id},
    ).one_or_none()
    if row is None:
        raise NotFound(
            "encounter_unknown",
            f"No encounter has the id {encounter_id}.",
            encounter_id=str(encounter_id),
        )
    return EncounterRow(*row)


def counts(session: Session) -> CatalogueCounts:
    """How much there is, over all catalogues."""
    row = session.execute(
        sql(
            "SELECT (SELECT count(*) FROM individual"
            " WHERE merged_into_id IS NULL AND NOT withdrawn),"
            " (SELECT count(*) FROM media_asset), (SELECT count(*) FROM annotation),"
            " (SELECT count(*) FROM encounter)"
        )
    ).one()
    return CatalogueCounts(*row)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large all catalogues are together; `vectors` of the annotations in one space, 0 without
    one."""

    individuals: int
    annotations: int
    vectors: int

    @property
    def missing(self) -> int:
        """Annotations without a vector: each vector is of one annotation, and goes with it."""
        return self.annotations - self.vectors


def writes(session: Session) -> int:
    """Rows ever written that `sizes` counts, as PostgreSQL's statistics know: cheap at any size,
    and up to ten seconds late."""
    return int(
        session.execute(
            sql(
                "SELECT coalesce(sum(pg_stat_get_tuples_inserted(c)"
                " + pg_stat_get_tuples_updated(c) + pg_stat_get_tuples_deleted(c)), 0)"
                " FROM (VALUES ('individual'::regclass), ('annotation'::regclass)"
                "  UNION ALL SELECT relid FROM pg_partition_tree('embedding')) counted (c)"
            )
        ).scalar_one()
    )


def sizes(session: Session, model_id: int | None) -> Sizes:
    """What every page tells, counted at one moment, with the vectors of the space `model_id`."""
    row = session.execute(
        sql(
            "SELECT (SELECT count(*) FROM individual"
            " WHERE merged_into_id IS NULL AND NOT withdrawn), (SELECT count(*) FROM annotation),"
            " (SELECT count(*) FROM embedding WHERE model_id = :model)"
        ),
        {"model": model_id},
    ).one()
    return Sizes(*row)
