"""Tiny random vision-language models of many families, built in memory, with inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
import transformers as hf
from nnsight import NNsight
from torch.nn import functional as F

from pid_lens import Batch, Lens, Moments, Spans

IMAGE = 290
TEXT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
CLIP = {**VISION, "projection_dim": 32}
FOUR = {**VISION, "num_hidden_layers": 2, "image_size": 56}

Made = tuple[Any, dict[str, torch.Tensor]]


def prompts(n: int, image: int = 4, before: int = 3, after: int = 7) -> torch.Tensor:
    """Token ids: some text, an image, a question that differs from row to row, an end."""
    generator = torch.Generator().manual_seed(n)
    start = torch.randint(10, 200, (1, before), generator=generator).expand(n, -1)
    question = torch.randint(10, 200, (n, after - 1), generator=generator)
    end = torch.full((n, 1), 7)
    return torch.cat([start, torch.full((n, image), IMAGE), question, end], 1)


def llava(n: int) -> Made:
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=hf.CLIPVisionConfig(**CLIP),
        image_token_index=IMAGE,
        image_seq_length=4,
    )
    inputs = {"input_ids": prompts(n), "pixel_values": torch.randn(n, 3, 28, 28)}
    return hf.LlavaForConditionalGeneration(config), inputs


def llava_next(n: int) -> Made:
    config = hf.LlavaNextConfig(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=hf.CLIPVisionConfig(**CLIP),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[28, 28], [56, 28]],
        image_seq_length=4,
    )
    return _anyres(hf.LlavaNextForConditionalGeneration(config), n)


def llava_onevision(n: int) -> Made:
    config = hf.LlavaOnevisionConfig(
        text_config=hf.Qwen2Config(**TEXT),
        vision_config=hf.SiglipVisionConfig(**VISION),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[28, 28], [56, 28]],
    )
    return _anyres(hf.LlavaOnevisionForConditionalGeneration(config), n)


def _anyres(model: Any, n: int) -> Made:
    pixels, sizes = torch.randn(n, 2, 3, 28, 28), torch.tensor([[28, 28]]).repeat(n, 1)
    features = model.model.get_image_features(pixels, image_sizes=sizes).pooler_output
    ids = prompts(n, image=len(features[0]))
    return model, {"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes}


def qwen2_vl(n: int) -> Made:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
    return _qwen(hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration, vision, n)


def qwen2_5_vl(n: int) -> Made:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 64,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    return _qwen(hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration, vision, n)


def _qwen(config: Any, model: Any, vision: dict[str, Any], n: int, **text: int) -> Made:
    patches = {"patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    made = model(
        config(
            text_config={**TEXT, "rope_parameters": rope, **text},
            vision_config={**vision, **patches},
            image_token_id=IMAGE,
            video_token_id=291,
            vision_start_token_id=292,
            vision_end_token_id=293,
        )
    )
    ids = prompts(n)
    ids[:, 2], ids[:, 7] = 292, 293
    return made, {
        "input_ids": ids,
        "pixel_values": torch.randn(16 * n, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 4, 4]]).repeat(n, 1),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "attention_mask": torch.ones_like(ids),
    }


def internvl(n: int) -> Made:
    vision = hf.InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=[56, 56],
        patch_size=[14, 14],
    )
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(**TEXT), vision_config=vision, image_token_id=IMAGE
    )
    inputs = {"input_ids": prompts(n), "pixel_values": torch.randn(n, 3, 56, 56)}
    return hf.InternVLForConditionalGeneration(config), inputs


def gemma3(n: int) -> Made:
    text = {**TEXT, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
    config = hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(**text),
        vision_config=hf.SiglipVisionConfig(**{**VISION, "image_size": 56}),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=291,
        eoi_token_index=292,
    )
    model = hf.Gemma3ForConditionalGeneration(config)
    # it starts at 0, and a model that cannot see would pass every test
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, _typed(prompts(n), 56)


def paligemma(n: int) -> Made:
    config = hf.PaliGemmaConfig(
        text_config=hf.GemmaConfig(**TEXT, head_dim=8),
        vision_config=hf.SiglipVisionConfig(**VISION),
        image_token_index=IMAGE,
        projection_dim=32,
    )
    inputs = _typed(prompts(n, before=0), 28)
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    return hf.PaliGemmaForConditionalGeneration(config), inputs


def _typed(ids: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": ids,
        "pixel_values": torch.randn(len(ids), 3, size, size),
        "token_type_ids": (ids == IMAGE).long(),
        "attention_mask": torch.ones_like(ids),
    }


def blip2(n: int) -> Made:
    former = {k: v for k, v in VISION.items() if k not in ("image_size", "patch_size")}
    text = {"vocab_size": 300, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 4}
    config = hf.Blip2Config(
        vision_config=VISION,
        qformer_config={**former, "vocab_size": 300, "encoder_hidden_size": 32},
        text_config=hf.OPTConfig(
            **text, num_attention_heads=4, max_position_embeddings=128, word_embed_proj_dim=32
        ).to_dict(),
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    inputs = {"input_ids": prompts(n, before=0), "pixel_values": torch.randn(n, 3, 28, 28)}
    return _sighted(hf.Blip2ForConditionalGeneration(config)), inputs


def _sighted(model: Any) -> Any:
    """A Q-Former that sees something: it starts with weights too small for that."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.startswith("language_model."):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def fuyu(n: int) -> Made:
    text = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
    config = hf.FuyuConfig(
        text_config={"model_type": "persimmon", **text},
        patch_size=14,
        image_token_id=IMAGE,
        **text,
    )
    ids = prompts(n, before=0)
    places = torch.where(ids == IMAGE, torch.arange(ids.shape[1]), -1)
    return hf.FuyuForCausalLM(config), {
        "input_ids": ids,
        "image_patches": torch.randn(n, 4, 14 * 14 * 3),
        "image_patches_indices": places,
    }


