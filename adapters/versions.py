"""Versions of the optional frameworks: those that were tried, and no others."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version


def require_version(package: str, first: str, below: str) -> None:
    """Refuses a framework that is not there, or of a version that was not tried.

    Raises:
        ImportError: naming the versions that were.

    Example:
        >>> require_version("torch", "2.6", "3")
        >>> require_version("torch", "1.0", "1.1")
        Traceback (most recent call last):
        ...
        ImportError: pid_lens was tried with torch >=1.0,<1.1, and ... is installed: pip install
        "torch>=1.0,<1.1"
    """
    tried = f"{package}>={first},<{below}"
    try:
        found = version(package)
    except PackageNotFoundError:
        raise ImportError(f'{package} is not installed: pip install "{tried}"') from None
    if not Version(first) <= Version(found) < Version(below):
        raise ImportError(
            f"pid_lens was tried with {package} >={first},<{below}, and {found} is installed: pip "
            f'install "{tried}"'
        )
