"""Spans of text, of several images, and spans made of spans."""

from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers as tk
import torch
import transformers as hf
from processors import TEMPLATE, byte_level, metaspace, picture, processor_of
from processors import squeezed as joined

import pid_lens
from pid_lens.inputs import Batch, Spans, resolve_samples
from pid_lens.inputs.prompts.chat_template import Prompt, find_text
from pid_lens.inputs.prompts.multi_image import single_images
from pid_lens.inputs.prompts.option_listing import find_listing
from pid_lens.inputs.prompts.token_spans import find_question, require_no_videos

QUESTIONS = ["is the red car left of the house ?", "How many cars, and where? A. one B. two"]


def batch_of(processor, questions=QUESTIONS, n_images=1, options=("A", "B"), **more):
    albums = [[picture(10 * row + k) for k in range(n_images)] for row, _ in enumerate(questions)]
    return pid_lens.batch(processor, images=albums, questions=questions, options=options, **more)


def said(processor, batch, name):
    """What a span says in each sample."""
    pairs = zip(batch.inputs["input_ids"], batch.spans[name], strict=True)
    return [joined(processor.tokenizer.decode(ids[mask])) for ids, mask in pairs]


@pytest.fixture(params=[byte_level, metaspace], ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.mark.parametrize("side", ["left", "right"])
def test_named_words_are_found(make, side):
    processor = processor_of(make, side)
    batch = batch_of(
        processor,
        system="be brief",
        spans={"place": ["left of the house", "where"], "role": "USER:", "end": " ASSISTANT: "},
    )
    place = [text.rstrip("?") for text in said(processor, batch, "place")]  # "where?" is a token
    assert place == ["leftofthehouse", "where"]
    assert said(processor, batch, "role") == ["USER:"] * 2
    assert said(processor, batch, "end") == ["ASSISTANT:"] * 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_system_and_listed_options_are_found_by_name(make, side):
    processor = processor_of(make, side)
    questions = ["What colour is it? A. grey B. red", QUESTIONS[1]]
    system = ["be brief", "What colour is the cat's tail?"]
    batch = batch_of(processor, questions, system=system, spans={"system": True, "options": True})
    assert said(processor, batch, "system") == list(map(joined, system))
    assert said(processor, batch, "options") == ["A.greyB.red", "A.oneB.two"]
    assert not (batch.spans["options"] & ~batch.spans["question"]).any()
    each = batch_of(
        processor, questions, options=[["grey", "red"], ["one", "two"]], spans={"options": True}
    )
    assert said(processor, each, "options") == ["A.greyB.red", "A.oneB.two"]


def test_a_token_with_the_space_before_a_word_is_the_words():
    processor = processor_of(byte_level)
    batch = batch_of(processor, QUESTIONS[:1], spans={"car": "car", "space": " red "})
    tokens = batch.inputs["input_ids"][batch.spans["car"]]
    assert processor.tokenizer.decode(tokens) == " car"
    assert said(processor, batch, "space") == ["red"]


@pytest.mark.parametrize(("occurrence", "rank"), [(0, 0), (1, 1), (-1, 1)])
def test_one_of_several_occurrences(make, occurrence, rank):
    processor = processor_of(make)
    batch = batch_of(processor, QUESTIONS[:1], spans={"article": ("the", occurrence)})
    assert said(processor, batch, "article") == ["the"]
    ids = batch.inputs["input_ids"][0]
    places = [at for at, one in enumerate(ids) if processor.tokenizer.decode(one).strip() == "the"]
    assert batch.spans.positions("article").item() == places[rank]


def test_parts_are_told_from_the_same_words_elsewhere():
    """A question that the role's name ends with, and a system turn that asks it first."""
    processor = processor_of(byte_level, "right")
    batch = batch_of(processor, ["A", "USER:"], system=["A", "USER:"], spans={"system": True})
    answer = batch.spans.positions("answer")
    assert (batch.spans.positions("question") < answer).all()
    assert said(processor, batch, "question") == ["A", "USER:"]
    assert (batch.spans.positions("system") < batch.spans["image"].long().argmax(-1)).all()
    assert said(processor, batch, "system") == ["A", "USER:"]


@pytest.mark.parametrize("unknown", ["<unk>", "<bos>"])
@pytest.mark.parametrize("start", ["", "<bos>"])
def test_start_and_end_tokens_are_no_part_of_the_text(start, unknown):
    processor = processor_of(byte_level, template=start + TEMPLATE)
    processor.tokenizer.unk_token = unknown
    processor.tokenizer.backend_tokenizer.post_processor = tk.processors.TemplateProcessing(
        single="<bos> $A <unk>", special_tokens=[("<bos>", 1), ("<unk>", 2)]
    )
    batch = batch_of(processor, spans={"role": "USER"})
    assert said(processor, batch, "question") == list(map(joined, QUESTIONS))
    assert said(processor, batch, "role") == ["USER"] * 2
    assert [row.tolist().count(1) for row in batch.inputs["input_ids"]] == [1, 1]


WORDS = [
    ("a café here", "caf", "café", (2, 6)),
    ("a cafe\u0301 here", "cafe", "cafe\u0301", (2, 7)),
    ("который это", "кот", "который", (0, 7)),
    ("छोटे करो", "कर", "करो", (5, 8)),
    ("红色的car在左边", "ca", "car", (3, 6)),
]


@pytest.mark.parametrize(("text", "part", "word", "where"), WORDS)
def test_words_are_whole_words_in_every_script_with_spaces(text, part, word, where):
    prompt = Prompt(text, [], [], frozenset())
    assert find_text(prompt, word) == where
    with pytest.raises(ValueError, match="only inside longer words"):
        find_text(prompt, part)


@pytest.mark.parametrize(
    ("text", "part", "where"),
    [("红色的car在左边", "色", (1, 2)), ("차가 있다", "차", (0, 1)), ("มีรถสีแดง", "รถ", (2, 4))],
)
def test_words_of_scripts_without_spaces_may_stand_anywhere(text, part, where):
    assert find_text(Prompt(text, [], [], frozenset()), part) == where


WRONG = {
    "not there": ({"car": "the blue car"}, "is not in the prompt"),
    "several": ({"the": "the"}, r"occurs 2 times .* \('the', 0\) for the first"),
    "an occurrence too far": ({"the": ("the", 2)}, "there is no occurrence 2"),
    "part of a word": ({"car": "ca"}, "only inside longer words"),
    "an image's placeholder": ({"word": "image"}, "is not in the prompt"),
    "blank": ({"nothing": " "}, "blank"),
    "none": ({"car": [None]}, "a batch of their own"),
    "texts of others": ({"car": ["car", "car"]}, "one per sample: 1"),
    "a number": ({"car": 3}, "one per sample: 1"),
    "a span there is": ({"question": "car"}, "found anyway"),
    "an image there is": ({"image_0": "car"}, "found anyway"),
    "options that are not listed": ({"options": True}, "must come after markers"),
    "no system turn": ({"system": True}, "a system turn must be given"),
    "a name nobody knows": ({"car": True}, "name its text"),
}


@pytest.mark.parametrize("case", WRONG)
def test_spans_that_cannot_be_found_are_refused(case):
    spans, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        batch_of(processor_of(byte_level), QUESTIONS[:1], spans=spans)


def test_templates_that_drop_or_rewrite_what_they_are_given_are_refused():
    silent = TEMPLATE.replace("SYSTEM: {{ m.content[0].text }} ", "")
    with pytest.raises(ValueError, match="leaves out or rewrites the system turn"):
        batch_of(processor_of(byte_level, template=silent), system="be brief")
    loud = TEMPLATE.replace("{{ part.text }}", "{{ part.text | upper }}")
    with pytest.raises(ValueError, match="leaves out or rewrites the question"):
        batch_of(processor_of(byte_level, template=loud))


def test_tokenizers_without_offsets_are_refused():
    processor = SimpleNamespace(tokenizer=hf.CanineTokenizer(), image_token_id=None)
    with pytest.raises(ValueError, match="knows no character offsets"):
        Prompt.of(processor, "is it so ?")


LISTINGS = [
    ("What? A. a cat B. a dog", ["A", "B"], "A. a cat B. a dog"),
    ("What?\nA. a cat\nB. a dog\nAnswer with a letter.", ["A", "B"], "A. a cat\nB. a dog"),
    ("What? (a) cat (b) dog", ["a", "b"], "(a) cat (b) dog"),
    ("What? A) cat B) dog.", ["cat", "dog"], "A) cat B) dog"),
    ("What?\n- cat\n- dog\nSay it.", ["cat", "dog"], "- cat\n- dog"),
    ("What? 1. cat 2. dog", ["cat", "dog"], "1. cat 2. dog"),
    ("Is it a cat or a dog?", ["a cat", "a dog"], None),
    ("What? B. a dog A. a cat", ["A", "B"], None),
    ("Vitamin A. Or B. then? A. yes B. no", ["A", "B"], None),
    ("What? A. cats B. dogs", ["cat", "dog"], None),
    ("Answer A. or B.", ["A", "B"], None),
    ("What? A. cat B. dog", [5, 6], None),
    ("What? A. cat", ["A"], None),
]


@pytest.mark.parametrize(("question", "options", "listing"), LISTINGS)
def test_options_are_listed_behind_markers_in_their_order(question, options, listing):
    where = find_listing(question, options)
    assert (where and question[slice(*where)]) == listing


def tokenizer_of(*special, **named):
    tokenizer = byte_level()
    tokenizer.add_special_tokens(list(special))
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{name: f"<{name[:3]}>" for name in ("pad_token", "bos_token", "unk_token")},
        eos_token="<bos>",
        extra_special_tokens=named,
        padding_side="left",
    )


