"""Every architecture of the installed transformers, sent the whole way as a small random model.

    python -m benchmarks.architectures                         # prints a table for each kind
    python -m benchmarks.architectures --kind generator --only llama
    python -m benchmarks.architectures --write                 # and puts them into docs/method.md

A base and an expert, whose every parameter lies a little elsewhere, are saved as transformers saves
them. The expert goes through preflight, two steps of learning and materialising with coefficients 1;
what is loaded of the result then has to answer as transformers does with the expert's own folder. Each
architecture runs in a process of its own, so that none stops the table. All take about ten minutes.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.utils import logging as transformers_logging

from benchmarks.small_configs import Architecture, architectures
from benchmarks.small_models import examples, save_models
from merging.errors import MergeQueueError
from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert, ExpertFiles, open_expert
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.learning.learn import learn_coefficients
from merging.models.coefficients import Coefficients
from merging.models.evaluate import LoadedModel
from merging.models.materialise import materialise
from merging.preflight.expert import check_expert
from merging.preflight.proof import prove
from merging.serving import TaskError, class_scores, decode_image
from merging.settings import MergeSettings
from merging.vectors.backbone import Backbone
from merging.vectors.expert_set import ExpertSet

CPU = torch.device("cpu")
SECONDS = 300  # An architecture that takes longer hangs.
ASKED = 4  # Examples whose answers are compared.
NEW_TOKENS = 8  # Length of the texts that generators write.
CLOSE = 1e-4  # Largest difference that rounding makes, of the spread of the logits.
PAGE = Path("docs/method.md")
MARKS = ("<!-- architectures -->", "<!-- end of architectures -->")
Status = Literal["exact", "refused", "absent", "wrong", "crashed"]


class Outcome(NamedTuple):
    """What became of one architecture.

    Attributes:
        status: `absent` where transformers, as it is installed, makes no model that answers.
        reason: The largest difference of two logits, or one sentence.
        seconds: Wall-clock time.
    """

    status: Status
    reason: str
    seconds: float = 0.0


class Answers(NamedTuple):
    """Logits of each example, fp32 [classes] or [tokens, words], and the texts of a generator."""

    logits: list[Tensor]
    texts: list[str]


def send_the_whole_way(one: Architecture, folder: Path) -> Outcome:
    """What becomes of one architecture; whatever is raised after preflight is a crash."""
    torch.manual_seed(0)
    rows = examples(one.kind)
    base, directory = folder / "base", folder / "expert"
    try:
        save_models(one, base, directory)
        rows.to_parquet(directory / "examples.parquet")
        model, reader = one.auto.from_pretrained(directory), load_reader(one.kind, directory)
        expected = ask(one, model, reader, rows[:ASKED])
    except Exception as error:  # noqa: BLE001 - transformers raises anything
        return Outcome("absent", sentence(error))
    try:
        files = ExpertFiles(directory)
        opened = Checkpoint.open(base)
        mismatches = check_expert(opened, files, one.kind)
        if not mismatches:
            expert = open_expert("task", files, one.kind)
            mismatches = prove(opened, expert, one.kind)
        for found in mismatches:
            where = re.sub(r"[\w.]*\.\d+\.[\w.]*", "a tensor", found.tensor)
            what = found.found.rstrip(".")
            reason = f"{where}: expected {found.expected}, found {what}. {found.remedy}"
            return Outcome("refused", without_folders(reason).strip())
    except (MergeQueueError, TaskError) as error:
        return Outcome("refused", sentence(error))
    merged = merge(one, base, expert, folder)
    return compare(expected, ask_merged(one, merged, reader, rows[:ASKED]))


def merge(one: Architecture, base: Path, expert: Expert, folder: Path) -> LoadedModel:
    """The merged model of one expert with coefficients 1, after two steps of learning."""
    experts = ExpertSet.open(base, [expert], one.kind)
    settings = MergeSettings(steps=2, batch_size=4)
    learned = learn_coefficients(experts, settings, work=folder / "work", device=CPU)
    ones = {name: torch.ones_like(c) for name, c in learned.coefficients.values.items()}
    alone = Coefficients(experts.tasks, ones)
    merged = materialise(experts, alone, experts.heads, folder / "merged")
    head = Head.load(merged.head("task"), "task")
    return LoadedModel(Backbone.open(merged.model, one.kind), head, one.kind, CPU)


def load_reader(kind: ModelKind, directory: Path) -> Any:
    """What reads the inputs, as transformers loads it."""
    if kind.reads_images:
        return AutoImageProcessor.from_pretrained(directory, backend="pil")
    return AutoTokenizer.from_pretrained(directory)


@torch.inference_mode()
def ask(one: Architecture, model: Any, reader: Any, rows: pd.DataFrame) -> Answers:
    """Logits and greedy texts as transformers gives them, one example after another."""
    given = list(rows[one.kind.input_column])
    if one.kind.reads_images:
        inputs = [reader(decode_image(image), return_tensors="pt") for image in given]
    else:
        inputs = [reader(text, return_tensors="pt") for text in given]
    if one.kind.has_head:
        return Answers([model(**values).logits[0] for values in inputs], [])
    answers = Answers([], [])
    for values, target in zip(inputs, rows[one.kind.target_column], strict=True):
        wanted = reader(target, add_special_tokens=False, return_tensors="pt")["input_ids"]
        length = 0
        if model.config.is_encoder_decoder:
            start = torch.tensor([[model.config.decoder_start_token_id]])
            given_tokens = torch.cat([start, wanted[:, :-1]], 1)
            answers.logits.append(model(**values, decoder_input_ids=given_tokens).logits[0])
        else:
            length = values["input_ids"].shape[1]
            both = torch.cat([values["input_ids"], wanted], 1)
            answers.logits.append(model(both, attention_mask=torch.ones_like(both)).logits[0])
        tokens = model.generate(**values, do_sample=False, num_beams=1, max_new_tokens=NEW_TOKENS)
        answers.texts.append(reader.decode(tokens[0, length:], skip_special_tokens=True).strip())
    return answers


def ask_merged(one: Architecture, merged: LoadedModel, reader: Any, rows: pd.DataFrame) -> Answers:
    """The same of a merged model, all examples in one batch where it is served so."""
    given = list(rows[one.kind.input_column])
    if one.kind.has_head:
        return Answers(list(class_scores(merged.model, merged.encoder, given, CPU)), [])
    merged.encoder.settings.max_new_tokens = NEW_TOKENS
    texts = [str(text) for text in merged.answer(given)]
    return Answers(ask(one, merged.model, reader, rows).logits, texts)


def compare(expected: Answers, found: Answers) -> Outcome:
    """Whether answers are the same, as far as rounding goes."""
    pairs = zip(expected.logits, found.logits, strict=True)
    difference = max(float((ours.float() - theirs.float()).abs().max()) for ours, theirs in pairs)
    spread = float(torch.cat([logits.flatten() for logits in expected.logits]).float().std())
    if not difference < CLOSE * spread:
        return Outcome(
            "wrong", f"logits differ by {difference:.2g}, where they spread {spread:.2g}"
        )
    if expected.texts != found.texts:
        return Outcome("wrong", f"expected to write {expected.texts}, found {found.texts}")
    return Outcome("exact", f"{difference:.0e}")


def try_one(one: Architecture) -> Outcome:
    """Sends one architecture the whole way in a process of its own."""
    start = time.perf_counter()
    context = multiprocessing.get_context("fork")  # Everything is imported already.
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(one, sending))
    process.start()
    sending.close()
    try:
        found = receiving.recv() if receiving.poll(SECONDS) else Outcome("crashed", "it hangs")
    except EOFError:
        found = Outcome("crashed", "its process died")
    process.kill()
    process.join()
    return Outcome(found.status, found.reason, time.perf_counter() - start)


def _report(one: Architecture, connection: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = send_the_whole_way(one, Path(folder))
        except Exception as error:  # noqa: BLE001 - which is what the table is to show
            outcome = Outcome("crashed", f"{type(error).__name__}: {sentence(error)}")
    connection.send(outcome)


def sentence(error: Exception) -> str:
    """The beginning of an error's message."""
    text = without_folders(str(error))
    return text if len(text) < 300 else f"{text[:300]} …"


