"""Artifacts -> what a server of somebody else's needs to compute them."""

from medattn_edge.serving.triton_repository import NativeSettings, ServedModel, write_repository

__all__ = ["NativeSettings", "ServedModel", "write_repository"]
