"""Font files out of Debian packages, without installing any of them and without root.

Unlike a package on PyPI, a package of a Debian release has no digest that holds for ever; apt checks
each one against the signed index of the release that the machine runs.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from infra.demo.folders import made_whole
from infra.errors import Unavailable

# These are small packages of Latin text faces: serif and sans, typewriter and handwriting.
# fmt: off
FONTS = (
    "adf-accanthis", "adf-baskervald", "adf-ikarius", "adf-irianis", "adf-libris", "adf-oldania",
    "adf-romande", "adf-tribun", "adf-universalis", "averia-gwf", "averia-sans-gwf",
    "averia-serif-gwf", "beteckna", "blankenburg", "breip", "cabin", "cantarell", "clear-sans",
    "comfortaa", "crosextra-caladea", "dosis", "dustin", "ebgaramond", "ecolier-court",
    "femkeklaver", "gfs-didot", "goudybookletter", "humor-sans", "inconsolata", "isabella",
    "jetbrains-mono", "jura", "karla", "kristi", "levien-museum", "liberation", "lindenhill",
    "lobster", "mononoki", "open-sans", "play", "prociono", "quattrocento", "radisnoir",
    "rufscript", "sil-gentium-basic", "tomsontalks", "tuffy", "yanone-kaffeesatz",
)
# fmt: on


def unpack_fonts(cache: Path) -> Path:
    """Downloads the font packages once and gives a folder with one folder of each.

    Raises:
        Unavailable: This is not Debian, or its mirror does not answer.
    """
    folder = cache / "packages" / "debian-fonts"
    if folder.is_dir():
        return folder
    with made_whole(folder) as unpacked:
        downloads = unpacked.with_name("downloads")
        downloads.mkdir()
        unpacked.mkdir()
        _run(["apt-get", "download", *(f"fonts-{name}" for name in FONTS)], downloads)
        for archive in downloads.glob("*.deb"):
            _run(["dpkg-deb", "-x", archive.name, unpacked / archive.name.split("_")[0]], downloads)
    return folder


def _run(command: list[str | Path], where: Path) -> None:
    remedy = "On a Debian machine run `apt-get update` once as root, then the same command again."
    if shutil.which(str(command[0])) is None:
        raise Unavailable("fonts are taken from Debian packages, and there is no apt.", remedy)
    answer = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Unavailable(
            f"`{command[0]} {command[1]}` failed: {answer.stderr.strip()[-300:]}.", remedy
        )
