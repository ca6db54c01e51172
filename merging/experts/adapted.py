"""What an adapter makes of its base's tensors.

PEFT is asked: it puts the adapter on a model of stand-ins, which take no memory. Which factors belong
to which tensor, which way round they lie, what a pattern of names means and what is tied to what is
PEFT's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.experts.adapters import MERGE_IT, AdapterFiles
from merging.experts.checkpoint import Checkpoint
from merging.experts.forms import Form, LowRank, Scaling, same
from merging.experts.peft_model import places_with
from merging.experts.stand_ins import StandIns
from merging.kinds import ModelKind
from merging.serving import TaskError, load_model


@dataclass(frozen=True)
class Change:
    """What becomes of one tensor of the base.

    Attributes:
        whole: The tensor as the adapter brings it; None where it is the base's.
        form: What is added to that.
    """

    whole: Tensor | None = None
    form: Form | None = None

    def applied(self, original: Tensor) -> Tensor:
        """The tensor that the adapter makes of the base's, `original`; fp32 in its shape."""
        start = (original if self.whole is None else self.whole).float()
        return start if self.form is None else start + self.form.dense(start)

    def delta(self, original: Tensor) -> Tensor | LowRank | Scaling | None:
        """The task vector: in factors where the adapter brings nothing else, or an fp32 tensor."""
        if self.whole is None and (self.form is None or isinstance(self.form, LowRank | Scaling)):
            return self.form
        return self.applied(original) - original.float()


class Adapted(NamedTuple):
    """An adapter on its base.

    Attributes:
        changes: By canonical name of the base's tensor; those that it leaves alone are not there.
        head: The tensors of the task model that the base does not have, by their names in it.
    """

    changes: Mapping[str, Change]
    head: Mapping[str, Tensor]


def put_on(
    files: AdapterFiles, base: Checkpoint, config: Mapping[str, Any], kind: ModelKind
) -> Adapted:
    """Puts an adapter on its base.

    Args:
        files: The adapter.
        base: Its base.
        config: The task model's configuration.
        kind: The kind of model.

    Raises:
        InvalidInput: PEFT cannot put it there, or what comes out is no change of the base's tensors.
    """
    _check_task(files, kind)
    stand_ins = StandIns.of(base, kind)
    own_head = {name: base.read(name) for name in base.head} if kind.has_head else {}
    try:
        model, absent = load_model(config, kind, {**own_head, **stand_ins.tensors})
    except TaskError as error:
        raise _refused(
            files, f"a {kind}", str(error), "Register it to a family of its kind."
        ) from error
    backbone = f"{model.base_model_prefix}." if kind.has_head else ""
    changes: dict[str, Change] = {}
    users: dict[str, str] = {}
    head: dict[str, Tensor] = {}
    for path, place in places_with(files, model).items():
        change = Change(place.whole, place.form)
        if (name := stand_ins.name_of(place.before)) is not None:
            change = _against_base(files, path, change, base.read(name))
            if name in users and not _same(change, changes[name]):
                raise _tied(files, users[name], path)
            changes[name], users[name] = change, path
        elif path in absent and change.whole is None:
            module = path.rpartition(".")[0]
            raise _refused(
                files,
                "every tensor of the task model in the base or in the adapter",
                f"none for {path}",
                "Training began with a module made up by chance, and PEFT saves what `modules_to_save` "
                f"names: with the trained model still in memory, add {module!r} there and save the "
                "adapter again, or save the merged model (`merge_and_unload`) and register that.",
            )
        elif path in absent or not path.startswith(backbone):
            head[path] = change.applied(place.before)
        elif change != Change():
            raise _refused(
                files,
                "changes of tensors that the base has as they are",
                f"one of {path}, which transformers puts together from several",
                "Train an adapter that leaves it alone; the experts of a mixture cannot be merged yet.",
            )
    return Adapted({name: change for name, change in changes.items() if change != Change()}, head)


def _check_task(files: AdapterFiles, kind: ModelKind) -> None:
    """Heads of several tasks have the same names and shapes, so the adapter's own word is taken."""
    task = files.config.get("task_type")
    fitting = ("SEQ_CLS",) if kind.has_head else ("CAUSAL_LM", "SEQ_2_SEQ_LM")
    if task not in (None, "FEATURE_EXTRACTION", *fitting):
        raise _refused(
            files,
            f"an adapter of a {kind} (task_type {' or '.join(fitting)}, or none)",
            f"task_type {task}",
            "Register it to a family of its kind.",
        )


def _against_base(files: AdapterFiles, path: str, change: Change, original: Tensor) -> Change:
    """A change without a copy of what the base has anyway."""
    if change.form is not None and not change.form.fits(original.shape):
        found = [list(tensor.shape) for tensor in change.form.tensors()]
        expected = f"a change of {path} in its shape {list(original.shape)}"
        raise _refused(files, expected, f"one of shapes {found}", MERGE_IT)
    if change.whole is not None and torch.equal(change.whole.float(), original.float()):
        return Change(None, change.form)
    return change


def _same(one: Change, other: Change) -> bool:
    return same(one.whole, other.whole) and same(one.form, other.form)


def _tied(files: AdapterFiles, first: str, second: str) -> InvalidInput:
    return _refused(
        files,
        f"one change for {first} and {second}, which are one tensor in the base (tied weights)",
        "one that PEFT makes to them apart",
        "Such an adapter has no place in a model whose weights are tied: train it without these "
        "modules, or with `ensure_weight_tying=True` and the input embedding as target; or give the "
        "family a base that was saved with `tie_word_embeddings` false and both tensors.",
    )


def _refused(files: AdapterFiles, expected: str, found: str, remedy: str) -> InvalidInput:
    return InvalidInput(where=str(files.directory), expected=expected, found=found, remedy=remedy)
