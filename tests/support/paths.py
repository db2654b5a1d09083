"""Where the checkout is, its stored data, and what lies beside it on a developer's machine."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
README = ROOT / "README.md"
DATA = TESTS / "data"
SHARED = ROOT.parent / "shared"
