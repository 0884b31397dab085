"""Scans with labels become a checkpoint."""

from medattn_edge.training.amounts import LabelAmount, label_amounts
from medattn_edge.training.cases import Case, Label, check_labels, read_cases
from medattn_edge.training.choice import Wishes, choose_spec
from medattn_edge.training.evaluate import Score, evaluate
from medattn_edge.training.fit import fit
from medattn_edge.training.losses import training_loss
from medattn_edge.training.resume import is_finished, resume_path
from medattn_edge.training.schedule import duration
from medattn_edge.training.settings import Epoch, Output, Result, TrainingSettings, Watch
from medattn_edge.training.split import Part, split_cases
from medattn_edge.training.start import initial_network

__all__ = [
    "Case",
    "Epoch",
    "Label",
    "LabelAmount",
    "Output",
    "Part",
    "Result",
    "Score",
    "TrainingSettings",
    "Watch",
    "Wishes",
    "check_labels",
    "choose_spec",
    "duration",
    "evaluate",
    "fit",
    "initial_network",
    "is_finished",
    "label_amounts",
    "read_cases",
    "resume_path",
    "split_cases",
    "training_loss",
]
