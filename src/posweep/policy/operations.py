"""Two operations of a transformer with gradients of their own: RMSNorm, and the rotation of queries and keys.

Of transformers' lines autograd makes several operations each, every one of which writes an array and keeps another. On a
CPU each of the two makes a small model's step 3 to 4 % longer (benchmarks/RESULTS.md). What a model's own lines do is
asked of them first; where that is something else, such as Gemma's 1 + w, they stay. Rounding only, and in float32 only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROTATION = "apply_rotary_pos_emb"
"""What transformers calls it, in the module of each architecture that has it."""


def lighten(model: nn.Module) -> None:
    """Have a model use these operations where they are what it does; its rotation is that of its whole architecture.

    Every model is opened so, lest what one computes depend on which others this process has seen.
    """
    for module in model.modules():
        if _normalises(module):
            module.__class__ = _light(module.__class__)
    home = sys.modules[type(model).__module__]
    usual = getattr(home, ROTATION, None)
    if usual and not hasattr(usual, "__wrapped__") and _rotates(usual):
        setattr(home, ROTATION, _light_rotation(usual))


# --- RMSNorm


class RMSNorm(torch.autograd.Function):
    """n ⊙ w with n = x r and r = (mean x² + ε)^−½ over the last dimension; (…, size)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Keeps n, r and w."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """r (g ⊙ w − n · mean(g ⊙ w ⊙ n)) and Σ g ⊙ n, for g = ∂L/∂y."""
        normed, scale, weight = ctx.saved_tensors
        along = slopes * normed
        mean = (along @ torch.atleast_2d(weight).mT).div_(normed.shape[-1])
        into = torch.addcmul(slopes * weight, normed, mean, value=-1).mul_(scale)
        return into, along.sum_to_size(weight.shape) if ctx.needs_input_grad[1] else None, None


class _Light(nn.Module):
    """A norm of an architecture's own that computes as `RMSNorm`."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape it is given."""
        if x.dtype == self.weight.dtype == torch.float32:
            return RMSNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-any-return]
        return super().forward(x)  # type: ignore[no-any-return, misc]


@cache
def _light(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Light, kind), {})


def _normalises(module: nn.Module) -> bool:
    """Whether a module is an RMSNorm: by its name, what it holds, and what it makes of small numbers, where ε counts."""
    named = type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
    if not named or isinstance(module, _Light) or [name for name, _ in module.named_parameters()] != ["weight"]:
        return False
    weight: Any = module.weight
    x = torch.linspace(-1e-3, 2e-3, weight.numel(), device=weight.device)[None]
    with torch.no_grad():
        own = RMSNorm.apply(x, weight.float(), module.variance_epsilon)
        return torch.allclose(
            own.to(weight.dtype), module(x.to(weight.dtype)), rtol=1e-5 if weight.dtype == x.dtype else 0.05
        )


# --- rotation


class Rotation(torch.autograd.Function):
    """(a cos₁ − b sin₁, b cos₂ + a sin₂) of the halves a and b of each head, (…, size)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Keeps the angles alone."""
        ctx.save_for_backward(cos, sin)
        first, second = sin.chunk(2, -1)
        return _rotate(x, cos, first, second, -1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        """The other way round."""
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, -1)
        return _rotate(slopes, cos, second, first, 1), None, None


def _rotate(x: Tensor, cos: Tensor, first: Tensor, second: Tensor, sign: int) -> Tensor:
    """(a cos₁ + sign · b first, b cos₂ − sign · a second)."""
    (a, b), found = x.chunk(2, -1), x * cos
    left, right = found.chunk(2, -1)
    left.addcmul_(b, first, value=sign)
    right.addcmul_(a, second, value=-sign)
    return found


def _light_rotation(usual: Callable[..., Any]) -> Callable[..., Any]:
    """The same for queries and keys in float32."""

    @wraps(usual)
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if {q.dtype, k.dtype, cos.dtype} != {torch.float32} or cos.shape[-1] != q.shape[-1]:  # only a part is rotated
            return usual(q, k, cos, sin, unsqueeze_dim)  # type: ignore[no-any-return]
        angles = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return Rotation.apply(q, *angles), Rotation.apply(k, *angles)

    return rotate


def _rotates(usual: Callable[..., Any]) -> bool:
    """Whether an architecture's rotation is this one: asked of two heads of eight, at three positions."""
    numbers = torch.linspace(-1, 1, 48).sin()
    q, k = numbers.view(1, 2, 3, 8), numbers.flip(0).view(1, 2, 3, 8)
    cos, sin = numbers.cos().view(2, 1, 3, 8)
    expected = [Rotation.apply(x, cos[:, None], sin[:, None]) for x in (q, k)]
    try:
        return all(map(partial(torch.allclose, rtol=1e-5, atol=1e-6), usual(q, k, cos, sin), expected))
    except Exception:  # of whatever origin: it need not take what we hand it
        return False
