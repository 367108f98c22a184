"""Requests and lists of the API about queries of the desk, reviews, queues, names and views."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

from db.queries.queues import QueueFilters, Sort
from db.types import UnusableReason
from indexer.desk_answers import Decision, QueueCount, QueueItem, SavedView
from indexer.ranking import Fuse
from service.encounter_schemas import Id
from service.schemas import Filters, Strict

Score = Annotated[float, Field(ge=-1.001, le=1.001)]


class QueryBody(Strict):
    """`POST /v1/queries`: an encounter (its photos that nobody has named), annotations, or the
    photos of a stored identification."""

    encounter_id: UUID | None = None
    annotation_ids: list[Id] = Field(default=[], max_length=200)
    query_id: UUID | None = Field(
        None,
        description="A stored identification: its photos become annotations of an encounter.",
    )
    fuse: Fuse = Field(
        "max",
        description="How several photos make one score of an individual: the best of all, or "
        "`mean_top`, the mean of what each photo scores best with it.",
    )
    k: int | None = Field(None, ge=1, description="How many candidates to look for.")
    filters: Filters = Field(default_factory=Filters)
    wanted_votes: int = Field(
        1, ge=1, le=20, description="Opinions wanted; above 1 they are blind."
    )

    @model_validator(mode="after")
    def asks_one_thing(self) -> QueryBody:
        """A stored query, or annotations and the encounter that they are of."""
        given = bool(self.encounter_id or self.annotation_ids)
        if given == (self.query_id is not None):
            raise ValueError("give `encounter_id` or `annotation_ids`, or else `query_id`")
        return self


class ReviewBody(Strict):
    """`POST /v1/reviews`: what a person says of a query, at the version that they saw."""

    query_id: UUID
    version: int = Field(ge=0)
    verdict: Literal["same", "different", "unsure", "new", "none", "not_usable", "usable"]
    individual_id: UUID | None = Field(None, description="Needed by `same` and `different`.")
    rejected_individual_ids: list[UUID] = Field(
        default=[], max_length=200, description="Candidates that it is not, remembered as that."
    )
    annotation_ids: list[Id] = Field(
        default=[], max_length=200, description="The photos it is said of; without it all."
    )
    name: str | None = Field(
        None, min_length=1, max_length=200, description="Of a new individual; without it the next."
    )
    taxon: str | None = Field(None, max_length=200, description="Of a new individual.")
    reason: UnusableReason | None = Field(None, description="Needed by `not_usable`.")
    note: str | None = Field(None, max_length=10_000)
    rank: int | None = Field(None, ge=1, le=1000, description="Of the candidate, as shown.")
    match_annotation_id: Id | None = Field(None, description="The candidate's photo, as shown.")
    confirm_rejected: bool = Field(
        False, description="Say `same` although somebody said that it is another animal."
    )

    def to_decision(self) -> Decision:
        return Decision(
            query_id=self.query_id,
            version=self.version,
            verdict=self.verdict,
            individual_id=self.individual_id,
            rejected_individual_ids=tuple(self.rejected_individual_ids),
            annotation_ids=tuple(int(one) for one in self.annotation_ids),
            name=self.name,
            taxon=self.taxon,
            reason=self.reason,
            note=self.note,
            rank=self.rank,
            match_annotation_id=int(self.match_annotation_id) if self.match_annotation_id else None,
            confirm_rejected=self.confirm_rejected,
        )


class UndoBody(Strict):
    """`POST /v1/reviews/{id}/undo`."""

    version: int | None = Field(None, ge=0, description="Of the query, as it was seen.")


class QueueFields(Filters):
    """The filters of a queue. Sex and vitality are the best candidate's."""

    score_min: Score | None = None
    score_max: Score | None = None
    uploader: str | None = Field(None, max_length=200, description="Who asked.")

    def to_queue_filters(self) -> QueueFilters:
        """The same as the queue understands it."""
        photos = self.to_filters()
        return QueueFilters(
            taxon=photos.taxon,
            place=photos.place,
            date_from=photos.date_from,
            date_to=photos.date_to,
            viewpoint=photos.viewpoint,
            sex=photos.sex,
            vitality=photos.vitality,
            catalogue=photos.catalogue,
            score_min=self.score_min,
            score_max=self.score_max,
            uploader=self.uploader,
        )


class QueueParams(QueueFields):
    """Filters, order and page of a queue, as parameters of its address."""

    sort: Sort | None = Field(None, description="Without it the queue's own order.")
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")
    after: UUID | None = Field(None, description="What follows this query in the order.")


class QueuesOut(BaseModel):
    items: list[QueueCount]


class QueuePage(BaseModel):
    """One page of a queue; `next_cursor` is null on the last."""

    items: list[QueueItem]
    next_cursor: str | None


class NextNameBody(Strict):
    """`POST /v1/names/next`."""

    catalogue: str | None = Field(None, max_length=200)
    taxon: str | None = Field(None, max_length=200)


class ViewBody(Strict):
    """`POST /v1/views`: the filters of a page under a name."""

    page: str = Field("review", min_length=1, max_length=50)
    name: str = Field(min_length=1, max_length=100)
    params: str = Field(max_length=2000, description="The query string.")


class ViewsOut(BaseModel):
    items: list[SavedView]
