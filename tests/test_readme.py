"""Every line of Python on the README's page runs as it stands there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_code_runs():
    if not README.exists():
        pytest.skip("needs the checkout")
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    exec(compile(blocks[0], str(README), "exec"), names)
    assert names["lens"].spectrum().synergy[-1] > 0.9
    for block in blocks[1:]:
        exec(compile(block, str(README), "exec"), names)
    assert names["lens"].reads.n == 1
    assert names["answer"].sum() > 0.999
    assert names["answer"].argmax() == 0, "the opposite of 'a seven is odd'"


def test_the_test_command_is_the_one_that_ci_runs():
    if not README.exists():
        pytest.skip("needs the checkout")
    pattern = r"^python -m pip install .*\[test\].*&& python -m pytest$"
    assert len(re.findall(pattern, README.read_text(), re.M)) == 1
