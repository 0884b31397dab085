"""The storage classes that a node may take, by keyword or UID."""

from __future__ import annotations

import difflib

from medattn_edge.errors import UsageError


def sop_class_uid(name: str) -> str:
    """The UID of a storage class, from its keyword or the UID itself. Raises UsageError, with the nearest keyword."""
    from pydicom import config, uid

    values = vars(uid).items()
    storage = {word: str(value) for word, value in values if word.endswith("Storage") and isinstance(value, uid.UID)}
    if name in storage:
        return storage[name]
    given = uid.UID(name, validation_mode=config.IGNORE)
    if name[:1].isdigit() and (given.keyword.endswith("Storage") or given.type != "SOP Class"):
        return name  # a private class is the site's own business
    near = difflib.get_close_matches(name, storage, n=1)
    raise UsageError(
        f"the SOP class {name!r}",
        expected="the keyword or the UID of a storage class",
        hint=(near or ["CTImageStorage"])[0],
    )