def without_folders(text: str) -> str:
    """A message on one line, and without what differs from run to run."""
    return re.sub(r"/\S*/(base|expert)\b", r"\1", " ".join(text.split()))


def rows_of(kind: ModelKind, outcomes: dict[str, Outcome]) -> Iterator[str]:
    """The table of one kind in Markdown; architectures of which the same is true share a row."""
    together: dict[tuple[Status, str], list[str]] = {}
    for name, outcome in outcomes.items():
        reason = "" if outcome.status == "exact" else outcome.reason
        together.setdefault((outcome.status, reason), []).append(name)
    yield f"| {kind} | architectures |"
    yield "|---|---|"
    for (status, reason), names in sorted(together.items()):
        if status == "exact":
            largest = max(float(outcomes[name].reason) for name in names)
            reason = f"two logits differ by at most {largest:.0e}"
        text = reason.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
        yield f"| {status} ({len(names)}): {text} | {', '.join(names)} |"


def main() -> None:
    """Prints the tables, and writes them into the documentation if it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kind",
        type=ModelKind,  # type: ignore[arg-type]  # mypy asks for what a member is made of
        choices=list(ModelKind),
        action="append",
    )
    parser.add_argument("--only", action="append", help="only this model type")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE}")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tables: list[str] = []
    for kind in options.kind or ModelKind:
        tried = [one for one in architectures(kind) if one.name in (options.only or [one.name])]
        outcomes = {one.label: _shown(one) for one in tried}
        tables.append("\n".join(rows_of(kind, outcomes)))
    print("\n\n".join(tables))
    if options.write:
        write_tables(tables)


def _shown(one: Architecture) -> Outcome:
    outcome = try_one(one)
    print(
        f"{one.kind} {one.label}: {outcome.status}, {outcome.reason} ({outcome.seconds:.1f} s)",
        flush=True,
    )
    return outcome


def write_tables(tables: Sequence[str]) -> None:
    """Puts the tables between their marks in the documentation."""
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n" + "\n\n".join(tables) + f"\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
