"""What a lens costs, as ratios within one run: ``python tests/benchmarks/lens.py``.

Each figure is the median over rounds of (with) / (without), the two measured in turn, so that a
machine whose speed drifts does not matter.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import transformers as hf

import pid_lens
from pid_lens import Batch, Knockout, Lens, Spans, intervene

IMAGE, TOKENS, ROWS = 999, 600, 2


def llava(layers: int = 8, width: int = 256) -> tuple[torch.nn.Module, Batch]:
    """A random LLaVA of 8 layers, width 256, and prompts of 600 tokens."""
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(
            vocab_size=1000,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=TOKENS,
        ),
        vision_config=hf.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=336,
            patch_size=14,
            projection_dim=32,
        ),
        image_token_index=IMAGE,
    )
    ids = torch.randint(3, 900, (ROWS, TOKENS))
    ids[:, 4:580] = IMAGE
    image, question = ids == IMAGE, torch.zeros_like(ids, dtype=torch.bool)
    question[:, 580:-1] = True
    batch = Batch(
        inputs={"input_ids": ids, "pixel_values": torch.randn(ROWS, 3, 336, 336)},
        spans=Spans(image=image, question=question),
        options=torch.tensor([[5, 6]]).expand(ROWS, -1),
        ids=tuple(map(str, range(ROWS))),
    )
    return hf.LlavaForConditionalGeneration(config).eval(), batch


def ratio(what: Callable[[], object], baseline: Callable[[], object], rounds: int = 9) -> float:
    """Median of time(what) / time(baseline), measured in turn after one warm-up."""
    found = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        what()
        between = time.perf_counter()
        baseline()
        found.append((between - begun) / (time.perf_counter() - between))
    return statistics.median(found[1:])


@torch.no_grad()
def main() -> None:
    """Prints the table."""
    model, batch = llava()
    moments = pid_lens.calibrate(model, [batch])

    def plain() -> None:
        model(**batch.inputs, use_cache=False)

    def inside(lens: Lens) -> None:
        with lens(batch):
            plain()

    three = {
        name: value.repeat(3, *[1] * (value.ndim - 1)) for name, value in batch.inputs.items()
    }
    reading = Lens(model, conditions={"full": []})
    forking = Lens(model, moments=moments)
    closed = Knockout("image", "question")
    masked = {"attention_mask": torch.ones_like(batch.inputs["input_ids"])}
    masked["attention_mask"][:, 0] = 0  # padding: the model makes a mask of its own

    def closing() -> None:
        with intervene(model, closed, spans=batch.spans):
            plain()

    figures = {
        "reading every layer / plain forward": ratio(lambda: inside(reading), plain),
        "fork of 3 conditions / plain forward of 3x the rows": ratio(
            lambda: inside(forking), lambda: model(**three, use_cache=False)
        ),
        "knockout in every layer / plain forward": ratio(closing, plain),
        "knockout in every layer / forward with a mask": ratio(
            closing, lambda: model(**batch.inputs, **masked, use_cache=False)
        ),
    }
    print(f"LLaVA of 8 layers, width 256, {TOKENS} tokens, {ROWS} rows, one thread")
    for name, figure in figures.items():
        print(f"{name:<56}{figure:.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    main()
