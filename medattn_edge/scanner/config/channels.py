"""What no type of a key can tell of `channels` in [[model]]: whether they are those of the network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from medattn_edge.scanner.config.sections import Model
from medattn_edge.scanner.config.toml import Reader, as_toml
from medattn_edge.spec import ModelSpec


def channel_names(spec: ModelSpec) -> tuple[str, ...]:
    """What the channels of a network are called, in its order: by its spec, or by their numbers."""
    return spec.channels or tuple(f"channel {number}" for number in range(1, spec.in_channels + 1))


def checked_channels(model: Model, spec: ModelSpec, reader: Reader) -> Model:
    """The model whose channels have the names of the network's.

    Raises:
        UsageError: for channels that are not the network's in its order, or that no series could tell apart.
    """
    where = f"[[model]] {model.name}:"
    names = channel_names(spec)
    examples = (f'{{ name = {as_toml(name)}, description = "..." }}' for name in names)
    hint = f"channels = [{', '.join(examples)}]"
    if not model.channels and spec.in_channels == 1:
        if model.resample_to_first:
            raise reader.wrong(f"{where} resample_to_first", "stands without channels", "leave it out", "channels")
        return model
    if len(model.channels) != spec.in_channels or spec.in_channels == 1:
        what = f"has {len(model.channels)} for a network of {spec.in_channels} channel(s): {', '.join(names)}"
        hint = hint if spec.in_channels > 1 else "leave channels out"
        raise reader.wrong(f"{where} channels", what, hint, "one for each, of a network that has several")
    for channel, name in zip(model.channels, names, strict=True):
        if channel.name not in ("", name):
            what = f"has {channel.name!r} where the network has {name!r}"
            raise reader.wrong(f"{where} channels", what, hint, f"{', '.join(names)}, in this order")
    if model.volume:
        raise reader.wrong(f"{where} volume", "stands beside channels", "volume = 1 in a channel", "one or the other")
    channels = tuple(replace(one, name=name) for one, name in zip(model.channels, names, strict=True))
    for channel, count in Counter(replace(one, name="") for one in channels).items():
        if count > 1:
            what = f"has {count} with the description {channel.description!r}, so that no series could be told apart"
            raise reader.wrong(f"{where} channels", what, hint, "patterns that differ")
    return replace(model, channels=channels)
