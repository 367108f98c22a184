"""What `/metrics` shows, in Prometheus form: base units, no ids in labels."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def program_version() -> str:
    """The installed version of this program."""
    try:
        return version("resight")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """One registry per application, so that two in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "resight_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "resight_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ("method", "route"),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.gate = Counter(
            "resight_gate_decisions",
            "Photos judged by the gate.",
            ("state", "model"),
            registry=self.registry,
        )
        self.default_answers = Counter(
            "resight_default_answers",
            "Default answers by status.",
            ("status",),
            registry=self.registry,
        )
        self.search_seconds = Histogram(
            "resight_search_duration_seconds",
            "Time of a search for individuals, SQL included.",
            ("mode",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.search_failures = Counter(
            "resight_search_failures",
            "Searches that did not run to their end.",
            ("error",),
            registry=self.registry,
        )
        self.truncated = Counter(
            "resight_search_results_truncated",
            "Searches that answered fewer individuals than there were.",
            registry=self.registry,
        )
        self.embed_seconds = Histogram(
            "resight_embed_duration_seconds",
            "Time of embedding the photos of one request.",
            ("model",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.photos_refused = Counter(
            "resight_photos_refused",
            "Photos that could not be read.",
            ("code",),
            registry=self.registry,
        )
        self.individuals_added = Counter(
            "resight_individuals_added", "Individuals added.", registry=self.registry
        )
        self.drift_alarms = Counter(
            "resight_drift_alarms",
            "Episodes in which the mean gate score fell below its baseline.",
            registry=self.registry,
        )
        self.gate_installed = Gauge(
            "resight_gate_installed",
            "1 when a gate judges photos, 0 when every photo is abstained on.",
            registry=self.registry,
        )
        self.ready = Gauge(
            "resight_ready", "1 when identification is complete.", registry=self.registry
        )
        self.inference_waiting = Gauge(
            "resight_inference_waiting",
            "Requests in or before the inference queue.",
            registry=self.registry,
        )
        self.embeddings = Gauge(
            "resight_embeddings",
            "Vectors in the space that is searched.",
            ("model", "state"),
            registry=self.registry,
        )
        self.index_delta = Gauge(
            "resight_index_delta_vectors",
            "Vectors newer than the snapshot, searched beside it.",
            registry=self.registry,
        )
        self.build_info = Gauge(
            "resight_build_info", "Always 1.", ("version",), registry=self.registry
        )
        self.build_info.labels(program_version()).set(1)

    def text(self) -> bytes:
        """The exposition of everything above."""
        return generate_latest(self.registry)
