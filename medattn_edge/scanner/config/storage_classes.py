"""The storage classes that a node may take, by keyword or UID."""

from __future__ import annotations

import difflib

from medattn_edge.errors import UsageError


def sop_class_uid(name: str) -> str:
    """The UID of a storage class, from its keyword or the UID itself. Raises UsageError, with the nearest keyword."""
    from pydicom._uid_dict import UID_dictionary

    known = {keyword: uid for uid, (_, kind, _, _, keyword) in UID_dictionary.items() if kind == "SOP Class"}
    storage = {keyword: uid for keyword, uid in known.items() if keyword.endswith("Storage")}
    if name in storage:
        return str(storage[name])
    if name in storage.values() or (name[:1].isdigit() and name not in known.values()):
        return name  # a private class is the site's own business
    near = difflib.get_close_matches(name, storage, n=1)
    raise UsageError(
        f"the SOP class {name!r}",
        expected="the keyword or the UID of a storage class",
        hint=(near or ["CTImageStorage"])[0],
    )