def gemma3():
    named = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    return hf.Gemma3Processor(
        hf.Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer_of("<boi>", "<eoi>", **named),
        chat_template=TEMPLATE.replace("<image>", "<boi>"),
        image_seq_length=4,
    )


def paligemma():
    pixels = hf.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    pixels.image_seq_length = 4
    template = (
        "{% for part in messages[-1].content %}{% if part.type == 'image' %}<image>"
        "{% else %}{{ part.text }} {% endif %}{% endfor %}"
    )
    return hf.PaliGemmaProcessor(pixels, tokenizer_of(), chat_template=template)


def idefics3():
    """Tiles: each image has five runs of tokens."""
    labels = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    around = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    pixels = hf.Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    return hf.Idefics3Processor(
        pixels, tokenizer_of(*around, *labels), image_seq_len=4, chat_template=TEMPLATE
    )


def llava():
    return processor_of(byte_level)


@pytest.mark.parametrize("make", [llava, gemma3, paligemma, idefics3])
def test_each_of_several_images_has_its_tokens(make):
    processor = make()
    one, two = (batch_of(processor, n_images=n, spans={"what": ["red", "cars"]}) for n in (1, 2))
    for batch in (one, two):
        assert said(processor, batch, "question") == list(map(joined, QUESTIONS))
        assert said(processor, batch, "what") == ["red", "cars"]
    image, first, second = (two.spans[name] for name in ("image", "image_0", "image_1"))
    assert torch.equal(image, first | second)
    assert not (first & second).any()
    assert torch.equal(first.sum(-1), one.spans["image"].sum(-1))
    assert torch.equal(second.sum(-1), one.spans["image"].sum(-1))
    assert (two.spans.positions("image_0") < second.long().argmax(-1)).all()
    assert "image_0" not in one.spans
    assert "labels" not in two.inputs