def idefics3(n: int) -> Made:
    config = hf.Idefics3Config(
        text_config=hf.LlamaConfig(**TEXT).to_dict(),
        vision_config=FOUR,
        image_token_id=IMAGE,
        scale_factor=2,
    )
    inputs = {"input_ids": prompts(n), "pixel_values": torch.randn(n, 1, 3, 56, 56)}
    return hf.Idefics3ForConditionalGeneration(config), inputs


def mistral3(n: int) -> Made:
    config = hf.Mistral3Config(
        text_config=hf.MistralConfig(**TEXT),
        vision_config=hf.PixtralVisionConfig(**FOUR),
        image_token_index=IMAGE,
        spatial_merge_size=2,
    )
    return hf.Mistral3ForConditionalGeneration(config), {
        "input_ids": prompts(n),
        "pixel_values": torch.randn(n, 3, 56, 56),
        "image_sizes": torch.tensor([[56, 56]]).repeat(n, 1),
    }


def qwen3_vl(n: int) -> Made:
    """DeepStack: image features are added again after early layers."""
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 4,
        "intermediate_size": 64,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 16,
    }
    return _qwen(hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration, vision, n, head_dim=8)


def gemma4(n: int) -> Made:
    """Per-layer embeddings: the words reach every layer."""
    text = {
        **TEXT,
        "head_dim": 8,
        "global_head_dim": 8,
        "vocab_size_per_layer_input": 300,
        "hidden_size_per_layer_input": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 0,
    }
    vision = hf.Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        patch_size=14,
        pooling_kernel_size=1,
    )
    config = hf.Gemma4Config(
        text_config=hf.Gemma4TextConfig(**text),
        vision_config=vision,
        audio_config=None,
        image_token_id=289,
        boi_token_id=291,
        eoi_token_id=292,
        video_token_id=295,
        audio_token_id=296,
    )
    return hf.Gemma4ForConditionalGeneration(config), {"input_ids": prompts(n)}


def mllama(n: int) -> Made:
    """The image enters by cross-attention, whose gates start at 0 and are opened here."""
    text = {**TEXT, "cross_attention_layers": [1, 3]}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    vision = {
        "hidden_size": 32,
        "attention_heads": 4,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
        "max_num_tiles": 2,
        "vision_output_dim": 64,
        "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1], [1, 2]],
    }
    model = hf.MllamaForConditionalGeneration(
        hf.MllamaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    )
    for name, parameter in model.named_parameters():
        if "gate" in name:
            torch.nn.init.constant_(parameter, 1.0)
        if "cross_attn." in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    ids = prompts(n, image=1)
    seen = torch.ones(n, ids.shape[1], 1, 2)
    seen[:, :3] = 0
    return model, {
        "input_ids": ids,
        "pixel_values": torch.randn(n, 1, 2, 3, 28, 28),
        "aspect_ratio_ids": torch.ones(n, 1).long(),
        "aspect_ratio_mask": torch.tensor([[[1, 0]]]).repeat(n, 1, 1),
        "cross_attention_mask": seen,
        "attention_mask": torch.ones_like(ids),
    }


