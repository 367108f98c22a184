"""Every setting of the service, from `RESIGHT_*` environment variables or arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 2**20

MEDIA_SCHEMES = ("file", "s3", "gs", "az", "memory")

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class Settings(BaseSettings):
    """Read once, at start; frozen afterwards."""

    model_config = SettingsConfigDict(env_prefix="RESIGHT_", frozen=True, extra="ignore")

    data_dir: Path = Field(
        Path(".resight"),
        description="Where photos, installed models, snapshots and the embedded database lie.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="A PostgreSQL of your own (15 or newer, pgvector 0.8.4 or newer). "
        "Without it the embedded one in the data directory is used.",
    )
    media_url: str | None = Field(
        None,
        description="Where originals lie, when not in the data directory: s3://bucket/prefix, "
        "gs://…, az://container/prefix or file:///folder. Credentials come from the environment "
        "(AWS_*, GOOGLE_*, AZURE_*).",
    )
    import_prefixes: tuple[str, ...] = Field(
        ("file:///",),
        description="Places from which `resight import` may take photos without copying them, as "
        'a JSON list of URI prefixes, such as ["file:///", "s3://bucket/folder"].',
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Anything but loopback needs an API key, or an account "
        "with a password.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Host names under which the service may be addressed, as a JSON list. "
        "Empty: any beyond loopback; on loopback always the loopback names alone.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="Addresses of reverse proxies in front of the service, as a JSON list. Their "
        "X-Forwarded-For and X-Forwarded-Proto are believed (https makes the cookie Secure), and "
        "the service counts as reachable by others, on loopback too.",
    )
    sign_in_days: float = Field(
        30.0,
        gt=0,
        le=90,
        description="Days without use after which a browser has to sign in again (0.5: twelve "
        "hours, for computers that people share); in any case after 90 days.",
    )
    banner: str | None = Field(None, description="A sentence shown at the top of every page.")

    model: str | None = Field(
        None,
        description="Bundle to serve while the catalogue holds no vectors; without it the "
        "fallback order. From then on `resight reindex` moves it to another.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models run.")
    threads: int = Field(0, ge=0, description="Threads for inference; 0: as many as cores.")
    gate_config: Path | None = Field(
        None, description="Prompts and threshold of the gate; without it configs/gate.toml."
    )
    gate_policy: Literal["withhold", "refuse"] = Field(
        "withhold",
        description="When no gate can judge a photo: `withhold` the default answer and show "
        "matches for review, or `refuse` to answer (503).",
    )
    inference_workers: int = Field(1, ge=1, le=16, description="Photos embedded side by side.")
    inference_queue: int = Field(
        32, ge=1, description="Requests that may wait for inference; more are answered 503."
    )

    max_photo_bytes: int = Field(25 * MIB, gt=0, description="Largest photo, in bytes.")
    max_photo_pixels: int = Field(
        50_000_000, gt=0, description="Largest photo, in pixels, checked before it is decoded."
    )
    max_photos_per_request: int = Field(10, ge=1, description="Photos of one encounter at once.")
    max_photos_per_drop: int = Field(
        200, ge=1, description="Photos dropped into encounters by one request."
    )
    max_batch_bytes: int = Field(1024 * MIB, gt=0, description="Largest ZIP of a batch, in bytes.")
    max_batch_entries: int = Field(2000, ge=1, description="Most entries in a ZIP of a batch.")
    body_timeout_s: float = Field(
        60.0, gt=0, description="Longest silence while a request body is being received."
    )
    rate_limit_per_minute: int | None = Field(
        None,
        ge=0,
        description="Questions and additions (POST) a minute for one key or address; 0: no limit. "
        "Without it: no limit on loopback, 600 beyond.",
    )

    top_k: int = Field(10, ge=1, le=100, description="Individuals in an answer, unless asked.")
    max_k: int = Field(100, ge=1, le=1000, description="Most individuals a request may ask for.")
    min_probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Default answer is given from this probability on; without it the bundle's.",
    )
    search_backend: Literal["faiss", "exact", "pgvector", "milvus"] = Field(
        "faiss", description="How candidates are found; every backend is re-scored exactly."
    )
    milvus_uri: str | None = Field(
        None,
        description="Where Milvus is, for the backend `milvus`: http://host:19530. "
        "Needs the extra `milvus`.",
    )
    milvus_token: SecretStr | None = Field(
        None, description="Milvus's token, `user:password` or a key."
    )
    milvus_index: Literal["FLAT", "HNSW"] = Field(
        "FLAT",
        description="How Milvus searches: `FLAT` compares with every vector, `HNSW` is "
        "approximate and says so in the receipt.",
    )
    search_timeout_s: float = Field(10.0, gt=0, description="Longest search before an error.")
    rejected_pairs: Literal["last", "hide"] = Field(
        "last",
        description="Candidates that somebody rejected for a photo: `last` in the list and marked, "
        "or `hide` them.",
    )
    votes_min: int = Field(
        2, ge=2, le=20, description="Opinions needed where second opinions are wanted."
    )
    votes_share: float = Field(
        0.667, gt=0.5, le=1, description="Share of the opinions that must agree to decide."
    )
    gate_sample: float = Field(
        1.0, ge=0, le=1, description="Share of the gate's rejections that people are to check."
    )
    worker: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether `resight serve` runs a worker beside itself; `auto`: with the "
        "embedded database.",
    )
    worker_poll_s: float = Field(
        2.0,
        gt=0,
        description="Seconds after which an idle worker looks for work, were it never woken.",
    )
    worker_lease_s: float = Field(
        30.0,
        ge=1,
        description="Seconds after which the work of a worker that died is another's.",
    )
    public_docs: bool = Field(
        True, description="Answer /openapi.json and /metrics without a key when keys are needed."
    )

    @field_validator("media_url")
    @classmethod
    def _names_a_store(cls, url: str | None) -> str | None:
        scheme, separator, place = (url or "file:///").partition("://")
        if scheme not in MEDIA_SCHEMES or not separator or (not place and scheme != "memory"):
            raise ValueError("give s3://bucket/prefix, gs://…, az://container/prefix or file:///…")
        if "@" in place.partition("/")[0]:
            raise ValueError("credentials belong into the environment, not into the URL")
        return url

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in LOOPBACK_HOSTS and not self.trusted_proxies

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def media_dir(self) -> Path:
        return self.data_dir / "media"

    @property
    def snapshots_dir(self) -> Path:
        return self.data_dir / "snapshots"

    @property
    def exports_dir(self) -> Path:
        return self.data_dir / "exports"

    @property
    def requests_per_minute(self) -> int:
        """The rate limit in force; 0 means none."""
        if self.rate_limit_per_minute is not None:
            return self.rate_limit_per_minute
        return 0 if self.on_loopback else 600

    @property
    def max_upload_bytes(self) -> int:
        """Largest body of a request that carries photos: the photos and their envelope."""
        return self.max_photos_per_request * self.max_photo_bytes + MIB
