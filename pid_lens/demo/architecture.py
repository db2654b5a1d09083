"""The shipped model's architecture: LLaVA, a CLIP vision tower of 3 layers and a Llama of 6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pid_lens.demo.processor import IMAGE_TOKENS, PATCH, SIDE, SPECIAL, WORDS

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

DECODER_LAYERS = 6
WIDTH = 64
VISION_LAYERS = 3
VISION_WIDTH = 48


def config() -> LlavaConfig:
    """Configure vision tower and language model; about 300,000 parameters together.

    Example:
        >>> config().text_config.num_hidden_layers
        6
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    special = {word: i for i, word in enumerate(SPECIAL)}
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=DECODER_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(WORDS),
        max_position_embeddings=128,
        pad_token_id=special["<pad>"],
        bos_token_id=special["<bos>"],
        eos_token_id=special["<eos>"],
    )
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=special["<image>"],
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def build_model() -> LlavaForConditionalGeneration:
    """Build a model with random weights, drawn from torch's global generator."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(config())
