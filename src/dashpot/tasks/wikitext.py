"""Task wikitext: a GPT that predicts tokens of Wikipedia articles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from dashpot.constraints import OneOf, check
from dashpot.data import gpt2, wikitext
from dashpot.data.byte_pairs import train
from dashpot.data.encoded_text import EncodedText, encoded
from dashpot.tasks.gpt import GPTSize
from dashpot.tasks.language import LanguageTier, TokenParts, bits_per_byte, language_model
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Task
from dashpot.utils.optional_packages import need


@dataclass(frozen=True)
class _Tier:
    """Settings of a tier.

    Args:
        language: Network and training.
        vocabulary: Number of tokens of the encoding, which is trained on the training part, or None for that of GPT-2.
        evaluated: Number of tokens at the beginning of the validation and test parts that are evaluated; None for all.
        variants: Variants in order of preference.
    """

    language: LanguageTier
    vocabulary: int | None
    evaluated: int | None
    variants: tuple[str, ...] = wikitext.VARIANTS


TIERS: Mapping[str, _Tier] = {
    "smoke": _Tier(LanguageTier(GPTSize(2, 2, 32, 32), 8, 10, 3, 6.1), 512, 5_000),
    "cpu": _Tier(LanguageTier(GPTSize(4, 4, 128, 64), 12, 250, 3, 4.2), 1024, 50_000),
    "gpu": _Tier(LanguageTier(GPTSize(12, 12, 768, 1024), 8, 250, 400, 3.0), None, None, wikitext.VARIANTS[::-1]),
}
"""GPT-2 small with 10^5 steps at the tier gpu; a small GPT at the tier cpu, and a smaller one for tests."""

_PARTIAL = " without its training part, whose figures are not comparable with published ones"


def task(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    tier: str = "cpu",
    variant: str | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
) -> Task:
    """Return the task that trains a GPT on WikiText.

    At the tiers smoke and cpu, the tokens are those of a byte-pair encoding trained on the training part, with 512 and
    1024 tokens; at the tier gpu, those of GPT-2. The loss is in nats per token, and the metric `bits_per_byte` does not
    depend on the encoding. At the tiers smoke and cpu, only the first 5000 and 50 000 tokens of the validation and test
    parts are evaluated. If only the validation and test parts are in the data folder, the test part is the training
    data and the validation part the evaluation data, without test data.

    Args:
        data_dir: Data folder to search first; see `dashpot.data.wikitext.load`.
        tier: "smoke", "cpu" or "gpu": size of the network and length of the training.
        variant: "wikitext-2" or "wikitext-103". None selects the variant in the data folder; if it contains both or
            none, WikiText-103 at the tier gpu and WikiText-2 otherwise.
        batch_size: Number of windows per batch; >= 1. None selects that of the tier.
        device: Device of the data and the model.

    Raises:
        ArgumentError: If an option is out of range.
        DataError: If the text, or at the tier gpu the encoding, is damaged or not available.
        RunError: If the package tokenizers is not installed.
    """
    given = {} if batch_size is None else {"batch_size": batch_size}
    check_options("wikitext", tier=tier, device=device, **given)
    check("wikitext", "variant", variant, OneOf((None, *wikitext.VARIANTS)))
    need("The task wikitext", "tokenizers", extra="text")
    chosen = TIERS[tier]
    text = wikitext.load(data_dir, chosen.variants if variant is None else (variant,))
    tokens = _encoded(text, chosen.vocabulary, data_dir)
    title = wikitext.FILES[text.variant].title
    return language_model(
        _parts(tokens, text.complete, chosen.evaluated),
        chosen.language,
        name="wikitext",
        batch_size=batch_size,
        device=device,
        margin=0.02,
        description=f"a GPT of {chosen.language.size.layers} layers on {title}" + ("" if text.complete else _PARTIAL),
        config={
            "tier": tier,
            "variant": text.variant,
            "training_data": wikitext.FILES[text.variant].files["train" if text.complete else "test"].name,
            "vocabulary": len(tokens.encoding),
            "evaluated_tokens": chosen.evaluated,
            "encoding_sha256": tokens.encoding.sha256,
            "data_sha256": dict(text.sha256),
        },
        metrics={"bits_per_byte": bits_per_byte(tokens.encoding.byte_lengths)},
    )


def _encoded(text: wikitext.WikiText, vocabulary: int | None, data_dir: str | os.PathLike[str] | None) -> EncodedText:
    texts = {part: content for part in wikitext.PARTS if (content := getattr(text, part))}
    if vocabulary is None:
        return encoded(texts, "gpt2", partial(gpt2.load, data_dir))
    return encoded(texts, f"bpe-{vocabulary}", partial(train, text.train, vocabulary))


def _parts(text: EncodedText, complete: bool, evaluated: int | None) -> TokenParts:
    """Return the parts; without the published training part, the validation part is the only evaluation data."""
    train, validation = text.tokens["train"], text.tokens["validation"][:evaluated]
    if complete:
        return TokenParts(len(text.encoding), train, validation, text.tokens["test"][:evaluated])
    return TokenParts(len(text.encoding), train, None, validation)
