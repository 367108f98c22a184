"""Requests and answers of the API about who is who: names, merges, splits, changes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from db.queries.changes import ChangeRow
from db.queries.feed import FeedRow, individuals_of
from db.queries.portraits import NameRow
from db.queries.reviews import DecisionRow
from indexer.suggestions import MergeSuggestion
from indexer.suggestions import Outlier as OutlierItem
from service.schemas import IndividualCard, Strict, as_time, in_utc

When = Annotated[datetime, BeforeValidator(as_time), AfterValidator(in_utc)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
Ids = Annotated[list[Id], Field(min_length=1, max_length=10_000)]
Link = Annotated[str, Field(max_length=2_000)]
Preview = Annotated[bool, Field(description="Only say what would happen.")]


class IndividualEdit(Strict):
    """`PATCH /v1/individuals/{id}`: what is left out stays as it is."""

    sex: Literal["female", "male", "unknown"] = "unknown"
    vitality: Literal["alive", "dead", "unknown"] = "unknown"
    life_stage: Literal["calf", "juvenile", "subadult", "adult", "unknown"] = "unknown"
    taxon: str | None = Field(
        None, max_length=200, description="Any name of the species; one not known is made."
    )
    notes: str | None = Field(None, max_length=10_000)
    links: list[Link] = Field(default=[], max_length=50, description="Pages about it elsewhere.")


class IndividualEdited(BaseModel):
    """As it is now; `change_id` is null where nothing was different."""

    individual: IndividualCard
    change_id: int | None


class NameBody(Strict):
    """`POST /v1/individuals/{id}/names`"""

    name: Name
    catalogue: Name | None = Field(
        None, description="Where the name is given, another catalogue than its own; made if new."
    )


class RenameBody(Strict):
    """`POST /v1/individuals/{id}/rename`"""

    name: Name
    keep_alias: bool = Field(True, description="The old name goes on as an alias.")
    preview: Preview = False


class MergeBody(Strict):
    """`POST /v1/individuals/{id}/merge`: `other_id` becomes the individual of the path."""

    other_id: UUID
    preview: Preview = False
    confirm_rejected: bool = Field(
        False, description="Merge although somebody said that they are different."
    )


class SplitBody(Strict):
    """`POST /v1/individuals/{id}/split`: to a new individual, or `into` one that is there."""

    annotation_ids: Ids
    name: Name | None = Field(None, description="Of the new one; made of the old name if missing.")
    into: UUID | None = None
    preview: Preview = False


class ReassignBody(Strict):
    """`POST /v1/annotations/reassign`: whom they show; null: nobody knows."""

    annotation_ids: Ids
    individual_id: UUID | None
    preview: Preview = False


class UndoBody(Strict):
    """`POST /v1/changes/{id}/undo`"""

    preview: Preview = False


class DismissBody(Strict):
    """`POST /v1/suggestions/merges/dismiss`: these two are different."""

    individual_id: UUID
    other_id: UUID
    note: str | None = Field(None, max_length=10_000)


class Dismissed(BaseModel):
    """The decision: `POST /v1/reviews/{id}/undo` takes it back."""

    decision_id: UUID


class NameOut(BaseModel):
    """One name, in the catalogue inside which nobody else has it."""

    id: str
    name: str
    catalogue: str
    is_primary: bool

    @classmethod
    def of(cls, row: NameRow) -> NameOut:
        return cls(
            id=str(row.id), name=row.name, catalogue=row.catalogue, is_primary=row.is_primary
        )


class NamesOut(BaseModel):
    """All names, the primary one first."""

    items: list[NameOut]


class Named(BaseModel):
    """An individual as it is called today, or was called last."""

    id: UUID
    name: str | None


class ChangeOut(BaseModel):
    """One change of who is who, or one decision of a person. `id` is what an undo names, null for a
    decision that changed nobody; `seq` is the place in the feed. `detail` holds names and numbers
    as they were; `undone_by` and `undoes` are other changes."""

    id: int | None
    seq: int | None
    at: datetime
    by: str
    action: str
    individuals: list[Named]
    undoes: int | None
    undone_by: int | None
    decision_id: UUID | None
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: ChangeRow, names: dict[UUID, str], seq: int | None = None) -> ChangeOut:
        """`names` are what individuals are called today."""
        return cls(
            id=row.id,
            seq=seq,
            at=row.at,
            by=row.principal,
            action=row.action,
            individuals=_named(row.individual_ids, names),
            undoes=row.undoes_id,
            undone_by=row.undone_by,
            decision_id=row.decision_id,
            detail=row.detail,
        )

    @classmethod
    def of_feed(cls, row: FeedRow, names: dict[UUID, str]) -> ChangeOut:
        """A change, or a decision alone."""
        if row.change is not None:
            return cls.of(row.change, names, row.seq)
        said = row.decision
        return cls(
            id=None,
            seq=row.seq,
            at=row.at,
            by=row.principal,
            action=row.action,
            individuals=_named(individuals_of(row), names),
            undoes=None,
            undone_by=None,
            decision_id=said and said.decision_id,
            detail={} if said is None else _said(said),
        )


def _named(ids: Iterable[UUID], names: dict[UUID, str]) -> list[Named]:
    return [Named(id=id_, name=names.get(id_)) for id_ in ids]


def _said(said: DecisionRow) -> dict[str, Any]:
    return {
        "verdict": said.verdict,
        "query_id": said.query_id and str(said.query_id),
        "individual_id": said.individual_id and str(said.individual_id),
        "rejected": [str(id_) for id_ in said.rejected],
        "annotation_ids": [str(id_) for id_ in said.annotation_ids],
        "reason": said.reason,
        "note": said.note,
    }


class ChangePage(BaseModel):
    """One page of changes; `next_cursor` is null on the last."""

    items: list[ChangeOut]
    next_cursor: str | None


class Suggested(BaseModel):
    """What the catalogue, compared with itself, suggests. While `state` is `counting` the items are
    those of `as_of`, or none yet, and `progress` is 0 to 1."""

    next_cursor: str | None
    state: Literal["ready", "counting"]
    progress: float
    as_of: datetime | None
    compared: int
    individuals: int


class SuggestedMerges(Suggested):
    """Individuals that may be one, the closest first."""

    items: list[MergeSuggestion]


class SuggestedOutliers(Suggested):
    """Photos that look more like another individual, the worst first."""

    items: list[OutlierItem]
