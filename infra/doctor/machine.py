"""The machine: its shell, its packages, its disk and its memory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from infra.doctor.finding import Finding
from infra.settings import Settings
from infra.shell import PROXIES
from infra.stack.packages import DISTRIBUTION, check_packages
from infra.state_file import state_file

# Bytes below which a merge of small models may not fit, and below which nothing does.
_FEW, _NONE = 5 << 30, 1 << 30
_LITTLE_MEMORY = 2 << 30  # Bytes; a flow run alone takes about one of these GiB.


def look_at_shell(settings: Settings) -> Iterator[Finding]:
    """Variables of the shell that speak of other servers than the settings do."""
    if stale := settings.disturbing():
        yield Finding(
            "shell",
            f"{' and '.join(stale)} would open another S3 than the settings'; commands and flows of the "
            "queue leave it out.",
            "worth knowing",
            f"For other clients of the same S3: `unset {' '.join(stale)}`.",
        )
    own = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if name in os.environ]
    if own and settings.s3_access_key and own_key(settings) != os.environ.get(own[0]):
        yield Finding(
            "shell",
            f"{' and '.join(own)} of this shell are not those of the settings, which are used.",
            "worth knowing",
            "Nothing for the queue; other clients in this shell use these.",
        )
    if proxies := [name for name in PROXIES if os.environ.get(name)]:
        yield Finding(
            "shell",
            f"{' and '.join(proxies)} send requests through a proxy; servers on this machine are asked "
            "past it.",
            "worth knowing",
            "Where a server of your own is to be asked past it too, add its name to NO_PROXY.",
        )


def own_key(settings: Settings) -> str | None:
    """The name of the key that the settings open S3 with."""
    return settings.s3_access_key.get_secret_value() if settings.s3_access_key else None


def look_at_packages(_: Settings) -> Iterator[Finding]:
    """Whether Python has the packages that the queue was made for."""
    check_packages()
    wrong = []
    for line in requires(DISTRIBUTION) or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            try:
                there = version(wanted.name)
            except PackageNotFoundError:
                there = "none"
            if there == "none" or not wanted.specifier.contains(there, prereleases=True):
                wrong.append(f"{wanted.name} {there} (wanted: {wanted.specifier})")
    if wrong:
        remedy = "Install the project into an environment of its own, with `make install`."
        yield Finding("packages", f"Not as needed: {', '.join(wrong)}.", "fault", remedy)
    else:
        yield Finding("packages", "Every package has a version that the queue was made for.")


def look_at_disk(settings: Settings) -> Iterator[Finding]:
    """Whether there is room where the queue keeps what it works on."""
    for name, folder in {"state": settings.state_dir, "cache": settings.cache_dir}.items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        found = f"{free / 1e9:,.1f} GB free at {folder}."
        check = f"disk of the {name}"
        if not os.access(place, os.W_OK):
            yield Finding(check, f"{place} may not be written.", "fault", "Check whose it is.")
        elif free < _FEW:
            remedy = "Free some; the cache folder may be deleted at any time."
            yield Finding(check, found, "fault" if free < _NONE else "worth knowing", remedy)
        else:
            yield Finding(check, found)
    yield from _look_at_secrets(state_file(settings.state_dir))


def look_at_memory(_: Settings) -> Iterator[Finding]:
    """Whether a flow run finds memory."""
    free = psutil.virtual_memory().available
    found = f"{free / 1e9:,.1f} GB free."
    if free < _LITTLE_MEMORY:
        remedy = "End other programs; a run without memory is killed and begins anew."
        yield Finding("memory", found, "worth knowing", remedy)
    else:
        yield Finding("memory", found)


def _look_at_secrets(file: Path) -> Iterator[Finding]:
    if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
        found = f"{file} holds secrets, and others than its owner may read it."
        yield Finding("secrets", found, "fault", f"Run `chmod 600 {file}`.")
