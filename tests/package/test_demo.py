"""The shipped model: what it is made of, what it answers, how sure it is, how it was trained."""

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pid_lens import demo
from pid_lens.demo import data, passes, train
from pid_lens.demo.processor import DIGIT_WORDS, IMAGE_TOKENS, WORDS
from pid_lens.demo.prompts import FULL, LANGUAGE, VISION, Prompts, prompts, row
from pid_lens.demo.tasks import ALL_TASKS
from pid_lens.demo.weights import MODEL

CONDITIONS = {"full": FULL, "vision": VISION, "language": LANGUAGE}
LAST_OF_ALIGNMENT = [name for name in demo.checkpoints() if name.startswith("align")][-1]


@pytest.fixture(scope="module")
def final():
    return demo.load()[0]


@pytest.fixture(scope="module")
def processor():
    return demo.load()[1]


@pytest.fixture(scope="module")
def table():
    return prompts()


def rows_of(table: Prompts, task: str, split: str, seed: int = 0) -> Prompts:
    labels = torch.from_numpy(demo.digits(split).labels)
    coins = torch.randint(2, labels.shape, generator=torch.Generator().manual_seed(seed))
    return table.take(row(list(ALL_TASKS).index(task), labels, coins))


@cache
def pixels_of(processor, split: str) -> torch.Tensor:
    return processor.image_processor(demo.images(split), return_tensors="pt").pixel_values


@torch.no_grad()
def decoder_input(model, processor, rows, split):
    return passes.embed(model, rows, passes.features(model, pixels_of(processor, split)))


def attention(rows, knockout=None):
    """Causal attention, additive, where the answer or the question cannot see the image."""
    n, tokens = rows.tokens.shape
    allowed = torch.ones(n, tokens, tokens, dtype=torch.bool).tril() & ~rows.padding[:, None]
    queries = {
        None: torch.zeros_like(rows.image),
        "question": rows.question,
        "answer": torch.arange(tokens).expand(n, -1) == tokens - 1,
    }[knockout]
    allowed &= ~(queries[:, :, None] & rows.image[:, None])
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo().min)[:, None]


@torch.no_grad()
def answers(model, processor, table, task, *, seen=FULL, seed=0, knockout=None):
    """p(option) of all test digits, full-vocabulary, then tau = 0.3; and the right options."""
    rows = rows_of(table, task, "test", seed)
    embeds = decoder_input(model, processor, rows, "test")
    if seen != FULL:
        known = rows_of(table, task, "train", seed)
        source = decoder_input(model, processor, known, "train")
        span = "question" if seen == VISION else "image"
        values = source[getattr(known, span)]
        noise = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(seed))
        noise = values.mean(0) + noise * values.std(0)
        embeds = torch.where(getattr(rows, span)[..., None], noise, embeds)
    mask = attention(rows, knockout)
    options = torch.tensor([WORDS.index(word) for word in ALL_TASKS[task].options])
    words = passes.answer_logits(model, embeds, mask).double().softmax(-1)
    mass = words[:, options].sum(1, keepdim=True)
    uniform = torch.full((len(rows), len(options)), 1 / len(options), dtype=torch.float64)
    p = torch.where(mass < 0.3, uniform, words[:, options] / mass)
    return p, (rows.answer[:, None] == options).double().argmax(1)


def entropy(p):
    return -torch.xlogy(p, p).sum(-1) / math.log(2)


def information(p):
    return (entropy(p.mean(0)) - entropy(p).mean()).item()


def cross_entropy(p, right):
    return -p.gather(1, right[:, None]).log2().mean().item()


def accuracy(p, right):
    return (p.argmax(1) == right).double().mean().item()


def calibration_error(p, right, bins=10):
    sure, choice = p.max(1)
    held = (choice == right).double()
    place = (sure * bins).long().clamp_max(bins - 1)
    gaps = [(sure[place == b] - held[place == b]).sum().abs() for b in place.unique()]
    return (sum(gaps) / len(p)).item()


def test_digits_are_those_of_scikit_learn():
    scans = pytest.importorskip("sklearn.datasets").load_digits()
    for split in data.SPLITS:
        part = demo.digits(split)
        np.testing.assert_array_equal(part.pixels, scans.images[part.rows])
        np.testing.assert_array_equal(part.labels, scans.target[part.rows])


