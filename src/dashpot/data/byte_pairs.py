"""Byte-pair encoding of texts, with the package tokenizers.

A text is encoded line by line, each with its line break, and each line is divided into words before the merges are
applied, as in GPT-2. Every token is a fixed sequence of bytes, so that every text can be encoded.

Source: Sennrich, Haddow and Birch, arXiv:1508.07909; Radford et al., "Language models are unsupervised multitask
learners", 2019.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dashpot.utils.atomic_files import sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LINES = 10_000
"""Number of lines that are encoded at once, which bounds the memory."""


@dataclass(frozen=True)
class BytePairs:
    """A byte-pair encoding.

    Args:
        settings: The encoding in the JSON format of tokenizers.
    """

    settings: str

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return json.loads(self.settings)["model"]["vocab"]

    @property
    def sha256(self) -> str:
        """Checksum of the settings."""
        return sha256(self.settings.encode())

    def __len__(self) -> int:
        """Return the number of tokens of the vocabulary."""
        return len(self._vocabulary)

    @property
    def byte_lengths(self) -> Tensor:
        """Number of bytes of each token, of shape (vocabulary,): the alphabet has one character per byte."""
        lengths = torch.zeros(len(self), dtype=torch.int64)
        for name, token in self._vocabulary.items():
            lengths[token] = len(name)
        return lengths

    def encode(self, text: bytes) -> np.ndarray:
        """Return the tokens of a text in UTF-8, of type uint16."""
        from tokenizers import Tokenizer

        tokenizer, parts = Tokenizer.from_str(self.settings), [np.zeros(0, np.uint16)]
        for lines in _chunks(text):
            encoded = tokenizer.encode_batch_fast(lines, add_special_tokens=False)
            parts.append(np.fromiter(itertools.chain.from_iterable(line.ids for line in encoded), np.uint16))
        return np.concatenate(parts)


def train(text: bytes, vocabulary: int) -> BytePairs:
    """Return the byte-pair encoding of a text: 256 bytes and the most frequent merges.

    The result depends only on the arguments and the version of tokenizers.

    Args:
        text: Text in UTF-8.
        vocabulary: Number of tokens, in [256, 65536]; fewer if the text has too few different words.
    """
    from tokenizers import trainers

    tokenizer = _untrained()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=_alphabet(), show_progress=False)
    tokenizer.train_from_iterator(itertools.chain.from_iterable(_chunks(text)), trainer)
    return BytePairs(tokenizer.to_str())


def from_merges(vocabulary: bytes, merges: bytes) -> BytePairs:
    """Return a published byte-pair encoding.

    Args:
        vocabulary: JSON object from the names of tokens to their numbers.
        merges: A line with the version, followed by a line with two names for each merge, in order.
    """
    pairs = [tuple(line.split(" ")) for line in merges.decode().splitlines()[1:] if line]
    tokenizer = _untrained(json.loads(vocabulary), pairs)
    return BytePairs(tokenizer.to_str())


def _untrained(*merges: Any) -> Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(*merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()


def _chunks(text: bytes) -> Iterator[list[str]]:
    lines = (line.decode() for line in text.splitlines(keepends=True))
    while chunk := list(itertools.islice(lines, _LINES)):
        yield chunk
