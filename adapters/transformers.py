"""transformers: the decoder, layers, final norm and unembedding of a vision-language model."""

from __future__ import annotations

from typing import Any

from torch import nn

from pid_lens.model import Anatomy, CrossAttention, DeepStack, ImagePathway, QuestionAwareImage

ENTRANCES: dict[str, tuple[ImagePathway, ...]] = {
    "qwen3_vl": (DeepStack(),),
    "qwen3_vl_moe": (DeepStack(),),
    "mllama": (CrossAttention(),),
}
"""Family -> the pathways by which image features enter its decoder besides the embeddings."""

STACKS = ("layers", "h", "blocks")
NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f")


def dissect(model: Any) -> Anatomy:
    """Find the decoder, layers, final norm and unembedding of a transformers model.

    Raises:
        TypeError: it is not a model.
        ValueError: a part has none of the names that families give it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected a model, got a {type(model).__name__}: are model and processor swapped?"
        )
    config: Any = model.config
    decoder = _decoder(model)
    unembed: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if unembed is None:
        raise ValueError(
            f"{type(model).__name__} has no output embeddings: hand over the model with its "
            "language-modelling head (…ForConditionalGeneration), not its base"
        )
    return Anatomy(
        model=model,
        decoder=decoder,
        layers=tuple(_child(decoder, STACKS, nn.ModuleList)),
        norm=_child(decoder, NORMS, nn.Module),
        unembed=unembed,
        image_token=_image_token(config),
        entrances=ENTRANCES.get(config.model_type, ()),
        question_aware=_question_aware(model),
    )


def _question_aware(model: Any) -> QuestionAwareImage | None:
    """Find the word embeddings of a Q-Former that reads the question, None if there are none."""
    former: Any = getattr(model, "qformer", None)
    words = getattr(getattr(former, "embeddings", None), "word_embeddings", None)
    if not isinstance(words, nn.Module):
        return None
    return QuestionAwareImage(words=words, features=model.get_image_features)


def _decoder(model: Any) -> Any:
    """Find the innermost module that holds the layers: some families wrap it twice."""
    decoder = model.get_decoder()
    while not any(hasattr(decoder, name) for name in STACKS):
        inner = next(
            (
                getattr(decoder, n, None)
                for n in ("model", "decoder")
                if isinstance(getattr(decoder, n, None), nn.Module)
            ),
            None,
        )
        if inner is None:
            raise ValueError(
                f"no decoder blocks in {type(model).__name__}: expected a stack named one of "
                f"{', '.join(STACKS)}. Hand over its parts: anatomy=pid_lens.Anatomy(...)"
            )
        decoder = inner
    return decoder


def _child(module: nn.Module, names: tuple[str, ...], kind: type) -> Any:
    for name in names:
        if isinstance(getattr(module, name, None), kind):
            return getattr(module, name)
    raise ValueError(
        f"{type(module).__name__} has none of {', '.join(names)}. Hand over its parts: "
        "anatomy=pid_lens.Anatomy(...)"
    )


def _image_token(config: Any) -> int | None:
    return getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
