"""What all stages of the training share: model, data, random generator and training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from pid_lens.demo import architecture
from pid_lens.demo.augment import augment
from pid_lens.demo.data import WHITE, digits
from pid_lens.demo.processor import DIGIT_WORDS
from pid_lens.demo.prompts import FULL, LANGUAGE, VISION, Prompts, prompts

SEEN = {FULL: 0.5, VISION: 0.25, LANGUAGE: 0.25}
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Steps:
    """Numbers of optimiser steps of each stage, and of those after which a checkpoint is kept.

    Attributes:
        vision: steps that train the vision tower alone.
        text: steps that train the language model alone.
        align: steps that train the projector.
        tune: steps that train projector and language model.
        keep_align: numbers of `align` steps after which a checkpoint is kept.
        keep_tune: numbers of `tune` steps after which a checkpoint is kept.
    """

    vision: int = 3000
    text: int = 1000
    align: int = 800
    tune: int = 2000
    keep_align: tuple[int, ...] = (0, 50, 150)
    keep_tune: tuple[int, ...] = (50, 100, 150, 250, 500, 1000)


@dataclass
class Trainer:
    """The model in training, with the data and the random generator that all stages draw from.

    Attributes:
        model: the model.
        reader: linear probe of the digit on the vision tower's image features; not shipped.
        pixels: training images from -1 to 1, [n, 3, 8, 8].
        labels: their digits, [n].
        table: all prompts.
        generator: of all random numbers.
        steps: lengths of the stages.
        folder: where checkpoints are written.
    """

    model: LlavaForConditionalGeneration
    reader: nn.Linear
    pixels: Float[Tensor, "n 3 8 8"]
    labels: Int[Tensor, " n"]
    table: Prompts
    generator: torch.Generator
    steps: Steps
    folder: Path

    def draw(self, n: int, high: int) -> Int[Tensor, " n"]:
        """Draw whole numbers from 0 to high - 1."""
        return torch.randint(high, (n,), generator=self.generator)

    def choose(self, n: int, weights: list[float]) -> Int[Tensor, " n"]:
        """Draw ranks with the given weights."""
        return torch.multinomial(torch.tensor(weights), n, True, generator=self.generator)

    def some(self, n: int, share: float) -> Bool[Tensor, " n"]:
        """Draw a mask that is True with the given probability."""
        return torch.rand(n, generator=self.generator) < share

    def seen(self, n: int) -> Int[Tensor, " n"]:
        """Draw which modalities of each row are not ablated: FULL, VISION or LANGUAGE."""
        return self.choose(n, list(SEEN.values()))

    def photos(self, n: int) -> tuple[Float[Tensor, "n 3 8 8"], Int[Tensor, " n"]]:
        """Draw augmented training digits with their labels."""
        picked = self.draw(n, len(self.labels))
        return augment(self.pixels[picked], self.generator), self.labels[picked]

    def loop(
        self,
        stage: str,
        parts: list[nn.Module],
        steps: int,
        loss: Callable[[], Tensor],
        keep: tuple[int, ...] = (),
    ) -> None:
        """Minimise a loss by some parts, all else frozen: AdamW, one cycle of the rate.

        Args:
            stage: its name.
            parts: the modules that learn.
            steps: how many.
            loss: of a fresh draw of samples.
            keep: the steps before which a checkpoint is kept.
        """
        self.model.requires_grad_(False)
        weights = [weight.requires_grad_() for part in parts for weight in part.parameters()]
        optimiser = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=0.02)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
        for step in tqdm(range(steps), desc=stage, mininterval=2):
            if step in keep:
                self.save(f"{stage}-{step:04d}")
            optimiser.zero_grad()
            loss().backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            cycle.step()

    def save(self, name: str) -> None:
        """Write a checkpoint in half precision."""
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in self.model.state_dict().items()}
        save_file(weights, self.folder / f"{name}.safetensors")


def trainer(seed: int, out: Path, steps: Steps) -> Trainer:
    """Initialise model, probe, data and generator; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.build_model()
        model.set_attn_implementation("eager")  # the fastest for so small a model
        reader = nn.Linear(architecture.VISION_WIDTH, len(DIGIT_WORDS))
    scans = digits("train")
    # Grey levels as `picture` rounds them, scaled to -1..1
    grey = torch.from_numpy(np.rint(scans.pixels * (255 / WHITE))).float() / 255 * 2 - 1
    return Trainer(
        model=model,
        reader=reader,
        pixels=grey[:, None].expand(-1, 3, -1, -1),
        labels=torch.from_numpy(scans.labels),
        table=prompts(),
        generator=torch.Generator().manual_seed(seed),
        steps=steps,
        folder=out / "checkpoints",
    )
