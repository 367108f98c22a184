"""A job to test the engine with: it writes numbers into a table that refuses any number twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db.queries.jobs import ChunkSpec, ItemFailure, JobRow
from db.types import JobKind
from indexer.jobs import ChunkContext, Plan

DEADLINE_S = 30.0


def make_table(engine: Engine) -> None:
    """`toy(number)`, what was written; `toy_call(number, at)`, what was worked on."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE toy (number int PRIMARY KEY)"))
        connection.execute(
            text(
                "CREATE TABLE toy_call (number int, worker text, chunk int,"
                " at timestamptz DEFAULT clock_timestamp())"
            )
        )


def written(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT number FROM toy ORDER BY number")))


def wait_for(condition: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
    """Until the condition holds.

    Raises:
        AssertionError: it did not within so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.01)


class ToyHandler:
    """Params: `numbers` (how many), `size` (of a chunk), `seconds` (per number), `poison` (numbers
    that fail). Two stages: "write", then "sum" without items."""

    kind = JobKind.EVALUATE

    def __init__(self, worker: str = "w") -> None:
        self.worker = worker
        self.begun = threading.Event()
        """Set when a chunk is being worked on."""
        self.planned: list[str | None] = []

    def plan(self, session: Session, job: JobRow) -> Plan:
        self.planned.append(job.stage)
        if job.stage is None:
            numbers, size = job.params["numbers"], job.params.get("size", 4)
            chunks = [
                ChunkSpec(
                    "write",
                    {"first": first, "last": min(first + size, numbers)},
                    min(first + size, numbers) - first,
                )
                for first in range(0, numbers, size)
            ]
            return Plan.next_stage("write", chunks) if chunks else Plan.end({"sum": 0})
        if job.stage == "write":
            return Plan.next_stage("sum", [ChunkSpec("sum")])
        return Plan.end({"sum": session.scalar(text("SELECT sum(number) FROM toy"))})

    def work(self, chunk: ChunkContext) -> None:
        self.begun.set()
        params = chunk.row.params
        if chunk.row.stage == "sum":
            chunk.commit(lambda _: (), 0)
            return
        numbers = (
            [int(item) for item in chunk.row.retry]
            if chunk.row.retry is not None
            else list(range(params["first"], params["last"]))
        )
        good: list[int] = []
        for number in numbers:
            if chunk.stopping():
                return
            if not self.do(chunk, number):
                continue
            good.append(number)
            chunk.progress(len(good))

        def write(session: Session) -> list[ItemFailure]:
            session.execute(
                text("INSERT INTO toy SELECT unnest(cast(:numbers AS int[]))"), {"numbers": good}
            )
            return [
                ItemFailure(str(number), "poison", f"{number} is poison")
                for number in numbers
                if number not in good
            ]

        chunk.commit(write, len(good))

    def do(self, chunk: ChunkContext, number: int) -> bool:
        """Work on one number; False where it fails."""
        with chunk.sessions.begin() as session:
            session.execute(
                text("INSERT INTO toy_call (number, worker, chunk) VALUES (:n, :w, :c)"),
                {"n": number, "w": self.worker, "c": chunk.row.number},
            )
        # Not time.sleep: under libfaketime 0.9 it is refused, whatever the offset.
        threading.Event().wait(chunk.job.params.get("seconds", 0))
        return number not in chunk.job.params.get("poison", ())
