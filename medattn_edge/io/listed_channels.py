"""A scan of a list: the file of its first channel, and those of the others under the names that the network has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medattn_edge.errors import UsageError
from medattn_edge.io.channels import ChannelScan
from medattn_edge.io.scan import Scan
from medattn_edge.spec import ModelSpec


class ListedChannels(ChannelScan):
    """One scan without a channel's name and others with theirs: the first is the channel that no other one is."""

    def __init__(self, first: Scan, others: Mapping[str, Scan], *, resample_to_first: bool = False) -> None:
        """Nothing but the paths' kinds is looked at.

        Args:
            first: labels lie on its grid.
            others: by the network's name of their channel.
            resample_to_first: as for ChannelScan.

        Raises:
            UsageError: a scan comes twice.
        """
        super().__init__({"scan": first, **others}, resample_to_first=resample_to_first)
        self._others = {name: scan.path for name, scan in others.items()}

    def _assigned(self, spec: ModelSpec) -> list[tuple[str, Path]]:
        own = [name for name in spec.channels if name not in self._others]
        if len(own) != 1 or len(self._others) + 1 != len(spec.channels):
            raise UsageError(
                f"a scan with the further channels {', '.join(self._others)}",
                expected=f"all but one of the network's channels: {', '.join(spec.channels) or 'it names none'}",
                hint=f"a list with the columns scan,{','.join(spec.channels[1:]) or 'case'}",
            )
        paths = {own[0]: self.paths[0], **self._others}
        return [(name, paths[name]) for name in spec.channels]
