"""Segmentation in worker processes, which the node watches over."""
