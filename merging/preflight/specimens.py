"""A few of an expert's examples that between them show where two ways of reading could part."""

from __future__ import annotations

from collections.abc import Iterator

from merging.experts.examples import Examples, Split
from merging.experts.rows import Input

SPECIMENS = 6


def choose_specimens(split: Split, longest: int) -> Examples:
    """At most SPECIMENS labelled examples: shortest, longest, pair and single text, and each class.

    Args:
        split: The expert's examples; those of its gate all have labels.
        longest: Most characters of a text, unless all have more.
    """
    examples = split.gate
    order = sorted(range(len(examples)), key=lambda i: (size(examples.inputs[i]), examples.keys[i]))
    short = [i for i in order if size(examples.inputs[i]) <= longest] or order[:1]
    return examples.take(list(dict.fromkeys(_wanted(examples, short)))[:SPECIMENS])


def _wanted(examples: Examples, order: list[int]) -> Iterator[int]:
    """Places of examples by size, the most telling ones first; some come twice."""
    yield order[0]
    yield order[-1]
    for is_pair in (True, False):
        yield from [i for i in order if isinstance(examples.inputs[i], tuple) == is_pair][:1]
    if examples.labels:
        firsts = {examples.targets[i]: i for i in reversed(order)}
        yield from firsts.values()
    yield from order[len(order) // 2 :]


def size(value: Input) -> int:
    """Characters of a text or a pair, bytes of an image."""
    return sum(map(len, value)) if isinstance(value, tuple) else len(value)


def shown(value: Input) -> str:
    """What messages call an example."""
    if isinstance(value, bytes):
        return f"an image of {len(value)} bytes"
    text = " / ".join(value) if isinstance(value, tuple) else value
    return f"{text[:60]!r}"
