"""The laws hold for BROJA, catch what breaks them, and an estimator of your own is short."""

import inspect
import math
from dataclasses import dataclass, field, replace

import pytest
import torch

import pid_lens
from pid_lens import Lens, Reads, Spectrum
from pid_lens.estimators import BROJA
from pid_lens.estimators.common.entropy import table_information
from pid_lens.testing import check_estimator


@dataclass
class MinimumRedundancy:
    """An estimator of your own: R = min(I1, I2)."""

    seen: list = field(default_factory=list, repr=False)

    def update(self, reads):
        self.seen.append(reads)
        return self

    def merge(self, other):
        return self.update(Reads.concat(other.seen))

    def result(self):
        reads = Reads.concat(self.seen)
        p = reads.posteriors().exp()[:, [reads.index(k) for k in ("full", "vision", "language")]]
        both, one, other = (table_information(p / reads.n) / math.log(2)).unbind(1)
        atoms = {"information": both, "information_vision": one, "information_language": other}
        union, gap = torch.maximum(one, other), torch.zeros_like(one)
        about = {"layers": reads.layers, "ids": reads.ids, "estimator": repr(self)}
        return Spectrum(**atoms, union=union, gap=gap, **about)


def test_an_estimator_of_your_own_in_a_lens(digits_model, digits_moments):
    model, processor = digits_model
    estimator = MinimumRedundancy()
    lens = Lens(
        model,
        processor,
        choices=("A", "B"),
        moments=digits_moments["redundant"],
        estimators=[estimator],
    )
    with lens, torch.no_grad():
        for batch in pid_lens.demo.batches("redundant", n=64):
            model(**batch.inputs)
    own, exact = estimator.result(), lens.spectrum()
    assert own.n == 64
    assert own.redundancy[-1] > 0.8
    assert torch.allclose(own.information, exact.information, atol=1e-9)
    assert torch.equal(own.union, lens.spectrum(MinimumRedundancy()).union)


def test_an_estimator_of_your_own_is_short():
    lines = inspect.getsource(MinimumRedundancy).splitlines()
    assert sum(bool(line.strip()) for line in lines) < 20


def test_an_estimator_of_your_own_keeps_the_laws_but_is_not_exact():
    assert check_estimator(MinimumRedundancy()).ok
    report = check_estimator(MinimumRedundancy(), exact=True, raises=False)
    assert report.broken == ("gates",)
    assert "COPY" in str(report)


@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_broja_keeps_every_law(repair):
    report = check_estimator(BROJA(repair=repair), exact=True)
    assert report.ok
    assert str(report).count("\n") == len(report.laws) == 11


def test_the_estimator_that_is_tried_stays_as_it_is():
    estimator = BROJA()
    check_estimator(estimator, answers=(2,))
    with pytest.raises(ValueError, match="no sample"):
        estimator.result()


# ---------------------------------------------------------------- broken ones


class Whole(MinimumRedundancy):
    def result(self):
        spectrum = super().result()
        return replace(spectrum, information=spectrum.information * torch.nan)


class Single(MinimumRedundancy):
    def result(self):
        spectrum = super().result()
        names = ("information", "information_vision", "information_language", "union")
        return replace(spectrum, **{name: getattr(spectrum, name).float() for name in names})


class Lossy(MinimumRedundancy):
    """Clips its atoms, so that they do not add up."""

    def result(self):
        return Clipped(**vars(super().result()))


class Clipped(Spectrum):
    @property
    def redundancy(self):
        return super().redundancy.clamp(max=0.1)


class Partial(MinimumRedundancy):
    """Takes vision for the better source always."""

    def result(self):
        spectrum = super().result()
        return replace(spectrum, union=spectrum.information_vision)


class First(MinimumRedundancy):
    """Sees to the first option more than to the others."""

    def result(self):
        reads = Reads.concat(self.seen)
        tilted = reads.log_probs - torch.arange(reads.options.shape[-1]) * 0.1
        self.seen = [replace(reads, log_probs=tilted.log_softmax(-1))]
        result = super().result()
        self.seen = [reads]
        return result


class Early(MinimumRedundancy):
    """Looks at the first samples alone."""

    def result(self):
        reads = Reads.concat(self.seen)
        kept, self.seen = self.seen, [reads.rows(range(reads.n // 2))]
        result = super().result()
        self.seen = kept
        return result


class Forgetful(MinimumRedundancy):
    def update(self, reads):
        self.seen = [reads]
        return self


class Alone(MinimumRedundancy):
    def merge(self, other):
        return self


class Doubling(MinimumRedundancy):
    """Counts a sample that comes again as another one."""

    def update(self, reads):
        name = len(self.seen)
        return super().update(replace(reads, ids=tuple(f"{name}.{i}" for i in reads.ids)))


class Once(MinimumRedundancy):
    def result(self):
        result = super().result()
        self.seen = []
        return result


class Silent(MinimumRedundancy):
    def result(self):
        if self.seen:
            return super().result()
        nothing = torch.zeros(1, dtype=torch.float64)
        totals = ("information", "information_vision", "information_language", "union", "gap")
        about = {"layers": (0,), "ids": (), "estimator": "Silent"}
        return Spectrum(**dict.fromkeys(totals, nothing), **about)


BROKEN = {
    Whole: "fields",
    Single: "fields",
    Lossy: "sum",
    Partial: "swap",
    First: "relabel",
    Early: "order",
    Forgetful: "stream",
    Alone: "merge",
    Doubling: "repeat",
    Once: "again",
    Silent: "empty",
}


@pytest.mark.parametrize(("broken", "law"), BROKEN.items(), ids=[k.__name__ for k in BROKEN])
def test_each_law_is_found_broken(broken, law):
    report = check_estimator(broken(), raises=False)
    assert law in report.broken
    with pytest.raises(AssertionError, match=law):
        check_estimator(broken())


def test_every_law_has_something_that_breaks_it():
    names = {law.name for law in check_estimator(BROJA(), exact=True, answers=(2,)).laws}
    assert names == {*BROKEN.values(), "gates"}


@pytest.mark.parametrize("wrong", [BROJA, "BROJA", None])
def test_only_instances_are_tried(wrong):
    with pytest.raises(TypeError, match="instance"):
        check_estimator(wrong)
