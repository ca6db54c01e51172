"""Where the parts of a merged model lie in its folder, on disk and in the object store alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODEL = "model"
HEADS = "heads"
COEFFICIENTS = "coefficients.safetensors"
PRECISION = "precision.json"
MANIFEST = "manifest.json"
REPORT = "report"
PROBE = "probe.json"
CODE = "code"
# Files of a base that a model needs beside its weights end so; none could be code or a pickle. The
# last four are vocabularies, of Marian, PhoBERT, ProphetNet and of what was trained with tiktoken.
COMPANIONS = (
    *(".json", ".txt", ".model", ".jinja"),
    *(".spm", ".codes", ".tokenizer", ".tiktoken"),
)


@dataclass(frozen=True)
class MergedFolder:
    """The folder of a merged model; it need not exist, and need not be whole yet."""

    path: Path

    @property
    def model(self) -> Path:
        """The merged backbone, as transformers saves one."""
        return self.path / MODEL

    def head(self, task: str) -> Path:
        """One task's head, as `Head.save` writes it."""
        return self.path / HEADS / task

    @property
    def coefficients(self) -> Path:
        """The effective coefficients, as `Coefficients.save` writes them."""
        return self.path / COEFFICIENTS

    @property
    def precision(self) -> Path:
        """What it was written in and what that cost, as `Precision.save` writes it."""
        return self.path / PRECISION

    @property
    def manifest(self) -> Path:
        """What it was made of, and the digest of every file; written last."""
        return self.path / MANIFEST

    @property
    def report(self) -> Path:
        """The report on the merge, pages and data."""
        return self.path / REPORT

    @property
    def probe(self) -> Path:
        """A few questions with known answers."""
        return self.path / PROBE

    @property
    def code(self) -> Path:
        """The module that MLflow loads the model with."""
        return self.path / CODE
