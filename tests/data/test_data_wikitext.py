"""WikiText in a folder and as an archive, with small texts in place of the published ones."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile

import pytest

from dashpot.data import loading, wikitext
from dashpot.data.warn_once import warn_once
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256

TEXTS = {
    part: f" \n = {part} = \n \n The <unk> of {part} was @-@ re built in 1900 . \n".encode() for part in wikitext.PARTS
}


def archive(texts=TEXTS) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for part, text in texts.items():
            file.writestr(f"wikitext-2/wiki.{'valid' if part == 'validation' else part}.tokens", text)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Replace the published checksums by those of `TEXTS`, and isolate the cache."""
    for variant in wikitext.VARIANTS:
        files = {
            part: dataclasses.replace(
                file, sha256=None, size=None, sha1=hashlib.sha1(TEXTS[part], usedforsecurity=False).hexdigest()
            )
            for part, file in wikitext.FILES[variant].files.items()
        }
        monkeypatch.setitem(wikitext.FILES, variant, dataclasses.replace(wikitext.FILES[variant], files=files))
        zipped = dataclasses.replace(wikitext.ARCHIVES[variant].files["archive"], sha256=sha256(archive()))
        replaced = dataclasses.replace(wikitext.ARCHIVES[variant], files={"archive": zipped}, mirrors=())
        monkeypatch.setitem(wikitext.ARCHIVES, variant, replaced)
    monkeypatch.setattr(loading, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("DASHPOT_DATA", raising=False)
    warn_once.cache_clear()
    return tmp_path / "mine"


def write(folder, names, texts=TEXTS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, texts.values(), strict=True):
        (folder / name).write_bytes(text)


OFFICIAL = ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens")


@pytest.mark.parametrize("names", [OFFICIAL, ("train.txt", "valid.txt", "test.txt")])
@pytest.mark.parametrize("variant", wikitext.VARIANTS)
def test_load_detects_variant_and_names_in_user_folder(small, names, variant):
    write(small / variant, names)
    text = wikitext.load(small)
    assert (text.variant, text.complete) == (variant, True)
    assert (text.train, text.validation, text.test) == tuple(TEXTS.values())
    assert text.sha256 == dict(zip(OFFICIAL, map(sha256, TEXTS.values()), strict=True))


def test_load_prefers_first_of_variants(small):
    for variant in wikitext.VARIANTS:
        write(small / variant, OFFICIAL)
    assert wikitext.load(small).variant == "wikitext-2"
    assert wikitext.load(small, ("wikitext-103", "wikitext-2")).variant == "wikitext-103"


@pytest.mark.parametrize("folder", ["", "wikitext-2", "cache"])
def test_load_unpacks_archive_of_user_folder_or_cache(small, tmp_path, folder):
    place = tmp_path / "cache" / "wikitext-2" if folder == "cache" else small / folder
    small.mkdir()
    place.mkdir(parents=True, exist_ok=True)
    (place / "wikitext-2-v1.zip").write_bytes(archive())
    text = wikitext.load(small)
    assert (text.variant, text.complete) == ("wikitext-2", True)
    assert (text.train, text.validation, text.test) == tuple(TEXTS.values())


def test_load_without_training_part_uses_test_part_and_warns_once(small, logged):
    write(small / "wikitext-2", OFFICIAL)
    (small / "wikitext-2" / "wiki.train.tokens").unlink()
    for _ in range(2):
        text = wikitext.load(small)
    assert not text.complete
    assert (text.train, text.validation, text.test) == (TEXTS["test"], TEXTS["validation"], b"")
    assert set(text.sha256) == set(OFFICIAL[1:])
    assert logged.levels == ["WARNING"]
    assert logged.text.startswith("WikiText-2 has no training part (wiki.train.tokens or train.txt) in the data folder")
    assert "figures are not comparable with published ones" in logged.text


@pytest.mark.parametrize("missing", OFFICIAL[1:])
def test_load_from_incomplete_folder_raises(small, missing):
    write(small / "wikitext-2", OFFICIAL)
    (small / "wikitext-2" / missing).unlink()
    with pytest.raises(DataError, match=rf"WikiText-2 in .* is incomplete: {missing} is missing\.$"):
        wikitext.load(small)


def test_load_from_folder_with_one_file_names_the_others(small):
    write(small / "wikitext-2", OFFICIAL)
    for missing in OFFICIAL[:2]:
        (small / "wikitext-2" / missing).unlink()
    with pytest.raises(DataError, match=r"is incomplete: wiki\.train\.tokens, wiki\.valid\.tokens are missing\.$"):
        wikitext.load(small)


@pytest.mark.parametrize("part", wikitext.PARTS)
def test_load_truncated_file_raises_and_leaves_it(small, part):
    write(small / "wikitext-2", OFFICIAL, TEXTS | {part: TEXTS[part][:-1]})
    with pytest.raises(DataError, match=r"is damaged \(its content differs\): expected sha1 .*; it was left unchanged"):
        wikitext.load(small)


def test_load_different_archive_raises(small):
    small.mkdir()
    (small / "wikitext-2-v1.zip").write_bytes(archive(TEXTS | {"test": b"other"}))
    with pytest.raises(DataError, match=r"wikitext-2-v1\.zip is damaged .*: expected sha256"):
        wikitext.load(small)


def test_load_without_data_raises_with_files_and_folder(small):
    with pytest.raises(DataError, match=r"^WikiText-103 was not found; put wikitext-103-v1\.zip, or the files wiki"):
        wikitext.load(None, ("wikitext-103", "wikitext-2"))


def test_published_checksums_are_unique_and_complete():
    archives = [dataset.files["archive"] for dataset in wikitext.ARCHIVES.values()]
    assert [file.name for file in archives] == ["wikitext-2-v1.zip", "wikitext-103-v1.zip"]
    assert all(set(dataset.files) == set(wikitext.PARTS) for dataset in wikitext.FILES.values())
