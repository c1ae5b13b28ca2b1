"""The byte-pair encoding of GPT-2, with 50 257 tokens.

Source: Radford et al., "Language models are unsupervised multitask learners", 2019. The checksums are those of the
package tiktoken by OpenAI, tiktoken_ext/openai_public.py.
"""

from __future__ import annotations

import os

from dashpot.data.byte_pairs import BytePairs, from_merges
from dashpot.data.loading import load_files
from dashpot.data.published import PublishedDataset, PublishedFile

DATASET = PublishedDataset(
    name="gpt2",
    title="The byte-pair encoding of GPT-2",
    files={
        "vocabulary": PublishedFile(
            "encoder.json",
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
            aliases=("vocab.json",),
        ),
        "merges": PublishedFile(
            "vocab.bpe",
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            aliases=("merges.txt",),
        ),
    },
    folders=("gpt2",),
    system=None,
    mirrors=("https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/",),
    advice=(
        "put its files encoder.json and vocab.bpe (or vocab.json and merges.txt) into the subfolder gpt2 of a folder, "
        "and set --data-dir or DASHPOT_DATA to this folder, or use the tier cpu, whose vocabulary is trained on the "
        "text"
    ),
)


def load(data_dir: str | os.PathLike[str] | None = None) -> BytePairs:
    """Load the encoding from the first available source: the user's folder, the per-user cache, or a download.

    Args:
        data_dir: Folder to search first, or None.

    Raises:
        DataError: If a file is damaged, or the files are not found and cannot be downloaded.
    """
    files = load_files(DATASET, data_dir)
    return from_merges(files["vocabulary"], files["merges"])
