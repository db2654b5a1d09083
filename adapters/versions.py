"""Versions of the optional frameworks: only those that were tried are imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version


def require_version(package: str, first: str, below: str) -> None:
    """Require that a framework is installed, in a version that was tried.

    Raises:
        ImportError: it is not; the message names the versions that were tried.

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
