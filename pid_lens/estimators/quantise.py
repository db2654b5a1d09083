"""The union information of many samples: solved on cells, proven on the samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pid_lens.estimators.binary import solve_binary
from pid_lens.estimators.cells import Cells, cluster, gather_cells, merge_equal, split
from pid_lens.estimators.certificate import check_marginals, pairing
from pid_lens.estimators.interior_point import solve
from pid_lens.estimators.measures import entropy, mutual_information, ratio
from pid_lens.estimators.response import respond
from pid_lens.estimators.solution import Solution

_FINE = 1024
_PAIRS_AT_ONCE = 2**20
_CELL_TOL = 1e-7


def solve_rows(
    p1: Float64[Tensor, "layers n answers"],
    p2: Float64[Tensor, "layers n answers"],
    *,
    tol: float = 1e-3,
    start: int = 64,
    most: int = 128,
) -> Solution:
    r"""I_Q of samples whose symbols are their posteriors, nats, with proof.

    Two answers: in closed form. More: equal rows are merged, which loses nothing; near ones are
    merged into cells, which loses d_i = I(Y; X_i) - I(Y; C_i) at most::

        I_Q(cells) <= I_Q <= I_Q(cells) + d_1 + d_2

    Both ends are then drawn together on the rows themselves. Above: the cells' coupling is
    spread over their rows, x1 and x2 independent given cell and answer. Below: each row's best
    response to the other side's potentials, first to those of cells, then to those of rows. The
    width is a sum of non-negative shares of the rows,
    sum over x2, y of q (log q(y|x1,x2) - a - b); cells with the largest are split, and the
    doubled number of cells is solved again, until the width is below ``tol``.

    Args:
        p1: masses p(x1, y), each layer summing to 1.
        p2: masses p(x2, y) with the same label marginal.
        tol: width to reach, nats.
        start: cells of the first solve.
        most: cells of the last; the time grows with its cube.

    Raises:
        ValueError: the label marginals differ.

    Returns:
        A ``Solution`` with potentials for every row and, as a coupling of rows could be
        n x n, none.
    """
    check_marginals(p1, p2)
    if p1.shape[-1] == 2:
        return solve_binary(p1, p2)
    layers = [_Layer(a, b, start) for a, b in zip(p1, p2, strict=True)]
    count, open_layers = start, layers
    while open_layers:
        _solve_cells(open_layers, tol)
        count *= 2
        open_layers = [x for x in open_layers if x.width > tol and x.refine(count, most)]
    return _stacked(layers)


@dataclass
class _Layer:
    """One problem: its rows, their cells so far, and the best proofs so far."""

    p1: Float64[Tensor, "n answers"]
    p2: Float64[Tensor, "n answers"]
    count: int

    def __post_init__(self) -> None:
        self.rows1, self.rows2 = _rows(self.p1), _rows(self.p2)
        self.cells1 = cluster(self.rows1.masses, self.count)
        self.cells2 = cluster(self.rows2.masses, self.count)
        self.prior = entropy(self.p1.sum(0))
        self.lower = torch.full_like(self.prior, -torch.inf)
        self.upper = torch.full_like(self.prior, torch.inf)
        self.iterations = 0

    @property
    def width(self) -> float:
        return float(self.upper - self.lower)

    @property
    def whole(self) -> bool:
        """Whether each row is a cell of its own: nothing is left to split."""
        sides = ((self.cells1, self.rows1), (self.cells2, self.rows2))
        return all(len(cells) == len(rows) for cells, rows in sides)

    def prove(self, cells: Solution) -> None:
        """Carries the solution of the cells over to the rows."""
        self.iterations += int(cells.iterations)
        assert cells.coupling is not None
        q, a, b = cells.coupling[0], cells.dual_vision[0], cells.dual_language[0]
        lower, upper = cells.lower[0], cells.upper[0] + self._loss(self.cells1, self.cells2)
        if self.whole:
            a, b = a[self.cells1.of], b[self.cells2.of]
        else:
            a = respond(self.rows1.masses, b)
            b = respond(self.rows2.masses, a)
            pair = pairing(a[None], self.rows1.masses[None])[0]
            lower = self.prior + pair + pairing(b[None], self.rows2.masses[None])[0]
            upper = torch.minimum(upper, self._spread(q, a, b))
        if lower > self.lower:
            self.lower, self.a, self.b = lower, a, b
        self.upper = torch.minimum(self.upper, upper)

    def refine(self, count: int, most: int) -> bool:
        """Splits the cells that are to blame; False where that cannot go on."""
        if self.whole or count > most:
            return False
        self.cells1 = split(self.rows1.masses, self.cells1, self.blame1, count)
        self.cells2 = split(self.rows2.masses, self.cells2, self.blame2, count)
        return True

    def _loss(self, cells1: Cells, cells2: Cells) -> Float64[Tensor, ""]:
        """d_1 + d_2 of cells of the samples."""
        kept = mutual_information(cells1.masses) + mutual_information(cells2.masses)
        return mutual_information(self.p1) + mutual_information(self.p2) - kept

    def _spread(self, q: Tensor, a: Tensor, b: Tensor) -> Float64[Tensor, ""]:
        """The upper bound by the rows' coupling; notes which rows the width comes from."""
        share1 = ratio(self.rows1.masses, self.cells1.masses[self.cells1.of])
        share2 = ratio(self.rows2.masses, self.cells2.masses[self.cells2.of])
        self.blame1, self.blame2 = torch.zeros_like(a[:, 0]), torch.zeros_like(b[:, 0])
        value = torch.zeros_like(self.prior)
        step = max(1, _PAIRS_AT_ONCE // len(share2))
        for at in torch.arange(len(share1), device=q.device).split(step):
            part = q[self.cells1.of[at]][:, self.cells2.of] * share1[at][:, None] * share2
            log = ratio(part, part.sum(-1, keepdim=True)).log()
            value += (part * log).where(part > 0, 0.0).sum()
            excess = (part * (log - a[at][:, None] - b)).where(part > 0, 0.0).sum(-1)
            self.blame1[at] = excess.sum(1)
            self.blame2 += excess.sum(0)
        return self.prior + value + self._loss(self.rows1, self.rows2)


def _rows(joint: Tensor) -> Cells:
    """The distinct posteriors; above a limit, fine cells of them."""
    distinct = merge_equal(joint)
    if len(distinct) <= _FINE:
        return distinct
    return gather_cells(joint, cluster(distinct.masses, _FINE).of[distinct.of])


def _solve_cells(layers: list[_Layer], tol: float) -> None:
    """One batched solve of all layers' cells."""
    p1 = pad_sequence([x.cells1.masses for x in layers], batch_first=True)
    p2 = pad_sequence([x.cells2.masses for x in layers], batch_first=True)
    whole = solve(p1, p2, tol=min(tol, _CELL_TOL))
    for i, layer in enumerate(layers):
        m1, m2 = len(layer.cells1), len(layer.cells2)
        assert whole.coupling is not None
        layer.prove(
            Solution(
                lower=whole.lower[i : i + 1],
                upper=whole.upper[i : i + 1],
                coupling=whole.coupling[i : i + 1, :m1, :m2],
                dual_vision=whole.dual_vision[i : i + 1, :m1],
                dual_language=whole.dual_language[i : i + 1, :m2],
                iterations=whole.iterations[i : i + 1],
            )
        )


def _stacked(layers: list[_Layer]) -> Solution:
    return Solution(
        lower=torch.stack([x.lower for x in layers]),
        upper=torch.stack([x.upper for x in layers]),
        coupling=None,
        dual_vision=torch.stack([x.a[x.rows1.of] for x in layers]),
        dual_language=torch.stack([x.b[x.rows2.of] for x in layers]),
        iterations=torch.tensor([x.iterations for x in layers]),
    )
