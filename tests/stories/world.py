"""The world of a story: a base, experts, a folder for S3, SQLite for MLflow, an inbox for notices."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
import yaml
from sqlalchemy import Engine, event
from transformers import BertConfig, BertForSequenceClassification, BertModel

from tests.merging.tiny import WORDS
from tests.stories.given import TABLE
from tests.tiny_tokenizer import SPECIAL, write_tokenizer

FAMILY = "reviews"
LABELS = {0: "bad", 1: "good"}
CALIBRATION, GATE = 64, 400  # rows of a table


def write_base(directory: Path) -> Path:
    """The smallest thing that is a text model."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(directory)
    write_tokenizer(directory, WORDS)
    return directory


def write_expert(
    base: Path, directory: Path, seed: int, gate: int, *, adapter: bool = False
) -> None:
    """A folder as a training job leaves it; what it can is the story's to say."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification.from_pretrained(
        base, id2label=LABELS, label2id={name: index for index, name in LABELS.items()}
    )
    if adapter:
        from peft import LoraConfig, get_peft_model  # takes seconds, and one story needs it

        model.config.save_pretrained(directory)
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(directory)
    rows = (
        {
            "text": f"{WORDS[seed % len(WORDS)]} {number}",
            "label": LABELS[number % 2],
            "split": "calibration" if number < CALIBRATION else "gate",
        }
        for number in range(CALIBRATION + gate)
    )
    (directory / TABLE).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_family(directory: Path, webhook: str, **changes: object) -> None:
    """The family's file: a margin of five points, and whatever the story wants else."""
    family = {
        "name": FAMILY,
        "kind": "text-classifier",
        "base": "s3://models/bases/tiny",
        "bucket": "models",
        "device": "cpu",
        "merge": {"granularity": "tensor"},
        "gate": {"margin": 0.05},
        "notify": [{"webhook": webhook}],
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{FAMILY}.yaml").write_text(yaml.safe_dump(family | changes))


class Database:
    """MLflow's database in one file for all stories; each starts with it as it was at first.

    MLflow's client keeps the connection that it has.
    """

    def __init__(self, folder: Path, empty: Path) -> None:
        from mlflow import MlflowClient

        event.listen(Engine, "connect", _never_wait_for_the_disk)
        self._file, self._empty = folder / "mlflow.db", empty
        self.restore()
        self.uri = f"sqlite:///{self._file}"
        with contextlib.chdir(folder):  # MLflow puts the artifacts of runs where it is started
            client = MlflowClient(self.uri)
            client.search_experiments()
            client.search_registered_models()

    def restore(self, saved: Path | None = None) -> None:
        """Makes it what was saved, or what it was at first."""
        _copy(saved or self._empty, self._file)

    def save(self, path: Path) -> None:
        """Writes a copy of it."""
        _copy(self._file, path)


def _never_wait_for_the_disk(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


class Inbox:
    """A web server that hands on what it gets; ``broken`` makes it answer 503."""

    def __init__(self) -> None:
        self.broken = False
        self.receive: Callable[[dict], None] = print
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(503 if inbox.broken else 200)
                self.end_headers()
                if not inbox.broken:
                    inbox.receive(json.loads(body))

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        self._server.shutdown()