def instructblip(n: int) -> Made:
    """A Q-Former that reads the question while it looks at the image."""
    former = {k: v for k, v in VISION.items() if k not in ("image_size", "patch_size")}
    more = {"vocab_size": 300, "encoder_hidden_size": 32, "max_position_embeddings": 64}
    config = hf.InstructBlipConfig(
        vision_config=VISION,
        qformer_config={**former, **more},
        text_config=hf.LlamaConfig(**TEXT).to_dict(),
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    ids = prompts(n, before=0)
    words = torch.randint(10, 200, (n, 5), generator=torch.Generator().manual_seed(n))
    return _sighted(hf.InstructBlipForConditionalGeneration(config)), {
        "input_ids": ids,
        "pixel_values": torch.randn(n, 3, 28, 28),
        "qformer_input_ids": words,
        "qformer_attention_mask": torch.ones_like(words),
        "attention_mask": torch.ones_like(ids),
    }


LEAKING: dict[str, Callable[[int], Made]] = {"qwen3_vl": qwen3_vl, "gemma4": gemma4}
"""Families whose decoder is given more than embeddings, to those who do not know it."""

FAMILIES: dict[str, Callable[[int], Made]] = {
    make.__name__: make
    for make in (
        llava,
        llava_next,
        llava_onevision,
        qwen2_vl,
        qwen2_5_vl,
        internvl,
        gemma3,
        paligemma,
        blip2,
        fuyu,
        idefics3,
        mistral3,
        qwen3_vl,
        mllama,
        instructblip,
    )
}


def described(inputs: dict[str, torch.Tensor], options: Any = ((3, 4),), **more: Any) -> Batch:
    """The inputs as a batch with spans; the question is all between the image and the end."""
    ids = inputs["input_ids"]
    n, tokens = ids.shape
    image = ids == IMAGE
    question = torch.zeros_like(image)
    question[:, tokens - 6 : tokens - 1] = True
    known = {"ids": tuple(f"sample {row}" for row in range(n)), "labels": torch.zeros(n).long()}
    return Batch(
        inputs=inputs,
        spans=Spans(image=image, question=question & ~image),
        options=torch.tensor(options).expand(n, -1),
        **{**known, **more},
    )


def make(family: str, n: int = 4, seed: int = 0) -> tuple[Any, Batch]:
    """A model of the family in eval mode, and a batch for it."""
    torch.manual_seed(seed)
    model, inputs = FAMILIES[family](n)
    return model.eval(), described(inputs)


def padded(batch: Batch, side: str, by: int = 3) -> Batch:
    """The batch with padding on one side of every row."""

    def pad(x: torch.Tensor, value: int = 0) -> torch.Tensor:
        rest = (0, 0) * (x.ndim - 2)
        return F.pad(x, (*rest, *((by, 0) if side == "left" else (0, by))), value=value)

    ids = batch.inputs["input_ids"]
    grown = {
        name: pad(value, -1 if name == "image_patches_indices" else 0)
        for name, value in batch.inputs.items()
        if value.shape == ids.shape or name == "cross_attention_mask"
    }
    grown["attention_mask"] = pad(torch.ones_like(ids))
    spans = Spans(**{name: pad(mask) for name, mask in (batch.spans or {}).items()})
    return replace(batch, inputs={**batch.inputs, **grown}, spans=spans)


def in_nnsight(model: Any, kind: type[NNsight] = NNsight) -> NNsight:
    """A copy of a model, wrapped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Module .* has a submodule named 'output'")
        return kind(deepcopy(model))


def read(
    model: Any, batch: Batch, moments: Moments | None, **options: Any
) -> tuple[Lens, torch.Tensor]:
    """A lens that has read a batch, and the logits that its caller got."""
    lens = Lens(model, moments=moments, **options)
    with torch.no_grad(), lens(batch):
        logits = model(**batch.inputs).logits
    return lens, logits


class Rows(NNsight):
    """Puts the inputs of several invokes together, row by row."""

    def _batch_size(self, *inputs: Any, **kwargs: Any) -> int:
        return len(kwargs["input_ids"]) if "input_ids" in kwargs else 0

    def _batch(self, invokes: list, fn: Any) -> tuple:
        parts = [kwargs for _, kwargs in invokes]
        return (), {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
