"""Options as tokens: the first one, or all of them."""

import numpy as np
import pytest
import torch

import pid_lens
from pid_lens.inputs import option_table
from pid_lens.inputs.options import first_tokens
from pid_lens.scoring.option_tokens import collisions, stack_tokens, tokenise_options


@pytest.fixture(scope="module")
def processor(digits_model):
    return digits_model[1]


def test_text_becomes_all_its_tokens(processor):
    (row,) = tokenise_options(["A", "is it even ?"], 1, processor)
    vocabulary = processor.tokenizer.get_vocab()
    assert row[0].tokens == (vocabulary["A"],)
    assert row[1].tokens == tuple(vocabulary[word] for word in ("is", "it", "even", "?"))
    assert [option.name for option in row] == ["A", "is it even ?"]


def test_one_list_serves_all_samples_and_each_may_have_its_own():
    assert tokenise_options([[7], [8, 9]], 3) == tokenise_options([[[7], [8, 9]]] * 3, 3)
    mixed = tokenise_options([[[7], [8, 9]], [[1, 2, 3]]], 2)
    assert [[option.tokens for option in row] for row in mixed] == [[(7,), (8, 9)], [(1, 2, 3)]]
    tokens, present = stack_tokens(mixed)
    assert tokens.tolist() == [[[7, 0, 0], [8, 9, 0]], [[1, 2, 3], [0, 0, 0]]]
    assert present.sum(-1).tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_tensors_and_arrays_do_as_well_as_lists(kind):
    options = [[7, 8], [8, 9]]
    for given in (kind(options), list(kind(options)), [list(kind(one)) for one in options]):
        assert tokenise_options(given, 3) == tokenise_options(options, 3)
    each = [options, options[::-1]]
    assert tokenise_options(kind(each), 2) == tokenise_options(each, 2)
    for given in (kind(options), list(kind(options)), [list(kind(one)) for one in options]):
        assert option_table(given, 2).tolist() == options
    assert first_tokens(kind([7, 9])) == [7, 9]


def test_a_single_row_is_for_all_whichever_way_options_are_read():
    assert tokenise_options([[[7], [8, 9]]], 3) == tokenise_options([[7], [8, 9]], 3)
    assert option_table([[7, 8]], 3).tolist() == option_table([7, 8], 3).tolist()
    for read in (tokenise_options, option_table):
        with pytest.raises(ValueError, match="one per sample: 3; got 2"):
            read([[[7], [8]]] * 2 if read is tokenise_options else [[7, 8]] * 2, 3)


def test_collisions_are_groups_of_names():
    options = tokenise_options([[[7], [8], [7, 9], [8, 1], [5]], [[7], [8]]], 2)
    assert collisions(options) == ((("[7]", "[7, 9]"), ("[8]", "[8, 1]")), ())


def test_a_shared_first_token_names_the_way_out():
    with pytest.raises(ValueError, match=r"share a first token.*pid_lens\.scoring\.score_options"):
        first_tokens([7, 7])
    with pytest.raises(ValueError, match="score_options"):
        pid_lens.Lens(pid_lens.demo.load()[0], choices=[5, 5], conditions={"full": []})


WRONG = {
    "one string": ("A", TypeError, "must be a list of texts"),
    "a number": (3, TypeError, "must be a list of texts"),
    "nothing": ([], ValueError, "at least one"),
    "numbers alone": ([3, 4], TypeError, r"\[7\] for a single one"),
    "an empty text": (["A", ""], ValueError, "no token"),
    "an unknown word": (["A", "B zebra"], ValueError, "no token in this model's vocabulary"),
    "no tokens": ([[3], []], ValueError, "at least one"),
    "a negative id": ([[3, -1]], ValueError, "from 0 on"),
    "the same twice": (["A", "B", "A"], ValueError, r"\['A', 'A'\] are the same tokens"),
    "too many lists": ([["A", "B"]] * 3, ValueError, "one per sample: 2; got 3"),
    "no options of one": ([["A"], []], (TypeError, ValueError), "at least one|must be a text"),
}


@pytest.mark.parametrize(("options", "error", "words"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused(processor, options, error, words):
    with pytest.raises(error, match=words):
        tokenise_options(options, 2, processor)


def test_what_is_no_token_has_no_first_one():
    with pytest.raises(TypeError, match="a text or a token id"):
        first_tokens([7, [9]])
    with pytest.raises(ValueError, match="no samples"):
        tokenise_options([[7]], 0)


def test_text_needs_a_processor():
    with pytest.raises(ValueError, match="hand over the processor"):
        tokenise_options(["A"], 1)
