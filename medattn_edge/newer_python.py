"""What the standard library has since Python 3.11, for 3.10 too, which JetPack 6 ships."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from datetime import UTC
    from enum import StrEnum

    import tomllib
else:
    from datetime import timezone
    from enum import Enum

    import tomli as tomllib

    UTC = timezone.utc

    class StrEnum(str, Enum):
        """Members that are their values as texts, printed and formatted too; without `auto`."""

        def __str__(self) -> str:
            """The value."""
            return str(self.value)

        def __format__(self, format_spec: str) -> str:
            """The value, as a text is formatted."""
            return format(str(self.value), format_spec)


__all__ = ["UTC", "StrEnum", "tomllib"]
