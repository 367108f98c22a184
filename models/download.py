"""Owns the download of published files, from the hub or a mirror, checked before any use."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Final

from models.errors import BundleError
from models.manifest import sha256_of
from models.recipes import Recipe, SourceFile

_HEX: Final = frozenset(string.hexdigits)


def download(recipe: Recipe, folder: Path, *, repo: str | None, endpoint: str | None) -> None:
    """Fetch every file of `recipe` into `folder` and compare it with its SHA-256.

    Where the recipe has no digest, the one that the hub publishes for the file is used; where
    neither exists, the file is refused.

    Args:
        repo: another repository than the recipe's, with the same files.
        endpoint: another address than huggingface.co, without a path at its end. The user's hub
            token is sent to the hub only.

    Raises:
        BundleError: `no_repository`, `download_failed`, `no_digest`, `digest_mismatch`.
    """
    source = repo or recipe.repo
    if source is None or not recipe.files:
        raise BundleError(
            "no_repository",
            f"{recipe.name} is published nowhere that is known: name a repository, or install it "
            "from files with `resight models add DIR`",
        )
    for file in recipe.files.values():
        _fetch(source, file, folder, endpoint)


def _fetch(repo: str, file: SourceFile, folder: Path, endpoint: str | None) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    token = None if endpoint is None else False
    try:
        expected = file.sha256
        if expected is None:
            url = hf_hub_url(repo, file.path, endpoint=endpoint)
            expected = get_hf_file_metadata(url, token=token).etag or ""
        if len(expected) != 64 or not set(expected) <= _HEX:
            raise BundleError("no_digest", f"nobody publishes the SHA-256 of {repo}/{file.path}")
        hf_hub_download(repo, file.path, local_dir=folder, endpoint=endpoint, token=token)
    except BundleError:
        raise
    except Exception as error:
        # The hub's client passes on whatever its HTTP library raises, and changes that library.
        reason = str(error).strip().splitlines()
        raise BundleError(
            "download_failed",
            f"{repo}/{file.path} could not be fetched from {endpoint or 'huggingface.co'}: "
            f"{reason[0] if reason else type(error).__name__}",
        ) from error
    actual = sha256_of(folder / file.path)
    if actual != expected:
        raise BundleError(
            "digest_mismatch",
            f"{repo}/{file.path} has SHA-256 {actual}, expected {expected}: nothing was installed; "
            "the download is damaged or the file is another one",
        )
