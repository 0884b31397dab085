"""Artifacts -> what a server of somebody else's needs to compute them, and whether it does."""

from medattn_edge.serving.canary import CanaryResult, check_served, failure_json, remote_files
from medattn_edge.serving.triton_repository import NativeSettings, ServedModel, write_repository

__all__ = [
    "CanaryResult",
    "NativeSettings",
    "ServedModel",
    "check_served",
    "failure_json",
    "remote_files",
    "write_repository",
]
