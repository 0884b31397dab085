"""What the status page and `node status` say of a code: what happened, and what to do about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from medattn_edge.reasons import DELIVERY_REASONS, JOB_REASONS, READINESS_REASONS, SERIES_REASONS, Reason

UNKNOWN: Final = "a reason that this page has no words for"
# Of series that stay as they are when they are tried again: the repair comes with what is sent.
_SENT_AGAIN: Final = "a series that is sent again and whole comes in as a new version by itself"
_DECODER: Final = "unsupported_transfer_syntax"
_VOLUMES: Final = ("several_volumes", "no_such_volume")


def of_health(code: str) -> Reason:
    """Why a node is not ready."""
    return READINESS_REASONS.get(code) or Reason(code, UNKNOWN, "look for it in the log of the node")


def of_quarantine(code: str) -> Reason:
    """Why a series is in quarantine."""
    if code in SERIES_REASONS:
        reason = SERIES_REASONS[code]
        if code == _DECODER:  # the one that is about this host, and not about the series
            return replace(reason, action=f"{reason.action}; once a decoder is there, requeue the series", requeue=True)
        if code in _VOLUMES:  # the configuration says which one is taken
            action = "set volume = N in the [[model]] that takes it, reload, then requeue the series"
            return replace(reason, action=f"{action}; or send one volume: {_SENT_AGAIN}", requeue=True)
        return replace(reason, action=f"{reason.action}; {_SENT_AGAIN}")
    action = "look for it in the log of the node, then requeue the series"
    return JOB_REASONS.get(code) or Reason(code, UNKNOWN, action, requeue=True)


def of_delivery(code: str) -> Reason:
    """Why a destination did not take a result; it is tried again by itself until it is given up."""
    action = "look for delivery_failed in the log of the node"
    return DELIVERY_REASONS.get(code) or Reason(code, UNKNOWN, action, requeue=True)


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
