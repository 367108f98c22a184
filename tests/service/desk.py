"""A desk over HTTP to be tested on: a small catalogue, and encounters that are asked about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi.testclient import TestClient

from tests.service.small import add, scene


@dataclass
class Desk:
    """What a reviewer does, in few words. Answers are the JSON of 2xx."""

    client: TestClient
    headers: dict[str, str] = field(default_factory=dict)
    people: dict[str, dict[str, Any]] = field(default_factory=dict)

    def known(self, name: str, seed: int, photos: int = 2, **fields: str) -> str:
        """An individual with photos of scene `seed`; its id."""
        shots = [scene(seed, shift=10 + shift) for shift in range(photos)]
        return str(add(self.client, name, *shots, **fields)["individual"]["id"])

    def encounter(self, *photos: bytes, **fields: str) -> dict[str, Any]:
        """An encounter of photos that nobody is asked about yet."""
        files = [("file", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(photos)]
        data = {"ask": "false", **fields}
        return self.sent("/v1/encounters", files=files, data=data)

    def ask(self, *photos: bytes, **body: Any) -> dict[str, Any]:
        """Photos of one encounter asked as one question."""
        made = self.encounter(*photos)
        return self.sent("/v1/queries", {"encounter_id": made["encounter"]["id"], **body})

    def read(self, query: dict[str, Any]) -> dict[str, Any]:
        return self.got(f"/v1/queries/{query['id']}")

    def say(self, query: dict[str, Any], verdict: str, **body: Any) -> dict[str, Any]:
        """A decision on the query at the version it was seen at."""
        return self.sent("/v1/reviews", self.words(query, verdict, **body))

    def words(self, query: dict[str, Any], verdict: str, **body: Any) -> dict[str, Any]:
        return {
            "query_id": query["id"],
            "version": query["version"],
            "verdict": verdict,
            **body,
        }

    def refused(self, query: dict[str, Any], verdict: str, **body: Any) -> dict[str, Any]:
        """The problem that a decision ends with."""
        response = self.post("/v1/reviews", self.words(query, verdict, **body))
        assert response.status_code >= 400, response.text
        return dict(response.json())

    def undo(self, decided: dict[str, Any], **body: Any) -> dict[str, Any]:
        return self.sent(f"/v1/reviews/{decided['decision_id']}/undo", body)

    def queue(self, name: str, **params: Any) -> list[str]:
        """The ids that wait in a queue."""
        items = self.got(f"/v1/queues/{name}", **params)["items"]
        return [item["id"] for item in items]

    def counts(self) -> dict[str, int]:
        return {one["name"]: one["count"] for one in self.got("/v1/queues")["items"]}

    def got(self, url: str, **params: Any) -> dict[str, Any]:
        response = self.client.get(url, params=params, headers=self.headers)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def post(self, url: str, body: Any = None, key: str | None = None, **more: Any) -> Any:
        headers = {**self.headers, **({"Idempotency-Key": key} if key else {})}
        return self.client.post(url, json=body, headers=headers, **more)

    def sent(self, url: str, body: Any = None, key: str | None = None, **more: Any) -> Any:
        response = self.post(url, body, key, **more)
        assert response.status_code == 201, response.text
        return response.json()


def new_key() -> str:
    return str(uuid4())