def test_split_is_disjoint_complete_and_stratified():
    known, held_out = demo.digits("train"), demo.digits("test")
    assert (len(known), len(held_out)) == (1347, 450)
    assert sorted([*known.rows, *held_out.rows]) == list(range(1797))
    share = np.bincount(held_out.labels) / np.bincount([*known.labels, *held_out.labels])
    assert np.abs(share - 450 / 1797).max() < 0.005


def test_archive_is_rebuilt_from_scikit_learn_and_names_source_and_licence(tmp_path):
    pytest.importorskip("sklearn")
    data.build_digits(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as new, np.load(data.FILE) as shipped:
        assert set(new.files) == set(shipped.files)
        for name in new.files:
            np.testing.assert_array_equal(new[name], shipped[name])
        assert "Alpaydin" in str(shipped["source"])
        assert "CC BY 4.0" in str(shipped["licence"])


def test_sizes(final):
    assert 250_000 < sum(weight.numel() for weight in final.parameters()) < 350_000
    assert final.config.text_config.num_hidden_layers == 6
    assert final.config.image_seq_length == IMAGE_TOKENS
    files = list((MODEL / "checkpoints").iterdir())
    assert sum(file.stat().st_size for file in files) < 12e6
    assert 8 <= len(files) <= 14


def test_checkpoints_stand_in_the_order_of_training():
    names = demo.checkpoints()
    stages = [name.split("-")[0] for name in names]
    assert stages == sorted(stages, key=["align", "tune", "final"].index)
    assert names[-1] == "final"
    for stage in ("align", "tune"):
        steps = [int(name.split("-")[1]) for name in names if name.startswith(stage)]
        assert len(steps) >= 3
        assert steps == sorted(steps)


def test_load_gives_float32_in_evaluation_mode_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    model, _ = demo.load()
    assert torch.equal(state, torch.random.get_rng_state())
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_processor_loads_by_its_folder_without_torchvision_or_a_network():
    script = f"""
import sys
sys.modules["torchvision"] = None
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained({str(MODEL)!r})
print(type(processor).__name__, type(processor.image_processor).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.split() == ["LlavaProcessor", "CLIPImageProcessorPil"]


def test_import_leaves_transformers_alone():
    script = "import sys, pid_lens.demo; print('transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_image_processor_keeps_the_pixels_of_a_digit_and_resizes_anything_else(processor):
    scans = demo.digits("test").pixels[:20]
    grey = np.rint(scans * (255 / 16)) / 255 * 2 - 1
    seen = processor.image_processor(demo.images("test")[:20], return_tensors="np").pixel_values
    np.testing.assert_allclose(seen, np.repeat(grey[:, None], 3, 1), atol=1e-6)
    np.testing.assert_array_equal(np.rint((seen[:, 0] + 1) / 2 * 16), scans)
    large = Image.new("RGB", (90, 41), "white")
    assert processor.image_processor(large, return_tensors="pt").pixel_values.shape[1:] == (
        3,
        8,
        8,
    )


@pytest.mark.parametrize("task", list(ALL_TASKS))
def test_prompts_render_with_the_task_in_the_system_turn(processor, table, task):
    for digit, coin in [(4, 0), (7, 1)]:
        entry = demo.task(task)
        text = processor.apply_chat_template(
            entry.messages(digit, coin), add_generation_prompt=True
        )
        question = entry.question(digit, coin)
        assert text == f"<bos> SYSTEM: {task} USER: <image> {question} ASSISTANT:"
        inputs = processor(images=demo.images("test")[0], text=text, return_tensors="pt")
        rank = row(list(ALL_TASKS).index(task), torch.tensor(digit), torch.tensor(coin))
        same = table.take(rank[None])
        assert inputs.input_ids[0].tolist() == same.tokens[~same.padding].tolist()
        assert processor.tokenizer.decode(same.tokens[same.question]) == question
        assert same.image.sum() == IMAGE_TOKENS
        assert processor.tokenizer.unk_token_id not in inputs.input_ids


def test_prompts_render_without_a_system_turn(processor):
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it even?"}]}
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "<bos> USER: <image> is it even? ASSISTANT:"
    assert processor.tokenizer.tokenize("is it even?") == ["is", "it", "even", "?"]


def test_passes_in_training_are_the_model_s_own(final, processor, table):
    digits_, pictures = demo.digits("test"), demo.images("test")[:5]
    ranks = [
        int(row(rank, torch.tensor(digits_.labels[rank]), torch.tensor(1)))
        for rank in range(len(ALL_TASKS))
    ]
    rows = table.take(torch.tensor(ranks))
    texts = [
        processor.apply_chat_template(
            entry.messages(int(digits_.labels[rank]), 1), add_generation_prompt=True
        )
        for rank, entry in enumerate(ALL_TASKS.values())
    ]
    images = [[picture] for picture in pictures]
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        own = final(**inputs).logits[:, -1]
        patches = passes.features(final, inputs.pixel_values)
        nowhere = torch.zeros(5, dtype=torch.bool)
        mask = passes.attention(rows, nowhere, nowhere)
        parts = passes.answer_logits(final, passes.embed(final, rows, patches), mask)
    torch.testing.assert_close(parts, own, atol=1e-4, rtol=0)


def test_targets_are_what_the_seen_modality_tells(table):
    posterior = torch.tensor([[0.7, 0.3, 0, 0, 0, 0, 0, 0, 0, 0]])
    a, b, zero = WORDS.index("A"), WORDS.index("B"), WORDS.index("zero")

    def target(task, seen, coin, cut=False):
        rank = row(list(ALL_TASKS).index(task), torch.tensor([0]), torch.tensor([coin]))
        return table.take(rank).targets(torch.tensor([seen]), torch.tensor([cut]), posterior)[0]

    for task, seen, coin, expected in [
        ("vision", FULL, 0, (0.7, 0.3)),
        ("vision", VISION, 0, (0.7, 0.3)),
        ("vision", LANGUAGE, 0, (0.5, 0.5)),
        ("language", FULL, 1, (0.0, 1.0)),
        ("language", VISION, 1, (0.5, 0.5)),
        ("language", LANGUAGE, 1, (0.0, 1.0)),
        ("redundant", FULL, 0, (1.0, 0.0)),
        ("redundant", VISION, 0, (0.7, 0.3)),
        ("redundant", LANGUAGE, 0, (1.0, 0.0)),
        ("synergy", FULL, 0, (0.7, 0.3)),
        ("synergy", FULL, 1, (0.3, 0.7)),
        ("synergy", VISION, 1, (0.5, 0.5)),
        ("synergy", LANGUAGE, 1, (0.5, 0.5)),
    ]:
        assert target(task, seen, coin)[[a, b]].tolist() == pytest.approx(expected)
        assert target(task, seen, coin).sum() == pytest.approx(1)
    for task, expected in [("vision", 0.5), ("redundant", 1.0), ("synergy", 0.5)]:
        assert target(task, FULL, 0, cut=True)[a].item() == pytest.approx(expected)
    assert target("redundant", VISION, 0, cut=True)[a].item() == pytest.approx(0.5)
    assert target("caption", FULL, 0)[zero] == pytest.approx(0.7)
    assert target("caption", LANGUAGE, 0)[zero] == pytest.approx(0.1)


@pytest.mark.parametrize("way", ["answer", "question"])
def test_training_closes_the_ways_that_a_knockout_closes(table, way):
    everywhere, nowhere = (torch.full((len(table),), value) for value in (True, False))
    closed, cut = (everywhere, nowhere) if way == "answer" else (nowhere, everywhere)
    torch.testing.assert_close(passes.attention(table, closed, cut), attention(table, way))
    assert not torch.equal(attention(table, way), attention(table))


def test_alignment_captions_held_out_digits_and_knows_nothing_of_the_tasks(processor, table):
    aligned, _ = demo.load(LAST_OF_ALIGNMENT)
    p, right = answers(aligned, processor, table, "caption")
    assert accuracy(p, right) >= 0.9
    assert information(answers(aligned, processor, table, "synergy")[0]) <= 0.01
    start, _ = demo.load(demo.checkpoints()[0])
    assert accuracy(*answers(start, processor, table, "caption")) < 0.5


@pytest.mark.parametrize("task", demo.TASKS)
def test_final_model_is_right_and_not_overconfident(final, processor, table, task):
    p, right = answers(final, processor, table, task)
    assert accuracy(p, right) >= 0.95
    assert abs(information(p) - (1 - cross_entropy(p, right))) <= 0.06
    assert calibration_error(p, right) <= 0.04


@pytest.mark.parametrize("task", demo.TASKS)
@pytest.mark.parametrize("condition", ["vision", "language"])
def test_one_modality_alone_tells_what_the_task_says(final, processor, table, task, condition):
    p, right = answers(final, processor, table, task, seen=CONDITIONS[condition])
    if condition in demo.task(task).told_by:
        assert information(p) >= 0.88
        assert abs(information(p) - (1 - cross_entropy(p, right))) <= 0.06
    else:
        assert information(p) <= 0.01


@pytest.mark.parametrize("task", demo.TASKS)
def test_the_image_reaches_the_answer_through_the_question(final, processor, table, task):
    untouched = information(answers(final, processor, table, task)[0])
    by_question = information(answers(final, processor, table, task, knockout="question")[0])
    by_answer = information(answers(final, processor, table, task, knockout="answer")[0])
    assert abs(by_answer - untouched) <= 0.06
    if task in {"vision", "synergy"}:
        assert by_question <= 0.01
    else:
        assert abs(by_question - untouched) <= 0.06


def test_batches_are_records_of_held_out_digits():
    batches = demo.batches("synergy", n=20, batch_size=8)
    assert len(batches) == 3
    records = list(batches)
    assert [len(record.ids) for record in records] == [8, 8, 4]
    ids = [name for record in records for name in record.ids]
    assert len(set(ids)) == 20
    assert ids == [name for record in batches for name in record.ids]
    assert all(name.startswith("synergy/test/") for name in ids)
    assert records[0].spans["image"].sum(1).tolist() == [IMAGE_TOKENS] * 8
    assert records[0].spans["question"].sum(1).tolist() == [7] * 8


def test_batches_agree_with_the_model(final):
    held = [
        final(**record.inputs).logits[:, -1].gather(1, record.options).argmax(1) == record.labels
        for record in demo.batches("redundant", n=50, batch_size=25)
    ]
    assert torch.cat(held).double().mean() >= 0.95


def test_batches_go_on_with_the_other_coin_and_then_refuse():
    last = list(demo.batches("synergy", n=900, batch_size=450))
    first, second = ([name.split("/")[-1] for name in record.ids] for record in last)
    assert all(a != b for a, b in zip(first, second, strict=True))
    with pytest.raises(ValueError, match="900"):
        demo.batches("synergy", n=901)


@pytest.mark.parametrize(
    ("call", "known"),
    [
        (lambda: demo.batches("parity"), "synergy"),
        (lambda: demo.batches("vision", split="validation"), "train"),
        (lambda: demo.digits("all"), "test"),
        (lambda: demo.images("all"), "test"),
        (lambda: demo.task("vqa"), "redundant"),
        (lambda: demo.load("best"), "final"),
        (lambda: demo.load(folder=Path("nowhere")), "nowhere"),
        (lambda: demo.batches("vision", batch_size=0), "at least 1"),
    ],
)
def test_unknown_names_raise_and_list_the_known(call, known):
    with pytest.raises(ValueError, match=known):
        call()


def test_training_is_reproducible_by_seed(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = train.Steps(2, 2, 2, 3, keep_align=(0,), keep_tune=(1,))
    try:
        runs = [train.train(seed, tmp_path / str(i), steps) for i, seed in enumerate([0, 0, 1])]
    finally:
        torch.set_num_threads(threads)
    first, again, other = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    written = {path.stem for path in (tmp_path / "0" / "checkpoints").iterdir()}
    assert written == {"align-0000", "align-0002", "tune-0001", "final"}
    model, _ = demo.load(folder=tmp_path / "0")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, first[name].half().float(), atol=0, rtol=0)
    for name in ("config.json", "processor_config.json", "tokenizer.json"):
        assert json.loads((tmp_path / "0" / name).read_text()) == json.loads(
            Path(MODEL / name).read_text()
        )


def test_words_cover_tasks_and_digits():
    assert len(set(WORDS)) == len(WORDS)
    assert {*DIGIT_WORDS, *ALL_TASKS, "A", "B"} <= set(WORDS)
