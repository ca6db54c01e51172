"""Heat maps: coefficients by layer and expert, and how alike the task vectors are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from markupsafe import Markup
from torch import Tensor

from infra.report import svg
from merging.models.coefficients import Coefficients

_CELL_WIDTH, _CELL_HEIGHT, _LEFT = 74, 19, 150


def coefficient_map(coefficients: Coefficients) -> Markup:
    """Mean coefficient of each expert in each layer."""
    layers: dict[str, list[str]] = {}
    for name in sorted(coefficients.values, key=_natural):
        layers.setdefault(_layer(name), []).append(name)
    values, titles = [], []
    for layer, names in layers.items():
        means = torch.stack([_per_expert(coefficients.values[name]) for name in names])
        values.append(means.mean(dim=0).tolist())
        titles.append(
            [
                f"{layer}, {task}: {low:.3f} to {high:.3f} in {len(names)} tensors"
                for task, low, high in zip(
                    coefficients.tasks, means.amin(dim=0), means.amax(dim=0), strict=True
                )
            ]
        )
    return _matrix(list(layers), coefficients.tasks, values, titles, "Coefficients by layer")


def _per_expert(value: Tensor) -> Tensor:
    """Mean over the rows where there are rows, fp32 [experts]."""
    return value.float().mean(dim=1) if value.ndim == 2 else value.float()


def cosine_map(cosines: Mapping[str, Mapping[str, float]]) -> Markup:
    """Cosine of each pair of task vectors."""
    tasks = list(cosines)
    values = [[cosines[row][column] for column in tasks] for row in tasks]
    titles = [[f"{r} and {c}: {cosines[r][c]:.3f}" for c in tasks] for r in tasks]
    return _matrix(tasks, tasks, values, titles, "Cosines of task vectors")


def _layer(name: str) -> str:
    """The layer that a tensor belongs to: its name up to the first number."""
    match = re.match(r"(.*?\.\d+)\.", name)
    return match[1] if match else name.split(".")[0]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10, and embeddings before the rest."""
    first = [] if name.startswith("embeddings") else [(0, "~")]
    return first + [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", name)]


def _matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    titles: Sequence[Sequence[str]],
    label: str,
) -> Markup:
    top = 10 + 13 * max(len(_wrapped(column)) for column in columns)
    width = _LEFT + _CELL_WIDTH * len(columns) + 4
    height = top + _CELL_HEIGHT * len(rows) + 4

    def parts() -> Iterator[Markup]:
        for j, column in enumerate(columns):
            x = _LEFT + _CELL_WIDTH * (j + 0.5)
            for k, piece in enumerate(reversed(_wrapped(column))):
                yield svg.text(x, top - 7 - 13 * k, piece, "tick", "middle")
        for i, row in enumerate(rows):
            y = top + _CELL_HEIGHT * i
            yield svg.text(_LEFT - 8, y + 13.5, row, "label", "end")
            for j, value in enumerate(values[i]):
                x = _LEFT + _CELL_WIDTH * j
                yield svg.rect(
                    x,
                    y,
                    _CELL_WIDTH - 1,
                    _CELL_HEIGHT - 1,
                    "cell",
                    title=titles[i][j],
                    fill=_colour(value),
                )
                css = "cell-text light" if abs(value) > 0.6 else "cell-text"
                yield svg.text(
                    x + _CELL_WIDTH / 2, y + 13, f"{value:.2f}".replace("-", "−"), css, "middle"
                )

    figure = svg.figure(width, height, parts(), label)
    return Markup('<div style="max-width:{}px">{}</div>').format(width, figure)


def _wrapped(name: str, limit: int = 11) -> list[str]:
    lines = [""]
    for piece in re.split(r"(?<=-)", name):
        if lines[-1] and len(lines[-1] + piece) > limit:
            lines.append("")
        lines[-1] += piece
    return lines


def _colour(value: float) -> str:
    """White at 0, blue towards 1, orange towards -1."""
    strength = min(abs(value), 1.0)
    end = (31, 78, 140) if value >= 0 else (191, 90, 20)
    red, green, blue = (round(255 + (channel - 255) * strength) for channel in end)
    return f"rgb({red},{green},{blue})"
