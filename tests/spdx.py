# SPDX-License-Identifier: Apache-2.0
"""The licence in one line at the top of each source file; ``python -m tests.spdx`` adds it where it is missing."""

from __future__ import annotations

from pathlib import Path

from tests.published import ROOT, git_files

LINE = "SPDX-License-Identifier: Apache-2.0"
COMMENTS = {
    ".py": f"# {LINE}", ".yml": f"# {LINE}", ".js": f"// {LINE}", ".mjs": f"// {LINE}", ".css": f"/* {LINE} */",
    ".html": f"<!-- {LINE} -->",
}  # fmt: skip
SHELL = (".ci/run",)


def comment(name: str) -> str | None:
    """The line that a file must hold; none for what is no source."""
    return f"# {LINE}" if name in SHELL else COMMENTS.get(Path(name).suffix)


def place(lines: list[str]) -> int:
    """Where the line stands: first, or after what must come first."""
    return int(bool(lines) and lines[0].lower().startswith(("#!", "<!doctype")))


def missing() -> list[str]:
    """Source files without the line in its place."""
    found = []
    for name in sorted(git_files("--cached", "--others", "--exclude-standard")):
        wanted = comment(name)
        if wanted:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
            found += [] if lines[place(lines) :][:1] == [wanted] else [name]
    return found


def main() -> None:
    for name in missing():
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines(keepends=True)
        lines.insert(place(lines), f"{comment(name)}\n")
        (ROOT / name).write_text("".join(lines), encoding="utf-8", newline="\n")
        print(name)


if __name__ == "__main__":
    main()
