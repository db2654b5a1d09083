"""What every stage of the training shares: the model, the digits, chance, and the loop."""

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
    """How long each stage takes, and after which steps a checkpoint is kept."""

    vision: int = 3000
    text: int = 1000
    align: int = 800
    tune: int = 2000
    keep_align: tuple[int, ...] = (0, 50, 150)
    keep_tune: tuple[int, ...] = (50, 100, 150, 250, 500, 1000)


@dataclass
class Trainer:
    """The model in the making, with the data and the chance that every stage draws from."""

    model: LlavaForConditionalGeneration
    reader: nn.Linear
    """Names the digit from the vision tower's features; not shipped."""
    pixels: Float[Tensor, "n 3 8 8"]
    labels: Int[Tensor, " n"]
    table: Prompts
    generator: torch.Generator
    steps: Steps
    folder: Path

    def draw(self, n: int, high: int) -> Int[Tensor, " n"]:
        """Whole numbers from 0 to high - 1."""
        return torch.randint(high, (n,), generator=self.generator)

    def choose(self, n: int, weights: list[float]) -> Int[Tensor, " n"]:
        """Ranks drawn with the given weights."""
        return torch.multinomial(torch.tensor(weights), n, True, generator=self.generator)

    def some(self, n: int, share: float) -> Bool[Tensor, " n"]:
        """Rows picked at random."""
        return torch.rand(n, generator=self.generator) < share

    def seen(self, n: int) -> Int[Tensor, " n"]:
        """Which modalities each row sees."""
        return self.choose(n, list(SEEN.values()))

    def photos(self, n: int) -> tuple[Float[Tensor, "n 3 8 8"], Int[Tensor, " n"]]:
        """Augmented training digits with their labels."""
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
            parts: what learns.
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
        """Keep the weights in half precision."""
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in self.model.state_dict().items()}
        save_file(weights, self.folder / f"{name}.safetensors")


def trainer(seed: int, out: Path, steps: Steps) -> Trainer:
    """Everything at its beginning; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.build_model()
        model.set_attn_implementation("eager")  # the fastest for so small a model
        reader = nn.Linear(architecture.VISION_WIDTH, len(DIGIT_WORDS))
    scans = digits("train")
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
