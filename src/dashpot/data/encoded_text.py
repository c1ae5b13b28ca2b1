"""Texts as tokens of a byte-pair encoding, encoded once and stored in the per-user cache."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot.data import verified_cache
from dashpot.data.byte_pairs import BytePairs
from dashpot.utils.atomic_files import sha256
from dashpot.utils.cache_dir import cache_folder

_WHAT = "The encoded text"
_SETTINGS = "settings"


class EncodedText(NamedTuple):
    """A byte-pair encoding, and texts as tokens of type int32."""

    encoding: BytePairs
    tokens: Mapping[str, Tensor]


def encoded(texts: Mapping[str, bytes], name: str, encoding: Callable[[], BytePairs]) -> EncodedText:
    """Encode texts, or return them from the cache.

    Args:
        texts: Texts in UTF-8 by name.
        name: Name of the encoding, which together with the texts and the version of tokenizers determines its result.
        encoding: Function that returns the encoding.
    """
    checksums = {key: sha256(text) for key, text in texts.items()}
    key = sha256(json.dumps([name, version("tokenizers"), checksums]).encode())
    path = cache_folder() / "encoded" / f"{name}-{key[:32]}"
    stored = verified_cache.load(path, what=_WHAT)
    if stored is None:
        result = encoding()
        arrays = {key: result.encode(text) for key, text in texts.items()}
        verified_cache.store(path, _packed(result, arrays), what=_WHAT)
    else:
        result, arrays = _unpacked(stored)
    return EncodedText(result, {key: torch.from_numpy(array.astype(np.int32)) for key, array in arrays.items()})


def _packed(encoding: BytePairs, arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer, contents = io.BytesIO(), dict[str, Any](arrays)
    contents[_SETTINGS] = np.frombuffer(encoding.settings.encode(), np.uint8)
    np.savez(buffer, **contents)
    return buffer.getvalue()


def _unpacked(content: bytes) -> tuple[BytePairs, Mapping[str, np.ndarray]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return BytePairs(arrays.pop(_SETTINGS).tobytes().decode()), arrays
