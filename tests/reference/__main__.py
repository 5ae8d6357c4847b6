"""Write the generated pages of docs/reference: ``python -m tests.reference``; ``--check`` only compares them."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.reference import operations, requirements

PAGES = {"operations.md": operations.page, "requirements.md": requirements.page}
DOCS = Path(__file__).parents[2] / "docs" / "reference"


def stale() -> list[str]:
    """Return the pages whose text is not what the code and the tests say now."""
    return [name for name, page in PAGES.items() if not _is(DOCS / name, page())]


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text


def main() -> int:
    """Write or compare; return the exit status."""
    if "--check" in sys.argv[1:]:
        for name in stale():
            print(f"docs/reference/{name} is stale: run `python -m tests.reference`")
        return 1 if stale() else 0
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
