"""Images and questions as batches: the right tokens are found, whatever the tokenizer."""

from copy import deepcopy

import pytest
import torch
from processors import (
    TEMPLATE,
    byte_level,
    metaspace,
    picture,
    processor_of,
    squeezed,
)

import pid_lens
from pid_lens.inputs import Batch, Spans, resolve_samples
from pid_lens.inputs.prompts.token_spans import find_question


@pytest.fixture(params=[byte_level, metaspace], ids=lambda make: make.__name__)
def make(request):
    return request.param


QUESTIONS = ["What colour is the cat's tail?", "How many cars, and where? A. one B. two", "cat ?"]


@pytest.mark.parametrize("system", [None, "be brief", ["a", "b", "What colour is it?"]])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_question_span_says_the_question(make, side, system):
    processor = processor_of(make, side)
    batch = pid_lens.batch(
        processor,
        images=[picture(seed) for seed in range(3)],
        questions=QUESTIONS,
        options=("A", "B"),
        system=system,
    )
    ids = batch.inputs["input_ids"]
    for row, question in enumerate(QUESTIONS):
        said = processor.tokenizer.decode(ids[row, batch.spans["question"][row]])
        assert squeezed(said) == squeezed(question)
    assert (batch.spans["image"].sum(-1) == 4).all()
    ends = [processor.tokenizer.decode(row) for row in ids[batch.spans["answer"]][:, None]]
    assert all(squeezed(end).endswith(":") for end in ends)


@pytest.mark.parametrize("side", ["left", "right"])
def test_plain_inputs_lead_to_the_same_spans_and_ids(make, side):
    processor = processor_of(make, side)
    batch = pid_lens.batch(
        processor, images=[picture()] * 3, questions=QUESTIONS, options=("A", "B"), system="be"
    )
    found = resolve_samples(Batch(inputs=batch.inputs), processor, processor.image_token_id)
    for name in ("image", "question", "answer"):
        assert torch.equal(found.spans[name], batch.spans[name])
    assert found.ids == batch.ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_that_merge_question_and_template_are_the_questions(make, side):
    template = TEMPLATE.replace(" ASSISTANT:", "{{ '\n' }}ASSISTANT:")
    processor = processor_of(make, side, template=template)
    processor.tokenizer.add_tokens(["?\n", "\nHow"])
    batch = pid_lens.batch(
        processor, images=[picture()] * 3, questions=QUESTIONS, options=("A", "B")
    )
    merged = processor.tokenizer.convert_tokens_to_ids(["?\n", "\nHow"])
    asked = batch.inputs["input_ids"][batch.spans["question"]].tolist()
    assert [asked.count(token) for token in merged] == [2, 1]
    found = resolve_samples(Batch(inputs=batch.inputs), processor, processor.image_token_id)
    assert torch.equal(found.spans["question"], batch.spans["question"])


def test_white_space_around_a_question_is_left_out():
    processor = processor_of(byte_level)
    bare, spaced = (
        pid_lens.batch(processor, images=[picture()], questions=[question], options=("A", "B"))
        for question in (QUESTIONS[0], f" \n {QUESTIONS[0]}  \n")
    )
    assert spaced.ids == bare.ids
    assert torch.equal(spaced.spans["question"], bare.spans["question"])
    found = resolve_samples(Batch(inputs=spaced.inputs), processor, processor.image_token_id)
    assert torch.equal(found.spans["question"], spaced.spans["question"])


def test_ids_depend_on_content_alone():
    processor = processor_of(byte_level)
    images = [picture(seed) for seed in range(3)]

    def ids(order):
        return pid_lens.batch(
            processor,
            images=[images[i] for i in order],
            questions=[QUESTIONS[i] for i in order],
            options=("A", "B"),
        ).ids

    a, b, c = ids([0, 1, 2])
    assert len({a, b, c}) == 3
    assert ids([2, 0]) == (c, a)
    assert ids([1]) == (b,)
    other = pid_lens.batch(
        processor, images=[images[1]], questions=[QUESTIONS[0]], options=("A", "B")
    )
    assert other.ids[0] not in {a, b, c}


def test_labels_are_indices_or_texts():
    processor = processor_of(byte_level)
    said = {"images": [picture()] * 2, "questions": QUESTIONS[:2]}
    given = pid_lens.batch(processor, **said, options=("A", "B"), labels=["B", 0])
    assert given.labels.tolist() == [1, 0]
    each = [("A", "B"), ("one", "two", "house")]
    given = pid_lens.batch(processor, **said, options=each, labels=["B", "house"])
    assert given.labels.tolist() == [1, 2]
    assert (given.options >= 0).sum(-1).tolist() == [2, 3]


def test_question_before_the_image():
    template = TEMPLATE.replace("<image>\n", "").replace(
        "{{ part.text }}{% endif %}", "{{ part.text }} <image>{% endif %}"
    )
    processor = processor_of(byte_level, template=template)
    batch = pid_lens.batch(
        processor, images=[picture()], questions=QUESTIONS[:1], options=("A", "B")
    )
    said = processor.tokenizer.decode(batch.inputs["input_ids"][batch.spans["question"]])
    assert squeezed(said) == squeezed(QUESTIONS[0])
    ids = batch.inputs["input_ids"]
    with pytest.raises(ValueError, match="puts the question before the image"):
        find_question(processor, ids, torch.ones_like(ids, dtype=torch.bool), 3)


