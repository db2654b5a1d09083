"""Dissection: find a model's plain modules, in transformers, nnsight or TransformerLens."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pid_lens.model.frameworks import ADAPTERS, TRANSFORMERS, adapter_of

if TYPE_CHECKING:
    from pid_lens.model.anatomy import Anatomy


def dissect(model: Any) -> Anatomy:
    """Find a model's decoder, layers, final norm and unembedding, in any known framework.

    Args:
        model: a vision-language model of transformers, or one that nnsight (`NNsight`,
            `TransformersModel`) or TransformerLens (`TransformerBridge`) wraps.

    Returns:
        Its `Anatomy`, of the plain modules.

    Raises:
        TypeError: no adapter knows the model's class.
        ImportError: a framework of a version that was not tested.
        ValueError: an adapter knows it but misses a part, or the family cannot be measured
            without a leak.

    Example:
        >>> import pid_lens
        >>> model, _ = pid_lens.demo.load()
        >>> dissect(model).site
        'model.language_model.inputs_embeds'
    """
    adapter = adapter_of(model)
    if adapter is None:
        raise TypeError(
            f"no adapter knows {type(model).__module__}.{type(model).__name__} (known frameworks: "
            f"{', '.join(ADAPTERS)}). Hand over its parts: anatomy=pid_lens.Anatomy(model=..., "
            "decoder=..., layers=..., norm=..., unembed=..., image_token=...). If it wraps a "
            "model of transformers (torch.compile, DataParallel, PEFT), hand over the wrapped "
            "model"
        )
    anatomy: Anatomy = adapter.dissect(model)
    return anatomy


def dissect_plain(model: Any) -> Anatomy:
    """Find the parts of a plain model of transformers, as `dissect` does.

    Raises:
        TypeError: it is not a model.
        ValueError: a part has none of the names that families give it.

    Example:
        >>> import pid_lens
        >>> model, _ = pid_lens.demo.load()
        >>> anatomy = dissect_plain(model)
        >>> anatomy.decoder is model.model.language_model, anatomy.unembed is model.lm_head
        (True, True)
    """
    find: Callable[[Any], Anatomy] = import_module(ADAPTERS[TRANSFORMERS]).dissect
    return find(model)
