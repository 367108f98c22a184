"""Errors of this package: each has a code, values and the next step; constraints become errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError


class DbError(Exception):
    """What the database refused. `str()` is a sentence for people; `values` are for programs."""

    def __init__(self, code: str, detail: str, **values: object) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.values = values


class NotFound(DbError):
    """Nothing has the given identifier."""


class Conflict(DbError):
    """The present state forbids the change; `values` hold that state."""


class Invalid(DbError):
    """A value that the schema does not allow."""


class UnsupportedDatabase(DbError):
    """The server is too old, lacks pgvector, or cannot be started."""


class SchemaMismatch(DbError):
    """The schema is older or newer than this program."""


_CONSTRAINTS: dict[str, tuple[type[DbError], str, str]] = {
    "uq_catalogue_name": (
        Conflict,
        "catalogue_name_taken",
        "Another catalogue has this name; choose another one.",
    ),
    "uq_individual_name_name": (
        Conflict,
        "individual_name_taken",
        "Another individual of this catalogue has this name (upper and lower case are the same); "
        "use that individual or choose another name.",
    ),
    "uq_individual_name_primary": (
        Conflict,
        "individual_has_primary_name",
        "The individual has a primary name already; make that one an alias first.",
    ),
    "ck_individual_name_name_not_blank": (Invalid, "name_blank", "A name cannot be blank."),
    "ck_catalogue_name_not_blank": (Invalid, "name_blank", "A name cannot be blank."),
    "uq_taxon_scientific_name": (
        Conflict,
        "taxon_exists",
        "A taxon with this scientific name exists; use that one.",
    ),
    "uq_taxon_aphia_id": (
        Conflict,
        "aphia_id_taken",
        "Another taxon has this AphiaID; add the label as a synonym of that one.",
    ),
    "uq_taxon_synonym_label": (
        Conflict,
        "synonym_taken",
        "This label is already a synonym of a taxon.",
    ),
    "uq_encounter_external_id": (
        Conflict,
        "encounter_exists",
        "An encounter of this catalogue has this external id; use that one.",
    ),
    "ck_encounter_ends_after_start": (
        Invalid,
        "encounter_ends_before_start",
        "An encounter cannot end before it starts.",
    ),
    "ck_encounter_latitude_in_range": (
        Invalid,
        "latitude_out_of_range",
        "A latitude lies between -90 and 90 degrees.",
    ),
    "ck_encounter_longitude_in_range": (
        Invalid,
        "longitude_out_of_range",
        "A longitude lies between -180 and 180 degrees.",
    ),
    "uq_media_asset_sha256": (
        Conflict,
        "media_exists",
        "A photo with the same bytes is stored already; use that one.",
    ),
    "uq_annotation_region": (
        Conflict,
        "annotation_exists",
        "This region of this photo is annotated already; change that annotation instead.",
    ),
    "ck_annotation_box_not_empty": (
        Invalid,
        "box_invalid",
        "A box starts inside the photo and has a positive width and height, in pixels.",
    ),
    "ck_annotation_box_whole_or_none": (
        Invalid,
        "box_invalid",
        "A box needs all of x, y, width and height, or none for the whole photo.",
    ),
    "uq_embedding_model_fingerprint": (
        Conflict,
        "space_exists",
        "A space with this fingerprint is registered already; use that one.",
    ),
    "uq_embedding_model_name_version": (
        Conflict,
        "space_version_taken",
        "Another space has this name and version; give the new one another version.",
    ),
    "ck_embedding_model_dim_indexable": (
        Invalid,
        "dim_not_indexable",
        "A space has between 1 and 4,000 dimensions: pgvector cannot index more.",
    ),
    "ck_embedding_not_zero": (
        Invalid,
        "vector_zero",
        "A zero vector has no direction; cosine similarity with it is undefined.",
    ),
    "uq_head_model_id_version": (
        Conflict,
        "head_version_taken",
        "This space has a head of this version already; give the new one another version.",
    ),
    "uq_head_active": (Conflict, "head_active", "The space has an active head already."),
    "uq_api_key_name": (
        Conflict,
        "key_name_taken",
        "A key with this name exists; revoke it or choose another name.",
    ),
    "pk_idempotency_key": (
        Conflict,
        "idempotency_key_used",
        "This Idempotency-Key was used already; send a new one for a new request.",
    ),
    "uq_job_exclusive": (
        Conflict,
        "job_running",
        "Another job does this already; watch that one, or cancel it first.",
    ),
    "uq_reindex_run_open": (
        Conflict,
        "reindex_running",
        "This slot is being re-indexed already; finish or abandon that run first.",
    ),
    "uq_change_undoes": (
        Conflict,
        "change_undone",
        "This change was undone already; reload to see the present state.",
    ),
    "uq_review_undoes": (
        Conflict,
        "decision_undone",
        "This decision was undone already; reload to see the present state.",
    ),
    "uq_account_login": (
        Conflict,
        "login_taken",
        "Somebody signs in with this name already; choose another one.",
    ),
    "uq_account_name": (
        Conflict,
        "person_name_taken",
        "Somebody else has this name, and it stands beside decisions; add to it what tells the "
        "two of you apart.",
    ),
    "ck_account_login_not_blank": (Invalid, "login_invalid", "A login cannot be blank."),
    "ck_account_name_not_blank": (Invalid, "name_blank", "A name cannot be blank."),
    "uq_name_reservation_name": (
        Conflict,
        "name_reserved",
        "Somebody else is about to give this name; choose another one.",
    ),
    "ck_review_same_and_different_name_an_individual": (
        Invalid,
        "review_needs_individual",
        "The verdicts `same` and `different` name the individual they speak of.",
    ),
}


def translate(error: DBAPIError) -> DbError:
    """The error that a refused statement stands for, found by the constraint's name.

    A constraint that no one has put into words gives `constraint_violated` (conflict) with its
    name; anything else the server calls a data error gives `value_invalid`.
    """
    original = error.orig
    diagnostic = original.diag if isinstance(original, psycopg.Error) else None
    name = (diagnostic.constraint_name if diagnostic else None) or ""
    message = (diagnostic.message_primary if diagnostic else None) or str(original)
    if name in _CONSTRAINTS:
        kind, code, detail = _CONSTRAINTS[name]
        return kind(code, detail, constraint=name)
    if isinstance(original, psycopg.errors.RestrictViolation) and not name:
        return Conflict("append_only", message)
    if isinstance(original, psycopg.errors.ForeignKeyViolation):
        return NotFound("referenced_row_missing", f"{message}.", constraint=name)
    if name.endswith("_dim"):
        return Invalid(
            "vector_dim_wrong",
            "The vector's length is not the dimension of its space; embed it with that model.",
            constraint=name,
        )
    if isinstance(original, psycopg.errors.CheckViolation | psycopg.errors.DataError):
        return Invalid(
            "value_invalid", f"The database refused a value: {message}.", constraint=name
        )
    return Conflict("constraint_violated", f"{message}.", constraint=name)


@contextmanager
def translated() -> Iterator[None]:
    """Turn refused statements of SQLAlchemy or psycopg inside the block into `DbError`."""
    try:
        yield
    except (IntegrityError, DataError) as error:
        raise translate(error) from error
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        raise translate(IntegrityError(None, None, error)) from error
