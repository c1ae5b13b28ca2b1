"""Settings of a queue in its storage, which all workers must share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dashpot.errors import RunError
from dashpot.scheduling.optuna_library import load_optuna
from dashpot.scheduling.storage import Storage
from dashpot.utils.diff import diff_data
from dashpot.utils.strict_json import encode

FORMAT = 1
"""Version of the layout of studies, trials and their attributes."""
_FORMAT, _SETTINGS = "dashpot format", "settings"
_MOST_DIFFERENCES = 8


def study_name(*parts: str) -> str:
    """Return the name of an Optuna study; a slash within a part is escaped.

    >>> study_name("digits", "adam"), study_name("a/b")
    ('digits/adam', 'a%2Fb')
    """
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def create_study(storage: Storage, name: str, direction: str = "max") -> int:
    """Return the identity of an Optuna study, which is created if it is missing."""
    optuna = load_optuna()
    way = optuna.study.StudyDirection.MAXIMIZE if direction == "max" else optuna.study.StudyDirection.MINIMIZE

    def create(base: Any) -> int:
        try:
            return base.get_study_id_from_name(name)
        except KeyError:
            pass
        try:
            return base.create_new_study([way], name)
        except optuna.exceptions.DuplicatedStudyError:  # created by another worker at the same time
            return base.get_study_id_from_name(name)

    return storage.call(create)


def share_settings(storage: Storage, name: str, settings: Mapping[str, Any]) -> None:
    """Store the settings of a new queue, or compare them with those of an existing one.

    Raises:
        RunError: If the settings differ, or the storage contains something else under this name.
    """
    plain = json.loads(encode(dict(settings)))
    study = create_study(storage, study_name(name))
    attributes = storage.call(lambda base: base.get_study_user_attrs(study))
    if not attributes:
        _refuse_foreign(storage, name, study)
        storage.call(lambda base: base.set_study_user_attr(study, _SETTINGS, plain))
        storage.call(lambda base: base.set_study_user_attr(study, _FORMAT, FORMAT))
        attributes = storage.call(lambda base: base.get_study_user_attrs(study))
    _check_format(storage, name, attributes)
    if found := diff_data(attributes[_SETTINGS], plain):
        more = f"; and {len(found) - _MOST_DIFFERENCES} more" if len(found) > _MOST_DIFFERENCES else ""
        raise RunError(
            f"{storage.label} contains the study {name} with other settings: {'; '.join(found[:_MOST_DIFFERENCES])}"
            f"{more}. Choose another folder or storage, or use the saved settings."
        )


def _refuse_foreign(storage: Storage, name: str, study: int) -> None:
    if storage.call(lambda base: base.get_n_trials(study)):
        raise RunError(_foreign(storage, name))


def _check_format(storage: Storage, name: str, attributes: Mapping[str, Any]) -> None:
    if _SETTINGS not in attributes:
        raise RunError(_foreign(storage, name))
    found = attributes.get(_FORMAT, FORMAT)  # a worker was killed between the two attributes
    if found == FORMAT:
        return
    is_newer = isinstance(found, int) and found > FORMAT
    cure = "upgrade dashpot" if is_newer else "choose another folder or storage and run the study again"
    raise RunError(
        f"{storage.label} contains the study {name} in the {'newer' if is_newer else 'older'} format {found}, this "
        f"version uses format {FORMAT}: {cure}."
    )


def _foreign(storage: Storage, name: str) -> str:
    return (
        f"{storage.label} contains a study named {name} that was not created by dashpot: choose another storage, or "
        f"another name of the study."
    )
