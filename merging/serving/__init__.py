"""The merged model as one thing that answers: `{"task": ..., "inputs": [...]}`.

A copy of this package travels in `code/` of every merged model and MLflow loads the model through
`_load_pyfunc`, so it stands alone: nothing of this project is imported, and nothing is unpickled.
The same functions build the task models of learning and evaluation, so there is one answer to the
question how a backbone and a head become a model, and an input an answer.
"""

from __future__ import annotations

from .answers import ACCELERATOR_BATCH, class_scores, generate
from .encoder import (
    BATCH,
    BLIND_SETTINGS,
    LONGEST_TEXT,
    NEW_TOKENS,
    PADDINGS,
    Answer,
    Encoder,
    Row,
    read_processor,
)
from .images import IMAGE_FORMATS, MOST_PIXELS, decode_image, load_image
from .loading import (
    AUTO_CLASSES,
    GENERATION,
    WEIGHTS,
    WEIGHTS_INDEX,
    NotWhole,
    TaskError,
    assemble,
    auto_class,
    greedy_settings,
    label_names,
    load_model,
    model_class,
    parse_config,
    read_generation,
    read_weights,
)
from .model import MANIFEST, MergedModel, _load_pyfunc, verify_manifest

__all__ = [
    "ACCELERATOR_BATCH",
    "AUTO_CLASSES",
    "BATCH",
    "BLIND_SETTINGS",
    "GENERATION",
    "IMAGE_FORMATS",
    "LONGEST_TEXT",
    "MANIFEST",
    "MOST_PIXELS",
    "NEW_TOKENS",
    "PADDINGS",
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "Answer",
    "Encoder",
    "MergedModel",
    "NotWhole",
    "Row",
    "TaskError",
    "_load_pyfunc",
    "assemble",
    "auto_class",
    "class_scores",
    "decode_image",
    "generate",
    "greedy_settings",
    "label_names",
    "load_image",
    "load_model",
    "model_class",
    "parse_config",
    "read_generation",
    "read_processor",
    "read_weights",
    "verify_manifest",
]
