"""WikiText-2 and WikiText-103: articles of Wikipedia with 2 and 103 million words.

Source: Merity, Xiong, Bradbury and Socher, "Pointer sentinel mixture models", arXiv:1609.07843. Licence: CC BY-SA 3.0.
The SHA-256 of the archives are those of CorpusLoaders.jl, and the SHA-1 of the files those of GluonNLP.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dashpot.data.archive import members
from dashpot.data.find import find, user_folder
from dashpot.data.loading import load_files, user_files
from dashpot.data.published import PublishedDataset, PublishedFile
from dashpot.data.warn_once import warn_once
from dashpot.utils.atomic_files import sha256

PARTS = ("train", "validation", "test")

VARIANTS = ("wikitext-2", "wikitext-103")


class WikiText(NamedTuple):
    """A WikiText data set in UTF-8.

    `variant` is "wikitext-2" or "wikitext-103". `complete` is False if the training part was not available: then
    `train` is the published test part, `validation` the published validation part, and `test` is empty. `sha256` maps
    the published names of the files that were used to the checksums of their content.
    """

    variant: str
    complete: bool
    train: bytes
    validation: bytes
    test: bytes
    sha256: Mapping[str, str]


def _file(part: str, sha1: str, size: int | None = None, sha256: str | None = None) -> PublishedFile:
    return PublishedFile(f"wiki.{part}.tokens", sha256, size=size, sha1=sha1, aliases=(f"{part}.txt",))


def _dataset(variant: str, files: Mapping[str, PublishedFile]) -> PublishedDataset:
    return PublishedDataset(variant, variant.replace("wikitext", "WikiText"), files, (variant,), None, (), "")


FILES: Mapping[str, PublishedDataset] = {
    "wikitext-2": _dataset(
        "wikitext-2",
        {
            "train": _file("train", "863f29c46ef9d167fff4940ec821195882fe29d1"),
            "validation": _file(
                "valid",
                "0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422",
                1_121_681,
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            ),
            "test": _file(
                "test",
                "c7b8ce0aa086fb34dab808c5c49224211eb2b172",
                1_256_449,
                "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            ),
        },
    ),
    "wikitext-103": _dataset(
        "wikitext-103",
        {
            "train": _file("train", "b7497e2dfe77e72cfef5e3dbc61b7b53712ac211"),
            "validation": _file("valid", "c326ac59dc587676d58c422eb8a03e119582f92b"),
            "test": _file("test", "8a5befc548865cec54ed4273cf87dbbad60d1e47"),
        },
    ),
}
"""The files of each variant, in the user's folder."""


def _archive(variant: str, checksum: str) -> PublishedDataset:
    name = f"{variant}-v1.zip"
    return dataclasses.replace(
        FILES[variant],
        files={"archive": PublishedFile(name, checksum)},
        folders=(variant, ""),
        mirrors=("https://wikitext.smerity.com/", "https://s3.amazonaws.com/research.metamind.io/wikitext/"),
        advice=(
            f"put {name}, or the files wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens (or train.txt, "
            f"valid.txt and test.txt), into the subfolder {variant} of a folder, and set --data-dir or DASHPOT_DATA to "
            "this folder"
        ),
    )


ARCHIVES: Mapping[str, PublishedDataset] = {
    "wikitext-2": _archive("wikitext-2", "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"),
    "wikitext-103": _archive("wikitext-103", "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"),
}
"""The published archive of each variant."""


def load(data_dir: str | os.PathLike[str] | None = None, variants: Sequence[str] = VARIANTS) -> WikiText:
    """Load WikiText from the first available source.

    The sources are the user's folder, i.e. `data_dir` or the environment variable `DASHPOT_DATA`, with the files or
    the archive of the first of `variants` that it contains, and then the archive of `variants[0]` from the per-user
    cache or a download. If the user's folder contains only the validation and test parts of a variant, the test part
    becomes the training part, and a warning is logged once.

    Args:
        data_dir: Folder to search first, or None.
        variants: Names of `VARIANTS` in order of preference.

    Raises:
        DataError: If a file is damaged or a different text, the user's folder is incomplete, or the data set is not
            found and cannot be downloaded.
    """
    for variant in variants:
        found = _from_folder(variant, data_dir)
        if found is not None:
            return found
    return _unpacked(variants[0], load_files(ARCHIVES[variants[0]], data_dir)["archive"])


def _from_folder(variant: str, data_dir: str | os.PathLike[str] | None) -> WikiText | None:
    folder = user_folder(data_dir)
    paths = {} if folder is None else find(FILES[variant], folder, FILES[variant].folders)
    if set(paths) == {"validation", "test"}:
        return _without_training_part(variant, data_dir)
    if paths:
        return _wikitext(variant, user_files(FILES[variant], data_dir) or {})
    archive = user_files(ARCHIVES[variant], data_dir)
    return None if archive is None else _unpacked(variant, archive["archive"])


def _without_training_part(variant: str, data_dir: str | os.PathLike[str] | None) -> WikiText:
    dataset = FILES[variant]
    parts = {part: file for part, file in dataset.files.items() if part != "train"}
    files = user_files(dataclasses.replace(dataset, files=parts), data_dir) or {}
    warn_once(
        f"{dataset.title} has no training part ({dataset.files['train'].name} or train.txt) in the data folder: "
        "training uses its test part and evaluation its validation part, and figures are not comparable with published "
        "ones."
    )
    return WikiText(variant, False, files["test"], files["validation"], b"", _checksums(variant, files))


def _unpacked(variant: str, archive: bytes) -> WikiText:
    dataset = FILES[variant]
    names = {part: f"{variant}/{file.name}" for part, file in dataset.files.items()}
    content = members(archive, names.values(), owner=f"The archive of {dataset.title}")
    return _wikitext(variant, {part: content[name] for part, name in names.items()})


def _wikitext(variant: str, files: Mapping[str, bytes]) -> WikiText:
    return WikiText(variant, True, *(files[part] for part in PARTS), sha256=_checksums(variant, files))


def _checksums(variant: str, files: Mapping[str, bytes]) -> Mapping[str, str]:
    return {FILES[variant].files[part].name: sha256(content) for part, content in files.items()}
