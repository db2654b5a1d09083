"""Folds: everyone held out once, clusters whole."""

from __future__ import annotations

import pytest
import torch

from pid_lens.estimators.common.folds import folds_of


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [5, 12, 103])
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_sample_is_in_one_fold_of_nearly_one_size(n, folds):
    parts = folds_of(n, folds, generator())
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_folds_and_their_orders_are_random():
    one, other = (torch.cat(folds_of(50, 2, generator(seed))) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert not torch.equal(one[:25], one[:25].sort().values)


@pytest.mark.parametrize("seed", range(3))
def test_clusters_stay_together_and_beside_each_other(seed):
    clusters = torch.randint(20, (200,), generator=generator(seed))
    parts = folds_of(200, 3, generator(seed), clusters)
    seen = [set(clusters[part].tolist()) for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert max(map(len, parts)) - min(map(len, parts)) <= 2 * int(clusters.bincount().max())
    for part in parts:
        runs = clusters[part].unique_consecutive()
        assert len(runs) == len(runs.unique())


@pytest.mark.parametrize(
    ("clusters", "folds"), [([0], 2), ([0, 0, 0], 2), ([0, 0, 0, 0, 0, 0, 1], 3), ([], 2)]
)
def test_a_fold_without_samples_is_refused(clusters, folds):
    clusters = torch.tensor(clusters, dtype=torch.long)
    with pytest.raises(ValueError, match=f"{folds} folds need"):
        folds_of(len(clusters), folds, generator(), clusters)
