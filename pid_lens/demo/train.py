"""Train the shipped model: `python -m pid_lens.demo.train [--seed 0] [--out DIR]`.

Some nine minutes on one thread. `pid_lens.demo.load(folder=DIR)` loads what it wrote; the shipped
weights are seed 0 with `--out pid_lens/demo/model`.

As LLaVA (Visual Instruction Tuning, Liu et al., 2023, https://arxiv.org/abs/2304.08485): parts
that were trained alone, then two stages.

1. vision: the tower learns to name the digit from each patch and from all of them;
2. text: the language model learns to repeat the digit that is in the prompt, and to believe
   a caption, and to guess A or B where the tasks ask for more. It meets neither the parity of
   a digit nor the rule "answer opposite";
3. align: the projector alone learns to caption;
4. tune: projector and language model learn the tasks.

In 2 and 4 half of the rows are untouched; in a quarter the question, in a quarter the image is
ablated with noise, and the target is the answer's distribution given the other modality: the
shipped model's p(y | x1) and p(y | x2) are calibrated. That of an image is the vision tower's
own posterior of the digit. In most rows the answer position does not attend to the image, whose
information has to come through the question, as it does in large LLaVA models. In a few the
question does not attend to the image, and the target is the answer's distribution given the
question: no other path for the image is learnt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pid_lens.demo import architecture, passes
from pid_lens.demo.processor import DIGIT_WORDS, ROLES, SPECIAL, WORDS, processor
from pid_lens.demo.prompts import Prompts, row
from pid_lens.demo.tasks import ALL_TASKS
from pid_lens.demo.trainer import Steps, Trainer, trainer

CLOSED = 0.9  # share of rows whose answer position does not attend to the image
CUT = 0.08  # share of rows whose question does not attend to the image
OUT = Path("demo-model")
TEXT_STEPS = {"vision": 0.1, "language": 0.2, "redundant": 0.1, "synergy": 0.1, "caption": 0.5}
TUNE = {"vision": 0.24, "language": 0.08, "redundant": 0.2, "synergy": 0.4, "caption": 0.08}


def shares(mix: dict[str, float]) -> list[float]:
    """List a mixture's shares in the order of `ALL_TASKS`."""
    return [mix[name] for name in ALL_TASKS]


def pretrain_vision(at: Trainer) -> None:
    """Train the vision tower on the digit, from the mean of all patches and from each alone."""

    def loss() -> Tensor:
        pixels, labels = at.photos(128)
        logits = at.reader(passes.features(at.model, pixels))
        # Cross-entropy of the mean logits, plus .3 times that of each patch
        each = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))
        return F.cross_entropy(logits.mean(1), labels) + 0.3 * each

    at.loop("vision", [at.model.model.vision_tower, at.reader], at.steps.vision, loss)


def in_words(at: Trainer, rows: Prompts, digit: Int[Tensor, " n"]) -> Prompts:
    """Put words in the image's place: the digit's word at a random share of them."""
    n = len(rows)
    # A random word at each token; the digit's word instead, at a row's share from .2 to 1
    others = [i for i, word in enumerate(WORDS) if word not in {*SPECIAL, *ROLES, *DIGIT_WORDS}]
    soup = torch.tensor(others)[at.draw(rows.tokens.numel(), len(others))].view_as(rows.tokens)
    share = 0.2 + 0.8 * torch.rand(n, 1, generator=at.generator)
    named = torch.rand(rows.tokens.shape, generator=at.generator) < share
    soup = torch.where(named, WORDS.index(DIGIT_WORDS[0]) + digit[:, None], soup)
    tokens = torch.where(rows.image, soup, rows.tokens)
    return Prompts(**{**vars(rows), "tokens": tokens})


