"""The proof: an expert, alone and with coefficient 1, answers as its author's library loads it.

A few of its own examples go both ways, through transformers or PEFT and through what learning,
evaluation and serving build, and are compared where the ways may part: token ids or pixel values,
tensors, logits, answers. Then learning takes half a step.

**Tolerance.** A tensor of ours is base + (θ − base), both in fp32. Each operation rounds by at most
2⁻²⁴ of its result, so it is off by at most 2⁻²⁴ (|base| + 2|θ|); a tensor may differ by 2⁻²⁰ of its
largest number, which is that with room for a base of eight times the expert's size. How far a model
carries such differences no formula says, so it is measured where logits differ by more than FLOOR of
the largest: the author's own model is asked again after each of its numbers was moved by 2⁻²², four
times the rounding, and what that changes, times CARRIED, is allowed, but never more than CEILING of
the largest logit. Where two experts of a mixture are about equally good for a token, either may be
taken; such a model shows it by the same measure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from merging.experts.checkpoint import Checkpoint
from merging.experts.expert import Expert
from merging.kinds import ModelKind
from merging.preflight.author import Author
from merging.preflight.mismatch import Mismatch
from merging.preflight.ours import Ours
from merging.preflight.readings import compare_readings
from merging.preflight.specimens import choose_specimens, shown
from merging.vectors.expert_set import ExpertSet

ROUNDING = 2.0**-20  # A tensor's difference, relative to its largest number.
FLOOR = 1e-5  # Difference of logits that needs no explanation, relative to the largest logit.
CARRIED = 16  # How many times the effect of a change by chance a difference may have.
CEILING = 0.005  # Largest difference of logits, relative to the largest logit.
NEW_TOKENS = 24  # Tokens of an answer that are compared.
LONGEST = 4000  # Characters of a text that the models are asked.
LEARNED = 2  # Examples of the pass that learns.
SHOWN = 5  # Tensors that are named.


LOADS = (
    "Try it with from_pretrained on this folder alone; save model and tokenizer again with "
    "save_pretrained of the libraries that are installed here."
)
CLASS = (
    "Save it from the class that it was trained with, and let config.json name that class "
    "(architectures); another class's head cannot be merged."
)
BUFFER = (
    "Statistics and other buffers are not merged: keep them as the base has them while fine-tuning "
    "(batch norms in evaluation mode)."
)
TENSOR = "Only trainable tensors are merged: leave this one as the base has it while fine-tuning."
SETTINGS = (
    "Its weights agree, so it is a setting of its folder that makes the difference: compare its "
    "config.json and generation_config.json with the base's."
)
ARCHITECTURE = "This architecture cannot be merged as it is; nothing is wrong with the fine-tuning."
TOGETHER = (
    "Its answers depend on what else is in a batch, most often by the padding, and merged models are "
    "asked in batches: this architecture cannot be merged as it is."
)
REMEMBERS = Mismatch(
    "model",
    "answers that follow the parameters",
    "values that are kept from one pass to the next while the parameters change",
    ARCHITECTURE,
)


def prove(
    base: Checkpoint,
    expert: Expert,
    kind: ModelKind,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[Mismatch, ...]:
    """The first place where an expert is another one here than at its author's; nothing if none.

    Args:
        base: The base checkpoint, whose names, shapes and values the expert is known to fit.
        expert: The expert.
        kind: The kind of model.
        told: Is told, once logits were compared, by how much they differ at most.
    """
    try:
        proof = Proof(ExpertSet(base, (expert,), kind))
        proof.run()
    except Parted as parted:
        return parted.mismatches
    told(
        f"Two logits differ by at most {proof.apart:.2g}, the largest is {proof.largest:.3g}, over "
        f"{len(proof.specimens)} examples asked one by one and together."
    )
    return ()


class Parted(Exception):
    """The two ways part here, so what comes after it cannot be compared."""

    def __init__(self, *mismatches: Mismatch) -> None:
        super().__init__(*mismatches)
        self.mismatches = mismatches


class Proof:
    """An expert both ways, and what is compared of them, each step only where those before agree.

    Attributes:
        apart: Largest difference of two logits that was seen.
        largest: The author's largest logit.
    """

    def __init__(self, alone: ExpertSet) -> None:
        self.alone = alone
        self.apart = self.largest = 0.0
        (self.expert,) = alone.experts
        self.specimens = choose_specimens(self.expert.split, LONGEST)
        with _refused("author's library", "a folder that transformers or PEFT loads", LOADS):
            self.author = Author(alone.base.directory, self.expert, alone.kind)
        if unused := [name for name in self.author.unexpected if name in self.expert.head.tensors]:
            named = f"{', '.join(unused[:SHOWN])}, which it does not use"
            expected = f"the tensors of a {type(self.author.model).__name__}"
            raise Parted(Mismatch("head", expected, named, CLASS))
        with _refused("merged model", "what learning and serving can build and ask", ARCHITECTURE):
            self.ours = Ours.of(alone, self.specimens.take([0]))
        self.author.positions = self.ours.positions

    def run(self) -> None:
        """Goes through all of it.

        Raises:
            Parted: At the first place where the two ways part.
        """
        inputs = self.expert.split.gate.inputs + self.expert.split.calibration.inputs
        if mismatches := tuple(compare_readings(self.author, self.ours, inputs)):
            raise Parted(*mismatches)
        if not self.expert.files.is_adapter:  # PEFT's way to merge one would spoil its answers.
            self.compare_tensors()
        self.compare_logits()
        if not self.alone.kind.has_head:
            self.compare_texts()
        del self.author  # A pass that learns takes memory too.
        self.learn()

    def compare_tensors(self) -> None:
        """Every parameter and buffer, by its name in the task model."""
        ours = self.ours.model.state_dict()
        buffers = dict(self.ours.model.named_buffers())
        found = []
        for name, theirs in self.author.tensors().items():
            if name not in ours or not _close(ours[name], theirs):
                remedy = BUFFER if name in buffers else TENSOR
                share = _share(ours[name], theirs) if name in ours else "absent"
                found.append(Mismatch(name, "the base's values, which are kept", share, remedy))
        if found:
            raise Parted(*found[:SHOWN])

    def compare_logits(self) -> None:
        """What learning and serving answer to the specimens, one by one and together."""
        inputs, encoded = self.specimens.inputs, self.ours.encode(self.specimens)
        with _refused("author's library", "answers to its own examples", LOADS):
            theirs = [
                self.author.logits(value, [t for t in one["labels"] if t >= 0])
                for value, one in zip(inputs, encoded, strict=True)
            ]
        with _refused("merged model", "answers to examples one by one and together", ARCHITECTURE):
            alone = [self.ours.logits([one])[0] for one in encoded]
            if not self._agree(theirs, alone) and self._remembers(theirs):
                raise Parted(REMEMBERS)
            self._compare(theirs, alone, "one by one", SETTINGS)
            self._compare(theirs, self.ours.logits(encoded), "together, in learning", TOGETHER)
            if self.alone.kind.has_head:
                served = [self.ours.scores([value])[0] for value in inputs]
                self._compare(theirs, served, "one by one, in serving", SETTINGS)
                self._compare(theirs, self.ours.scores(inputs), "together, in serving", TOGETHER)

    def compare_texts(self) -> None:
        """The greedy answers to the first specimens, where no choice of a token was about even."""
        values = self.specimens.inputs[:LEARNED]
        encoder = self.ours.encoder
        tokens = min(NEW_TOKENS, *map(encoder.answer_tokens, encoder.encode(values)))
        encoder.settings.max_new_tokens = tokens
        with _refused("author's library", "answers to its own examples", LOADS):
            theirs = [self.author.answer(value, tokens) for value in values]
        with _refused("merged model", "answers to examples one by one and together", ARCHITECTURE):
            alone = [self.ours.texts([value])[0] for value in values]
            together = self.ours.texts(values)
        for way, answers, remedy in (
            ("one by one", alone, SETTINGS),
            ("together", together, TOGETHER),
        ):
            for value, (text, margin), ours in zip(values, theirs, answers, strict=True):
                if text != ours and margin > self.tolerance:
                    expected = f"{text[:80]!r} for {shown(value)}, as transformers answers"
                    raise Parted(Mismatch("answers", expected, f"{ours[:80]!r} {way}", remedy))

    def learn(self) -> None:
        """Forward and backward passes on the way that learning takes."""
        encoded = self.ours.encode(self.specimens.take(range(min(LEARNED, len(self.specimens)))))
        with _refused("learning", "a forward and a backward pass over two examples", ARCHITECTURE):
            moved, finite = self.ours.learn(encoded)
            if not moved or not finite:
                found = "none for any merged tensor" if finite else "NaN or infinity"
                raise Parted(Mismatch("learning", "a gradient", found, ARCHITECTURE))

    @cached_property
    def tolerance(self) -> float:
        """Largest difference of logits that rounding explains; see the module's docstring."""
        encoded = self.ours.encode(self.specimens)
        targets = [[t for t in one["labels"] if t >= 0] for one in encoded]

        def ask() -> Tensor:
            pairs = zip(self.specimens.inputs, targets, strict=True)
            return torch.cat([self.author.logits(*pair) for pair in pairs])

        before = ask()
        self.author.shake()
        carried = CARRIED * float((ask() - before).abs().max())
        return min(carried, CEILING * float(before.abs().max()))

    def _agree(self, theirs: Sequence[Tensor], ours: Sequence[Tensor]) -> bool:
        """Whether logits agree, fp32 [places, classes] of each specimen."""
        apart = max(map(_apart, theirs, ours))
        return apart <= FLOOR * _largest(theirs) or apart <= self.tolerance

    def _compare(
        self, theirs: Sequence[Tensor], ours: Sequence[Tensor], way: str, remedy: str
    ) -> None:
        """Raises what parts where logits do not agree."""
        largest, apart = _largest(theirs), list(map(_apart, theirs, ours))
        self.largest, self.apart = largest, max(self.apart, *apart)
        if self._agree(theirs, ours):
            return
        worst = max(range(len(apart)), key=apart.__getitem__)
        expected = f"transformers' within {100 * self.tolerance / largest:.2g} % of the largest"
        found = f"{100 * apart[worst] / largest:.2g} % away for {shown(self.specimens.inputs[worst])} ({way})"
        raise Parted(Mismatch("logits", expected, found, remedy))

    def _remembers(self, theirs: Sequence[Tensor]) -> bool:
        """Whether ours answers alike once it has left evaluation mode, where some keep what they made."""
        self.ours.model.train()
        self.ours.model.eval()
        ours = [self.ours.logits([one])[0] for one in self.ours.encode(self.specimens)]
        return self._agree(theirs, ours)


@contextlib.contextmanager
def _refused(where: str, expected: str, remedy: str) -> Iterator[None]:
    """Whatever a library raises about a model that somebody brought is said of that model."""
    try:
        yield
    except (Parted, MemoryError):
        raise
    except Exception as error:
        words = (str(error).strip() or "no message").splitlines()[0][:300]
        found = f"{type(error).__name__}: {words}"
        raise Parted(Mismatch(where, expected, found, remedy)) from error


def _close(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if torch.equal(ours, theirs):
        return True
    largest = float(theirs.abs().max())
    return theirs.is_floating_point() and _apart(ours, theirs) <= ROUNDING * largest


def _share(ours: Tensor, theirs: Tensor) -> str:
    if ours.shape != theirs.shape:
        return f"shape {list(theirs.shape)}"
    return f"other ones by up to {_apart(ours, theirs):.3g} of {float(theirs.abs().max()):.3g}"


def _largest(logits: Sequence[Tensor]) -> float:
    return max(_apart(one, torch.zeros_like(one)) for one in logits)


def _apart(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors of one shape; infinite where there is NaN or another shape."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    return float((a.float() - b.float()).abs().max().nan_to_num(float("inf")))
