"""Where the kernel texts lie: inside the package when installed, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path


def folder() -> Path | None:
    """Return the folder of the kernel texts, or None where the installation has lost it."""
    package = Path(__file__).parent.parent
    return next((place for place in (package / "kernels", package.parent / "kernels") if place.is_dir()), None)
