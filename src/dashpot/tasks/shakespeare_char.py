"""Task shakespeare-char: a GPT that predicts the characters of Shakespeare's plays."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dashpot.data import shakespeare
from dashpot.errors import ArgumentError
from dashpot.tasks.gpt import GPTSize
from dashpot.tasks.language import LanguageTier, TokenParts, encode_characters, language_model
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Task

TIERS: Mapping[str, LanguageTier] = {
    "smoke": LanguageTier(GPTSize(2, 2, 32, 32), 8, 10, 3, 3.3),
    "cpu": LanguageTier(GPTSize(4, 4, 128, 64), 12, 250, 8, 1.88),
    "gpu": LanguageTier(GPTSize(6, 6, 384, 256, 0.2), 64, 250, 20, 1.47),
}
"""The published configurations of nanoGPT for a CPU and a GPU, and a small one for tests."""

VALIDATION_SIZE = 50_000
"""Default number of characters that are held out for validation."""

_TRAIN_SHARE = 0.9


def task(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    tier: str = "cpu",
    batch_size: int | None = None,
    device: str = "cpu",
    validation_size: int = VALIDATION_SIZE,
) -> Task:
    """Return the task that trains a GPT on the characters of Tiny Shakespeare.

    The last 10 % of the text are test data, and the `validation_size` characters before them validation data. The other
    characters are training data.

    Args:
        data_dir: Data folder to search first; see `dashpot.data.shakespeare.load`.
        tier: "smoke", "cpu" or "gpu": size of the network and length of the training.
        batch_size: Number of windows per batch; >= 1. None selects that of the tier.
        device: Device of the data and the model.
        validation_size: Number of training characters that are held out for validation: 0, or large enough for a window
            and leaving enough training characters for a window. With 0, the last 10 % of the text are the evaluation
            data, as published, without further test data.

    Raises:
        ArgumentError: If an option is out of range.
        DataError: If the text is damaged or not available.
    """
    given = {} if batch_size is None else {"batch_size": batch_size}
    check_options("shakespeare-char", tier=tier, device=device, validation_size=validation_size, **given)
    characters, tokens = encode_characters(shakespeare.load(data_dir))
    end = int(_TRAIN_SHARE * len(tokens))
    start = end - validation_size
    chosen = TIERS[tier]
    _check_validation_size(validation_size, chosen.size.block + 1, end)
    return language_model(
        TokenParts(len(characters), tokens[:start], tokens[start:end] if validation_size else None, tokens[end:]),
        chosen,
        name="shakespeare-char",
        batch_size=batch_size,
        device=device,
        margin=0.01,
        description=f"a GPT of {chosen.size.layers} layers on the characters of Shakespeare's plays",
        config={"tier": tier, "data_sha256": {"input.txt": shakespeare.SHA256}},
    )


def _check_validation_size(size: int, window: int, available: int) -> None:
    """Check that the training data and nonempty validation data contain at least one window with its targets."""
    if size and not window <= size <= available - window:
        allowed = f"0 or an integer in [{window}, {available - window}]"
        raise ArgumentError(f"shakespeare-char: validation_size must be {allowed}, got {size}.")
