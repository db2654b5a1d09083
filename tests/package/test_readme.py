"""Every line of Python on the README's page runs as it stands there."""

import re

import pytest
from paths import README


def test_the_readmes_code_runs(tmp_path):
    if not README.exists():
        pytest.skip("needs the checkout")
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)
    assert len(blocks) >= 2
    names: dict[str, object] = {}

    def run(block, number):  # nnsight reads its blocks' source from a file
        path = tmp_path / f"{number}.py"
        path.write_text(block)
        exec(compile(block, str(path), "exec"), names)

    run(blocks[0], 0)
    assert names["lens"].spectrum().synergy[-1] > 0.9
    for number, block in enumerate(blocks[1:], 1):
        run(block, number)
        if "Image.new" in block:
            assert names["lens"].reads.n == 1
    assert names["stream"].reads.n == names["read"].reads.n == names["lens"].reads.n == 64
    assert names["answer"].sum() > 0.999
    assert names["answer"].argmax() == 0, "the opposite of 'a seven is odd'"


def test_the_test_command_is_the_one_that_ci_runs():
    if not README.exists():
        pytest.skip("needs the checkout")
    pattern = r"^python -m pip install .*\[test\].*&& python -m pytest$"
    assert len(re.findall(pattern, README.read_text(), re.M)) == 1