def test_images_are_told_apart_by_what_stands_between_them_else_by_their_size():
    """Four tokens an image on its own; beside others some processors make it smaller."""
    album = [[picture(0), picture(1)]]
    apart = torch.tensor([[True] * 3 + [False] + [True] * 5])
    found = single_images(llava(), apart, album)
    assert [mask.sum().item() for mask in found.values()] == [3, 5]
    joined_up = torch.tensor([[True] * 8 + [False]])
    found = single_images(llava(), joined_up, album)
    assert [mask.sum().item() for mask in found.values()] == [4, 4]
    with pytest.raises(ValueError, match=r"have 7 tokens together, but \[4, 4\]"):
        single_images(llava(), joined_up[:, 1:], album)


def test_images_that_every_sample_has_have_a_name():
    albums = [[picture(0)], [picture(1), picture(2)], [picture(3)] * 3]
    batch = pid_lens.batch(llava(), images=albums, questions=["what ?"] * 3, options=("A", "B"))
    assert list(batch.spans) == ["image", "image_0", "question", "answer"]
    assert batch.spans["image"].sum(-1).tolist() == [4, 8, 12]
    assert batch.spans["image_0"].sum(-1).tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="at least one"):
        pid_lens.batch(llava(), images=[[]], questions=["what ?"], options=("A", "B"))


