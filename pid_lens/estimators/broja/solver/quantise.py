"""Union information of samples: quantise the posteriors, solve, certify on all the samples."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pid_lens.estimators.broja.solver.best_response import respond
from pid_lens.estimators.broja.solver.binary import solve_binary
from pid_lens.estimators.broja.solver.cells import distinct_cells
from pid_lens.estimators.broja.solver.certificate import dual_pairing, require_same_marginals
from pid_lens.estimators.broja.solver.interior_point import solve
from pid_lens.estimators.broja.solver.scaling import Scaling
from pid_lens.estimators.broja.solver.solution import Solution
from pid_lens.estimators.common.entropy import entropy, safe_ratio, table_information

_CELLS = 2048
_PAIRS_TOGETHER = 2**18
"""Largest number of pairs (x1, x2) of layers that are solved together."""
_FIRST_LOOK = 32
"""Steps of scaling before bounds are computed."""
_MOST_STEPS, _FEWEST_STEPS, _WORK = 4096, 256, 2**33
"""Limits on the steps of scaling, and on steps times entries."""
_RESPOND_AT, _RESPOND_UP_TO = (256, 512, 1024, 2048, 4096), 2**22
"""Steps at which best responses are tried, of tables up to this n1 n2 answers^2."""
_SMALL, _FINE = 1024, 1e-5
"""Largest Schur complement of the interior point; widths below _FINE are left to it."""
_TINY, _TINY_TOL = 2**14, 1e-7
"""Tables up to this n1 n2 answers^2 are solved to this width, nats."""


def solve_rows(
    p1: Float64[Tensor, "layers n answers"],
    p2: Float64[Tensor, "layers n answers"],
    *,
    tol: float | Float64[Tensor, " layers"] = 1e-3,
    most: int = _CELLS,
) -> Solution:
    r"""Solve for I_Q of samples whose symbols are their posteriors, nats, with a certificate.

    Two answers: in closed form. More: equal rows are merged, which loses nothing, and solved by
    `Scaling`, whose u and v give both ends of the interval; the lower end is raised by each row's
    best response to the other source's potentials. Tables small enough for the interior point
    are solved by it where scaling did not reach ``tol`` or could not; the smallest always to
    1e-7, which costs next to nothing.

    Above ``most`` distinct rows per source, near ones are merged into cells C_i. By the data
    processing inequality that loses at most d_i = I(Y; X_i) - I(Y; C_i), which is added to the
    interval::

        I_Q(cells) <= I_Q <= I_Q(cells) + d_1 + d_2

    Memory is O(most^2) then, and time does not grow with the samples but for the merging.

    Args:
        p1: masses p(x1, y), each layer summing to 1.
        p2: masses p(x2, y) with the same answer marginal.
        tol: width to reach, nats, one for all or one per layer. Where steps run out first, the
            width says how far they came.
        most: rows of the largest table to solve.

    Returns:
        A ``Solution`` with potentials for every row and without a coupling, which could be n x n.

    Raises:
        ValueError: the answer marginals differ.

    Example:
        >>> sure = torch.eye(3, dtype=torch.float64)[None] / 3
        >>> solve_rows(sure, sure).upper.round(decimals=3)
        tensor([1.0990], dtype=torch.float64)
    """
    require_same_marginals(p1, p2)
    if p1.shape[-1] == 2:
        return solve_binary(p1, p2)
    aims = torch.as_tensor(tol).expand(len(p1)).tolist()
    layers = [_Layer(a, b, aim, most) for a, b, aim in zip(p1, p2, aims, strict=True)]
    for together in _batches(layers):
        _scale([x for x in together if not (x.small and x.aim < _FINE)])
        _run_newton([x for x in together if x.small and not x.done])
    return _stack_solutions(layers)


class _Layer:
    """One problem: its distinct rows, or cells of them, and the best certificates so far."""

    def __init__(self, p1: Tensor, p2: Tensor, tol: float, most: int) -> None:
        self.rows1, self.rows2 = distinct_cells(p1, most), distinct_cells(p2, most)
        # Loss by quantisation: d_1 + d_2, part of the interval that no solver can remove
        kept = _informations(self.rows1.masses, self.rows2.masses)
        self.loss = (_informations(p1, p2) - kept).clamp_min(0).sum()
        self.aim = max(tol - float(self.loss), float(self.loss) / 4)
        if len(self.rows1) * len(self.rows2) * p1.shape[1] ** 2 <= _TINY:
            self.aim = min(self.aim, _TINY_TOL)
        # First certificate: max(I1, I2) <= I_Q
        self.upper = torch.full_like(self.loss, torch.inf)
        self.lower, self.a, self.b = _better_source(self.rows1.masses, self.rows2.masses)
        self.steps = 0

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of rows of both sources, and of answers."""
        return len(self.rows1), len(self.rows2), self.a.shape[1]

    @property
    def small(self) -> bool:
        """Whether the Schur complement of the smaller source is small enough to factor."""
        n1, n2, answers = self.size
        return min(n1, n2) * answers <= _SMALL

    @property
    def done(self) -> bool:
        """Whether the interval, the loss by cells aside, has the width aimed at."""
        return bool(self.upper - self.lower <= self.aim + self.loss)

    @property
    def most_steps(self) -> int:
        """Largest number of scaling steps, by the work of one."""
        n1, n2, answers = self.size
        most = _FEWEST_STEPS if self.small else _MOST_STEPS
        return min(most, max(_FEWEST_STEPS, _WORK // (n1 * n2 * answers)))

    def prove(self, a: Tensor, b: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Keep each bound that improves on the best so far; padding is cut off the potentials."""
        if lower > self.lower:
            self.lower, self.a, self.b = lower, a[: len(self.rows1)], b[: len(self.rows2)]
        self.upper = torch.fmin(self.upper, upper)

    def respond(self, b: Tensor) -> None:
        """Try each row's best response to b as the potentials a: one block coordinate ascent."""
        n1, n2, answers = self.size
        if self.done or n1 * n2 * answers**2 > _RESPOND_UP_TO:
            return
        masses, b = self.rows1.masses, b[:n2]
        a = respond(masses, b, enough=self.aim / 16)
        # Dual objective <a, p1> + <b, p2>
        value = (
            dual_pairing(a[None], masses[None])[0]
            + dual_pairing(b[None], self.rows2.masses[None])[0]
        )
        self.prove(a, b, entropy(masses.sum(0)) + value, self.upper)


def _informations(p1: Tensor, p2: Tensor) -> Float64[Tensor, " sources"]:
    return torch.stack([table_information(p1), table_information(p2)])


def _better_source(p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute max(I1, I2), and the dual potentials log p(y|x) and 0 that prove it."""
    known = _informations(p1, p2)
    zero1, zero2 = torch.zeros_like(p1), torch.zeros_like(p2)
    if known[0] >= known[1]:
        return known[0], safe_ratio(p1, p1.sum(1, keepdim=True)).log(), zero2
    return known[1], zero1, safe_ratio(p2, p2.sum(1, keepdim=True)).log()


def _batches(layers: list[_Layer]) -> list[list[_Layer]]:
    """Group neighbouring layers into batches, as long as a padded batch stays small."""
    batches: list[list[_Layer]] = []
    for layer in layers:
        together = [*batches[-1], layer] if batches else []
        pairs = len(together) * max((x.size[0] for x in together), default=0)
        if together and pairs * max(x.size[1] for x in together) <= _PAIRS_TOGETHER:
            batches[-1].append(layer)
        else:
            batches.append([layer])
    return batches


def _pad(layers: list[_Layer]) -> tuple[Tensor, Tensor]:
    p1 = pad_sequence([x.rows1.masses for x in layers], batch_first=True)
    return p1, pad_sequence([x.rows2.masses for x in layers], batch_first=True)


def _scale(layers: list[_Layer]) -> None:
    """Run alternating scaling until each layer is certified to its aim or out of steps."""
    if not layers:
        return
    scaling = Scaling(*_pad(layers))
    while layers:
        # Bounds every 32 steps, later each time the steps have grown by a quarter to a half
        scaling.advance(max(_FIRST_LOOK, 1 << scaling.steps.bit_length() >> 2))
        a, b, lower = scaling.potentials()
        for i, (layer, upper) in enumerate(zip(layers, scaling.upper(), strict=True)):
            layer.steps = scaling.steps
            layer.prove(a[i], b[i], lower[i], upper + layer.loss)
            if scaling.steps in _RESPOND_AT:
                layer.respond(b[i])
        live = [i for i, x in enumerate(layers) if not x.done and x.steps < x.most_steps]
        scaling, layers = scaling.keep(live), [layers[i] for i in live]


def _run_newton(layers: list[_Layer]) -> None:
    """Run the interior point on these layers, together where their aims are equal."""
    for aim in sorted({x.aim for x in layers}):
        group = [x for x in layers if x.aim == aim]
        found = solve(*_pad(group), tol=aim)
        for i, layer in enumerate(group):
            layer.steps += int(found.iterations[i])
            a, b = found.dual_vision[i], found.dual_language[i]
            layer.prove(a, b, found.lower[i], found.upper[i] + layer.loss)


def _stack_solutions(layers: list[_Layer]) -> Solution:
    return Solution(
        lower=torch.stack([x.lower for x in layers]),
        upper=torch.stack([x.upper for x in layers]),
        coupling=None,
        dual_vision=torch.stack([x.a[x.rows1.of] for x in layers]),
        dual_language=torch.stack([x.b[x.rows2.of] for x in layers]),
        iterations=torch.tensor([x.steps for x in layers]),
    )
