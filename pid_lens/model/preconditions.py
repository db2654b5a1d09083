"""Preconditions of a model: hooks must fire, and at weights that are there."""

from __future__ import annotations

from torch import nn


def require_uncompiled(model: nn.Module) -> None:
    """Compiled code does not see hooks that come later: what they hide would not be hidden.

    Raises:
        ValueError: the model, or a part of it, is compiled.
    """
    for name, module in model.named_modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
            raise ValueError(
                f"{name or 'the model'} is compiled (torch.compile), and compiled code does not "
                "see hooks: hand over the model as it was before it was compiled"
            )


def require_loaded(model: nn.Module) -> None:
    """Weights that are nowhere yet will come with modules that nobody has hooked.

    Raises:
        ValueError: a weight is on the meta device, and accelerate does not keep it elsewhere.
    """
    if any("_hf_hook" in module.__dict__ for module in model.modules()):
        return
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise ValueError(
                f"{name} is on the meta device: the model's weights are not loaded yet. Load them "
                "first (nnsight: TransformersModel(..., dispatch=True)), and make the lens then"
            )


def require_no_checkpointing(model: nn.Module) -> None:
    """Layers that run again in the backward pass would run without what is closed.

    Raises:
        ValueError: gradient checkpointing is on.
    """
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if again and model.training:
        raise ValueError(
            "with gradient checkpointing layers run again in the backward pass, when the knockout "
            "is over: turn gradient checkpointing off, or call model.eval()"
        )
