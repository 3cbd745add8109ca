"""Intervals and paired tests against the slow way; the tables that are made of them."""

import itertools

import numpy as np
import pandas as pd
import pytest

from dreamo_core.bench import tables
from dreamo_core.measure.statistics import difference_of, mean_of


def some(seed, groups=8, each=5, spread=1.0):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"subject {n}" for n in range(groups)], each)
    return list(rng.normal(0, 0.3, groups * each) + rng.normal(0, spread, groups).repeat(each)), list(names)


def test_the_interval_draws_subjects_not_pictures():
    values, groups = some(0)
    found = mean_of(values, groups)
    by_group = {name: [v for v, g in zip(values, groups, strict=True) if g == name] for name in set(groups)}
    rng, names, means = np.random.default_rng(1), sorted(by_group), []
    for _ in range(4000):
        drawn = [value for n in rng.integers(0, len(names), len(names)) for value in by_group[names[n]]]
        means.append(np.mean(drawn))
    assert found.mean == pytest.approx(np.mean(values)) and (found.count, found.groups) == (40, 8)
    assert [found.low, found.high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.06)
    # Taken as if pictures were independent it would be less than half as wide.
    assert found.high - found.low > 2 * 2 * 1.96 * np.std(values) / len(values) ** 0.5 * 0.9


def test_groups_of_different_sizes_weigh_by_their_pictures():
    values, groups = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    found = mean_of(values, groups)
    assert found.mean == 0.75 and (found.low, found.high) == (0.0, 1.0)


def test_one_group_has_no_interval():
    found = mean_of([0.1, 0.2], ["a", "a"])
    assert found.mean == pytest.approx(0.15) and np.isnan(found.low) and np.isnan(found.high)
    assert np.isnan(difference_of([0.1], [0.2], ["a"]).p)


def test_the_p_value_is_that_of_every_flip_of_signs():
    a, groups = some(2)
    b = [value + 0.2 * (int(group[-1]) % 3) for value, group in zip(a, groups, strict=True)]
    found = difference_of(a, b, groups)
    change = pd.Series(np.subtract(b, a)).groupby(groups).mean().to_numpy()
    flips = [abs(np.mean(change * signs)) for signs in itertools.product((-1, 1), repeat=len(change))]
    expected = np.mean([flip >= abs(change.mean()) - 1e-12 for flip in flips])
    assert found.p == pytest.approx(expected) and 0 < found.p < 0.1
    assert found.mean.mean == pytest.approx(np.mean(change))


def test_no_difference_is_found_where_there_is_none():
    values, groups = some(3)
    same = difference_of(values, values, groups)
    assert same.p == 1 and (same.mean.low, same.mean.high) == (0, 0)
    ps = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        ps.append(difference_of(values, np.add(values, rng.normal(0, 1, len(values))), groups).p)
    assert 0.3 < np.mean(ps) < 0.7


def rows(values, groups, metric="CLIP-T B/32"):
    return pd.DataFrame(
        [
            {"case": f"case{n}", "group": group, "seed": 0, "metric": metric, "value": value}
            for n, (value, group) in enumerate(zip(values, groups, strict=True))
        ]
    )


def test_the_papers_numbers_stand_beside_ours_in_their_own_unit():
    found = tables.means(rows([27.0, 28.0], ["a", "b"]))
    (table,) = tables.papers("style", found).values()
    assert table.at["Text-sim", "DreamO"] == 0.2750 and table.at["Text-sim", tables.OURS] == pytest.approx(0.275)
    assert np.isnan(table.at["Style-sim", tables.OURS]) and table.at["Style-sim", "scored as"] == "CSD"
    assert tables.papers("mini_world", found) == {}


def test_runs_are_compared_picture_by_picture():
    values, groups = some(4)
    a, b = rows(values, groups), rows(np.add(values, 0.5), groups)
    both = tables.joined(a, b.iloc[5:])
    assert len(both) == 35
    table = tables.differences(both)
    assert table.at["CLIP-T B/32", "B − A"] == pytest.approx(0.5)
    assert table.at["CLIP-T B/32", "spread of A"] == pytest.approx(np.std(values[5:], ddof=1))
    with pytest.raises(ValueError, match="no picture in common"):
        tables.joined(a, b.assign(seed=1))