def taught(
    at: Trainer,
    rows: Prompts,
    embeds: Float[Tensor, "n tokens width"],
    task: Int[Tensor, " n"],
    digit: Float[Tensor, "n digits"],
) -> Tensor:
    """Compute the loss of a pass with noise ablation and attention knockout.

    It is the cross-entropy against the answer's distribution given what is left.

    Args:
        at: state of the training.
        rows: prompts.
        embeds: the decoder's input, nothing ablated yet.
        task: the rank of each row's task.
        digit: p(digit | image).
    """
    seen, masked = at.seen(len(rows)), at.some(len(rows), CLOSED)
    cut = at.some(len(rows), CUT)
    # Noise ablation; the question's moments are those of its task's prompts
    with torch.no_grad():
        words = at.model.get_input_embeddings()(torch.arange(len(WORDS)))
        mean, deviation = passes.question_moments(at.table, words, len(ALL_TASKS))
    embeds = passes.hide(embeds, rows, seen, (mean[task], deviation[task]), at.generator)
    # Cross-entropy against p(answer | what is left), under the attention knockouts
    logits = passes.answer_logits(at.model, embeds, passes.attention(rows, masked & ~cut, cut))
    return F.cross_entropy(logits, rows.targets(seen, cut, digit))


def pretrain_text(at: Trainer) -> None:
    """Train the language model on words alone; of the tasks only captions depend on the digit."""
    model = at.model
    caption = list(ALL_TASKS).index("caption")
    guess = torch.full((1, len(DIGIT_WORDS)), 1 / len(DIGIT_WORDS))

    def loss() -> Tensor:
        task, shown = at.choose(64, shares(TEXT_STEPS)), at.draw(64, len(DIGIT_WORDS))
        rows = at.table.take(row(task, at.draw(64, len(DIGIT_WORDS)), at.draw(64, 2)))
        rows = in_words(at, rows, shown)
        # p(digit | words): one-hot for captions, uniform for the tasks
        named = F.one_hot(shown, len(DIGIT_WORDS)).float()
        digit = torch.where((task == caption)[:, None], named, guess)
        return taught(at, rows, model.get_input_embeddings()(rows.tokens), task, digit)

    at.loop("text", [model.model.language_model, model.lm_head], at.steps.text, loss)


def align_stage(at: Trainer) -> None:
    """Train the projector to caption, all else frozen."""
    task = list(ALL_TASKS).index("caption")
    projector = at.model.model.multi_modal_projector

    def loss() -> Tensor:
        pixels, labels = at.photos(64)
        rows = at.table.take(row(task, labels, at.draw(64, 2)))
        embeds = passes.embed(at.model, rows, passes.features(at.model, pixels))
        mask = passes.attention(rows, at.some(64, CLOSED), at.some(64, 0.0))
        return F.cross_entropy(passes.answer_logits(at.model, embeds, mask), rows.answer)

    at.loop("align", [projector], at.steps.align, loss, at.steps.keep_align)
    at.save(f"align-{at.steps.align:04d}")


def tune_stage(at: Trainer) -> None:
    """Train projector and language model on the tasks, whole and with a modality ablated."""
    model = at.model

    def loss() -> Tensor:
        pixels, labels = at.photos(96)
        task = at.choose(96, shares(TUNE))
        rows = at.table.take(row(task, labels, at.draw(96, 2)))
        with torch.no_grad():
            patches = passes.features(model, pixels)
            digit = at.reader(patches).mean(1).softmax(-1)
        return taught(at, rows, passes.embed(model, rows, patches), task, digit)

    parts = [model.model.multi_modal_projector, model.model.language_model, model.lm_head]
    at.loop("tune", parts, at.steps.tune, loss, at.steps.keep_tune)
    at.save("final")


def train(seed: int = 0, out: Path = OUT, steps: Steps | None = None) -> Trainer:
    """Train from random weights and write configuration, processor and checkpoints.

    Args:
        seed: the same seed gives the same weights (with the same number of threads).
        out: the folder to write.
        steps: the length of each stage.
    """
    at = trainer(seed, out, steps or Steps())
    architecture.config().save_pretrained(out)
    processor().save_pretrained(out)
    for stage in (pretrain_vision, pretrain_text, align_stage, tune_stage):
        stage(at)
    return at


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the small model that pid_lens ships.")
    parser.add_argument("--seed", type=int, default=0, help="of every random number (default 0)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the same weights on every machine of a kind
    train(chosen.seed, chosen.out)


if __name__ == "__main__":
    main()