def test_a_foreign_prompt_is_refused():
    processor = processor_of(byte_level)
    inputs = processor(images=[picture()], text="<image>\nis it so", return_tensors="pt")
    with pytest.raises(ValueError, match="not made by the processor's chat template"):
        resolve_samples(Batch(inputs=inputs), processor, processor.image_token_id)


CASES = {
    "too few images": ({"images": []}, "as many images"),
    "too few ids": ({"ids": []}, "as many ids"),
    "an empty question": ({"questions": [" "]}, "matches nothing"),
    "one string as options": ({"options": "AB"}, "list of options"),
    "one option": ({"options": ["A"]}, "at least two"),
    "options that share a token": ({"options": ["A", "A. one"]}, "share a first token"),
    "a label that is no option": ({"labels": ["C"]}, "not one of its options"),
    "an index that is no option": ({"labels": [2]}, "not one of its options"),
    "one question": ({"questions": "what ?"}, "questions must be a list"),
    "one image": ({"images": picture()}, "images must be a list"),
    "one label": ({"labels": "A"}, "labels must be a list"),
    "nothing": ({"questions": [], "images": []}, "at least one question"),
    "another text": ({"options": [["A", "B"]], "labels": ["C"]}, "not one of its options"),
    "options of too few samples": ({"options": [["A", "B"], ["A", "B"]]}, "one per sample"),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_say_what_to_do(case):
    wrong, message = CASES[case]
    said = {"images": [picture()], "questions": QUESTIONS[:1], "options": ("A", "B")}
    with pytest.raises((ValueError, TypeError), match=message):
        pid_lens.batch(processor_of(byte_level), **{**said, **wrong})


def test_unknown_words_are_named(digits_model):
    _, processor = digits_model
    with pytest.raises(ValueError, match=r"\['banana'\]"):
        pid_lens.batch(
            processor, images=[picture()], questions=["is the banana even ?"], options=("A", "B")
        )
    with pytest.raises(ValueError, match=r"\['addition'\]"):
        pid_lens.batch(
            processor,
            images=[picture()],
            questions=["is it even ?"],
            options=("A", "B"),
            system="addition",
        )
    with pytest.raises(ValueError, match="no token in this model's vocabulary"):
        pid_lens.batch(
            processor, images=[picture()], questions=["is it even ?"], options=("A", "banana")
        )


def test_unknown_words_are_named_where_their_token_is_the_start_too(digits_model):
    _, processor = deepcopy(digits_model)
    processor.tokenizer.bos_token = processor.tokenizer.unk_token
    processor.chat_template = processor.tokenizer.bos_token + processor.chat_template
    said = {"images": [picture()], "options": ("A", "B")}
    assert pid_lens.batch(processor, questions=["is it even ?"], **said).n == 1
    with pytest.raises(ValueError, match=r"\['banana'\]"):
        pid_lens.batch(processor, questions=["is the banana even ?"], **said)


def test_a_processor_without_template_is_refused():
    with pytest.raises(ValueError, match="no chat template"):
        pid_lens.batch(
            processor_of(byte_level, template=None),
            images=[picture()],
            questions=["what ?"],
            options=("A", "B"),
        )


def test_spans_check_themselves():
    mask = torch.tensor([[True, False]])
    with pytest.raises(ValueError, match="spans need at least one mask"):
        Spans()
    with pytest.raises(TypeError, match="boolean"):
        Spans(image=mask.long())
    with pytest.raises(ValueError, match="one shape"):
        Spans(image=mask, question=mask[:, :1])
    with pytest.raises(ValueError, match="matches no token in samples"):
        Spans(image=mask & False)
    with pytest.raises(ValueError, match="no span 'car'; there are image"):
        Spans(image=mask)["car"]


def named(pixels, ids=None, **more):
    ids = torch.tensor([[1, 9, 9, 5, 2]] * 2) if ids is None else ids
    spans = {"image": ids == 9, "question": ids == 5}
    return resolve_samples(
        Batch(inputs={"input_ids": ids, "pixel_values": pixels, **more}, spans=spans)
    ).ids


def test_pixels_of_several_rows_or_tiles_a_sample():
    first, second = named(torch.arange(24.0).view(8, 3))
    assert first != second
    tiles = torch.arange(1, 49.0).view(4, 1, 3, 4)
    ids = torch.tensor([[9] * 16 + [5], [9] * 16 + [5]])
    first, second = named(tiles, ids)
    assert first != second
    assert named(tiles.flip(0), ids) != (first, second)
    with pytest.raises(ValueError, match="give ids="):
        named(torch.zeros(7, 3))
    with pytest.raises(ValueError, match=r"no pixels .* give ids="):
        named(torch.zeros(2, 3).long())


def test_lists_of_pixels_are_content_too():
    one, other = torch.ones(3, 4, 4), torch.zeros(3, 4, 4)
    first, second = named([one, other])
    assert first != second
    assert named([other, one]) == (second, first)


def test_padded_pixels_are_the_same_content():
    """Processors pad images and tiles with zeros to the largest of a batch."""
    image = torch.rand(1, 2, 3, 4, 5) + 0.1
    ids = torch.tensor([[1, 9, 5, 2]])
    wide = torch.zeros(1, 4, 3, 6, 8)
    wide[:, :2, :, :4, :5] = image
    sizes = torch.tensor([[4, 5]])
    assert named(image, ids, image_sizes=sizes) == named(wide, ids, image_sizes=sizes)
    assert named(image, ids, image_sizes=sizes) != named(wide, ids, image_sizes=sizes + 1)
    assert named(image, ids.int(), image_sizes=sizes) == named(wide, ids, image_sizes=sizes)
