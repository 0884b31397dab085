"""Names of nodes that OpenVINO gives by itself: they count up through a process, and a file would differ with each."""

from __future__ import annotations

import re
from typing import Any


def name_by_place(model: Any) -> int:
    """Name those nodes after their place in the graph, so that the same graph is written as the same bytes.

    A node that came with a name keeps it.

    Args:
        model: of OpenVINO; it is changed.

    Returns:
        How many nodes got a new name.
    """
    # Never `==` between nodes: there it makes another one.
    names = [(one, one.get_type_name(), one.get_friendly_name()) for one in model.get_ordered_ops()]
    own = [re.fullmatch(rf"{kind}_\d+", name) is None for _, kind, name in names]
    taken = {name for (_, _, name), kept in zip(names, own, strict=True) if kept}
    for place, ((node, kind, _), kept) in enumerate(zip(names, own, strict=True)):
        if not kept:
            name = f"{kind}/{place}"
            node.set_friendly_name(f"{name}/generated" if name in taken else name)
    return own.count(False)
