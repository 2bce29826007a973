"""What the registry would get: the files that its tool packs."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def is_checkout() -> bool:
    """Whether git can say which files there are."""
    return shutil.which("git") is not None and (ROOT / ".git").exists()


def git_files(*arguments: str) -> set[str]:
    """Paths that git lists, of files that are there."""
    command = ["git", "-c", "core.quotepath=off", "ls-files", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if (ROOT / line).is_file()}


def published() -> list[str]:
    """The files that git tracks (here also those not yet added) but for .comfyignore's, in order."""
    tracked = git_files("--cached", "--others", "--exclude-standard")
    ignored = git_files("--cached", "--others", "--ignored", "--exclude-from=.comfyignore")
    return sorted(tracked - ignored)


def pack(target: Path) -> Path:
    """The archive, packed as the registry's tool does it: .comfyignore is read as gitignore patterns by pathspec."""
    import pathspec

    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = pathspec.PathSpec.from_lines("gitignore", lines)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(git_files("--cached", "--others", "--exclude-standard")):
            if not ignored.match_file(name):
                archive.write(ROOT / name, name)
    return target
