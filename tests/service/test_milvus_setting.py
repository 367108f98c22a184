"""The backend milvus needs to be told where Milvus is, before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.runtime import StartRefused, open_resight
from service.settings import Settings


def test_a_service_without_milvus_uri_does_not_start(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", search_backend="milvus")
    with pytest.raises(StartRefused, match="set RESIGHT_MILVUS_URI"):
        open_resight(settings)
    assert not (tmp_path / "data").exists()