def test_plain_inputs_with_several_images_lead_to_the_same_question():
    processor = llava()
    batch = batch_of(processor, n_images=3)
    plain = resolve_samples(Batch(inputs=batch.inputs), processor, processor.image_token_id)
    assert torch.equal(plain.spans["question"], batch.spans["question"])
    assert plain.ids == batch.ids


SEVERAL = {
    "the same words": ("", " ASSISTANT:"),
    "the same special token": ("<eot>", "<eot> ASSISTANT: think"),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_plain_inputs_of_several_turns_are_refused(case):
    stop, ending = SEVERAL[case]
    processor = processor_of(byte_level, template=TEMPLATE.replace(" ASSISTANT:", ending))
    processor.tokenizer.add_special_tokens({"eos_token": "<eot>"})
    turns = f"USER: <image>\nis it red ?{stop} ASSISTANT: no{stop} USER: where is it ?{ending}"
    inputs = processor(images=[picture()], text=[turns], return_tensors="pt")
    with pytest.raises(ValueError, match="by the processor's chat template in one turn"):
        resolve_samples(Batch(inputs=inputs), processor, processor.image_token_id)


def test_text_between_images_is_found_where_it_stands_once():
    template = TEMPLATE.replace("<image>\n", "where <image> is ")
    processor = processor_of(byte_level, template=template)
    batch = batch_of(processor, n_images=2, spans={"word": ("is", 0)})
    places = batch.spans.positions("word")
    assert (places > batch.spans.positions("image_0")).all()
    assert (places < batch.spans.positions("image_1")).all()
    with pytest.raises(ValueError, match="lies between images"):
        batch_of(processor, n_images=3, spans={"word": ("is", 1)})


def test_videos_are_refused():
    ids = torch.tensor([[1, 9, 5, 2]])
    require_no_videos({"input_ids": ids, "pixel_values_videos": None})
    with pytest.raises(ValueError, match=r"a video came \(pixel_values_videos\)"):
        require_no_videos({"input_ids": ids, "pixel_values_videos": torch.zeros(1)})
    processor = llava()
    batch = batch_of(processor)
    processor.video_token_id = int(batch.inputs["input_ids"][0, -1])
    with pytest.raises(ValueError, match="a video came"):
        batch_of(processor)
    with pytest.raises(ValueError, match="a video came"):
        find_question(processor, batch.inputs["input_ids"], batch.spans["image"], 3)


def test_spans_grow_by_more_masks():
    ids = torch.tensor([[9, 9, 9, 5, 2], [2, 9, 9, 9, 5]])
    spans = Spans(image=ids == 9, question=ids == 5)
    more = spans | {"car": spans.pick("image", [0, 2])}
    assert list(more) == ["image", "question", "car"]
    assert list(spans) == ["image", "question"]
    assert more["car"].nonzero().tolist() == [[0, 0], [0, 2], [1, 1], [1, 3]]
    each = spans.pick("image", torch.tensor([[1, 0], [2, 2]]))
    assert each.nonzero().tolist() == [[0, 0], [0, 1], [1, 3]]
    assert torch.equal((more | Spans(car=each))["car"], each)


def test_ranks_may_be_numpys():
    image = torch.tensor([[True, True, False, True]] * 2)
    picked = Spans(image=image).pick("image", tuple(np.array([0, 2])))
    assert picked.nonzero().tolist() == [[0, 0], [0, 3], [1, 0], [1, 3]]


@pytest.mark.parametrize(
    ("ranks", "error", "message"),
    [
        ([3], ValueError, r"of ranks 0 to 2; asked for \[3\]"),
        ([-1], ValueError, "ranks 0 to 2"),
        ([], ValueError, "none of them"),
        ([[0], []], ValueError, "none of them"),
        ([[0]], ValueError, "one per sample: 2"),
        ([0.5], TypeError, "whole numbers"),
        ([True], TypeError, "whole numbers"),
    ],
)
def test_ranks_that_a_span_lacks_are_refused(ranks, error, message):
    image = torch.tensor([[True, True, False, True]] * 2)
    with pytest.raises(error, match=message):
        Spans(image=image).pick("image", ranks)


def test_new_masks_are_checked_as_the_old():
    spans = Spans(image=torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="matches no token"):
        spans | {"car": spans["image"] & ~spans["image"]}
    with pytest.raises(TypeError, match="boolean"):
        spans | {"car": spans["image"].long()}
    with pytest.raises(TypeError, match="unsupported operand"):
        spans | spans["image"]
