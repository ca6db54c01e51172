"""The report: one HTML page that needs no other file, the same content as JSON, and data docs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from infra.contracts import data_docs
from infra.report.charts import limits_chart, score_bars
from infra.report.curves import learning_curve
from infra.report.inputs import Member, ReportInputs
from infra.report.matrices import coefficient_map, cosine_map
from infra.report.summary import headline, points, share, span

_CSS = resources.files("infra.report") / "report.css"
DATA_DOCS = "data-docs/index.html"
_THUMBNAIL = 112  # Pixels of a thumbnail's longer side.
_SHOWN_CHARACTERS = 600
LOST_WORTH_SAYING = 0.05  # Share of the merged change from which its loss is a key figure.

_pages = Environment(
    loader=PackageLoader("infra.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_report(inputs: ReportInputs, out: Path) -> Path:
    """Writes `report.html`, `report.json` and `data-docs/index.html` into a folder.

    All are functions of the inputs alone, so the same decision gives the same bytes.

    Returns:
        The page.
    """
    (out / DATA_DOCS).parent.mkdir(parents=True, exist_ok=True)
    _replace(out / "report.json", json.dumps(_document(inputs), indent=1, ensure_ascii=False))
    page = out / "report.html"
    _replace(page, _pages.get_template("report.html.j2").render(_context(inputs)))
    _replace(out / DATA_DOCS, _pages.get_template("data_docs.html.j2").render(_docs(inputs)))
    return page


def _replace(path: Path, content: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(content, encoding="utf-8")
    beside.replace(path)


def _docs(inputs: ReportInputs) -> dict[str, Any]:
    return {
        "css": _css(),
        "family": inputs.family,
        "candidate": inputs.candidate,
        "contracts": [(contract, data_docs(contract)) for contract in inputs.contracts],
    }


def _css() -> Markup:
    return Markup(_CSS.read_text(encoding="utf-8"))


def _document(inputs: ReportInputs) -> dict[str, Any]:
    coefficients = inputs.coefficients
    return {
        "family": inputs.family,
        "candidate": inputs.candidate,
        "champion": inputs.champion,
        "gate": inputs.report.model_dump(mode="json"),
        "history": [asdict(step) for step in inputs.history],
        "cosines": inputs.cosines,
        "coefficients": coefficients.digest if coefficients else None,
        "plan": inputs.plan,
        "members": [asdict(member) for member in inputs.members],
        "champion_members": [asdict(member) for member in inputs.champion_members],
        "settings": inputs.settings,
        "facts": inputs.facts,
        "contracts": [asdict(contract) for contract in inputs.contracts],
        "precision": asdict(inputs.precision) if inputs.precision else None,
        "links": inputs.links,
        "reproduce": list(inputs.reproduce),
    }


def _context(inputs: ReportInputs) -> dict[str, Any]:
    report = inputs.report
    decided = [d for d in report.tasks if d.candidate is not None]
    return {
        "css": _css(),
        "data_docs": DATA_DOCS,
        "inputs": inputs,
        "report": report,
        "headline": headline(report),
        "counts": _counts(inputs),
        "reference": "the deployed model" if any(d.champion for d in decided) else "the base",
        "tiles": _tiles(inputs),
        "score_bars": score_bars(report) if decided else None,
        "limits_chart": limits_chart(report) if decided else None,
        "coefficient_map": coefficient_map(inputs.coefficients) if inputs.coefficients else None,
        "cosine_map": cosine_map(inputs.cosines) if inputs.cosines else None,
        "learning_curve": learning_curve(inputs.history) if inputs.history else None,
        "changes": _changes(inputs),
        "settings": _flat(inputs.settings),
        "plan": _flat(inputs.plan),
        "policy": _flat(report.policy),
        "share": share,
        "points": points,
        "span": span,
        "image": _image,
        "clipped": _clipped,
        "web": _is_web_address,
    }


def _counts(inputs: ReportInputs) -> str:
    tasks = inputs.report.tasks
    words = [
        f"{number} {verdict}"
        for verdict in ("passed", "failed", "inconclusive")
        if (number := sum(d.verdict == verdict for d in tasks))
    ]
    return f"{len(tasks)} task{'s' * (len(tasks) != 1)}: {', '.join(words) or 'none decided'}"


def _tiles(inputs: ReportInputs) -> list[tuple[str, str]]:
    """Key figures: a value and what it is."""
    tasks = inputs.report.tasks
    tiles = []
    # Without bounds the expert's gain may be noise, and a share of noise says nothing.
    shown = [d for d in tasks if d.retention_lower is not None]
    if kept := [d.retention for d in shown if d.retention is not None]:
        tiles.append((share(sum(kept) / len(kept), 0), "of the experts' gains kept, on average"))
    old = [d for d in tasks if d.role == "old" and d.difference is not None]
    if old:
        worst = min(old, key=lambda d: d.difference or 0.0)
        tiles.append(
            (f"{points(worst.difference)}", f"points on {worst.task}, the worst of the old tasks")
        )
    flips = sum(len(d.negative_flips) for d in tasks)
    examples = sum(d.examples for d in tasks)
    tiles.append((f"{flips:,}", f"answers turned wrong, of {examples:,} judged"))
    wins = sum(d.wins or 0 for d in tasks)
    tiles.append((f"{wins:,}", "answers turned right"))
    if inputs.precision and inputs.precision.lost >= LOST_WORTH_SAYING:
        about = f"of the merged change lost in rounding to {inputs.precision.dtype}"
        tiles.append((share(inputs.precision.lost, 0), f"{about}; write_dtype: float32 keeps it"))
    return tiles


def _changes(inputs: ReportInputs) -> list[str]:
    """What is different from the deployed model, in sentences."""
    before = {member.task: member for member in inputs.champion_members}
    now = {member.task: member for member in inputs.members}
    sentences = [f"Adds {_named(now[task])}." for task in now if task not in before]
    sentences += [
        f"Replaces {_named(before[task])} by {_named(now[task])}."
        for task in now
        if task in before and now[task].name != before[task].name
    ]
    sentences += [f"Drops {_named(before[task])}." for task in before if task not in now]
    old, new = inputs.champion_coefficients, inputs.coefficients
    if old and new:
        for task in (task for task in new.tasks if task in old.tasks):
            sentences.append(_shift(task, old.column(task), new.column(task)))
    return sentences


def _shift(task: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    shared = [name for name in new if name in old]
    if not shared:
        return f"The coefficients of {task} are on other tensors than before."
    before = sum(float(old[name].mean()) for name in shared) / len(shared)
    after = sum(float(new[name].mean()) for name in shared) / len(shared)
    moved = sum(abs(float(new[n].mean()) - float(old[n].mean())) for n in shared) / len(shared)
    return (
        f"Coefficients of {task}: mean {before:.3f} before, {after:.3f} now; "
        f"each tensor's moved by {moved:.3f} on average."
    )


def _named(member: Member) -> str:
    return f"{member.task} ({member.name})"


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}".replace("_", " "), _plain(name, value)))
    return rows


def _plain(name: str, value: Any) -> str:
    if name.endswith("bytes") and isinstance(value, int):
        return f"{value / 2**20:,.1f} MiB"
    if isinstance(value, Sequence) and not isinstance(value, str):
        inner = ", ".join(_plain("", item) for item in value)
        return f"({inner})" if name == "" else inner
    return "none" if value is None else str(value)


def _image(content: object) -> Markup | None:
    """A thumbnail drawn anew from the bytes, so that nothing of the file itself is embedded."""
    if not isinstance(content, bytes):
        return None
    from merging.serving import load_image  # This imports torch.

    try:
        image = load_image(content)
    except ValueError:
        return Markup("<em>an image that cannot be read</em>")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    image.save(buffer := io.BytesIO(), "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img alt="gate example" src="data:image/png;base64,{}">').format(data)


def _clipped(content: str) -> str:
    return content if len(content) <= _SHOWN_CHARACTERS else content[:_SHOWN_CHARACTERS] + " …"


def _is_web_address(link: str) -> bool:
    return urlsplit(link).scheme in ("http", "https")
