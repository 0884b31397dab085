"""Folders in which other tools keep a trained network: MONAI bundles and nnU-Net results -> checkpoint with a spec."""

from medattn_edge.bundles.folder import OwnersFolder, kind_of_folder, read_folder

__all__ = ["OwnersFolder", "kind_of_folder", "read_folder"]
