"""Whether Python finds the project's own packages, and not another's of the same names."""

from __future__ import annotations

from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from infra.settings import CODE
from merging.errors import InvalidInput

DISTRIBUTION = "supermerge"
PACKAGES = ("flows", "tasks", "merging", "infra")


def check_packages() -> None:
    """Refuses an environment in which one of the four packages is not, or not only, this project's.

    Raises:
        InvalidInput: Another distribution has installed into a package of ours, or a folder that
            Python looks into earlier holds one of the same name.
    """
    owners = packages_distributions()
    mixed = [
        f"{name} also of {other}"
        for name in PACKAGES
        for other in sorted({*owners.get(name, ())} - {DISTRIBUTION})
    ]
    elsewhere = [f"{name} in {place}" for name in PACKAGES if (place := _place(name)) != CODE]
    if mixed or elsewhere:
        raise InvalidInput(
            where="Python's packages",
            expected=f"{', '.join(PACKAGES)} of {DISTRIBUTION} alone",
            found=", ".join(mixed + elsewhere),
            remedy="Install it into an environment of its own: `uv tool install supermerge[local]`.",
        )


def _place(name: str) -> Path | None:
    """The folder that Python imports a package from; None where that is no single file's."""
    spec = find_spec(name)
    origin = spec.origin if spec else None
    return Path(origin).resolve().parents[1] if origin else None
