from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evoray.engine.comparison_summary import summarise_comparison
from evoray.errors import StageError
from evoray.evaluation.intervals import paired_difference_seeds
from evoray.report.comparison import ComparisonSummary, Group, SelectorResult

ROWS = 40
POOL = {"sources": {"facts": 30, "junk": 70}, "tokens_mean": 50.0}
RNG = np.random.default_rng(11)
HARD = RNG.gamma(2.0, 0.5, ROWS)  # loss that a row has under any model


def cell(selector: str, seed: int | None = 0, losses: Sequence[float] = HARD, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "target": "arc",
        "selector": selector,
        "budget": "4",
        "seed": seed,
        "kind": "selection",
        "split": "test",
        "losses": list(losses),
        "correct": [None] * len(losses),
        "loss": None,
        "accuracy": None,
        "rows": 4,
        "tokens": 240,
        "steps": 8,
        "training_tokens": 480,
        "ids": ["a", "b", "c", "d"],
        "sources": {"facts": 3, "junk": 1},
        "distance": 0.5,
        "cosine": 0.25,
        "vendi": 3.0,
        "vendi_target": 6.0,
        "seconds": {"select": 1.5, "train": 20.0},
        "facts": {"lambda": 0.3},
        "decile": None,
    }
    base |= changes
    base["cell"] = "-".join(str(base[key]) for key in ("target", "selector", "budget", "seed", "kind"))
    return base


def untrained(losses: Sequence[float] = HARD + 1.0, **changes: Any) -> dict[str, Any]:
    return cell(
        "untrained", None, losses, **{"kind": "untrained", "budget": None, "ids": None, "rows": None, **changes}
    )


def summary(cells: Sequence[dict[str, Any]], **options: Any) -> ComparisonSummary:
    return summarise_comparison(cells, **{"reference": "random", "pool": POOL, **options})


def only(made: ComparisonSummary) -> Group:
    (group,) = made.groups
    return group


def result(made: ComparisonSummary, selector: str, target: str = "arc") -> SelectorResult:
    (group,) = [group for group in made.groups if group.target == target]
    found = group.result(selector)
    assert found is not None
    return found


def noisy(shift: float, seeds: Sequence[int] = (0, 1, 2)) -> dict[int, np.ndarray]:
    return {seed: HARD + shift + RNG.normal(scale=0.05, size=ROWS) for seed in seeds}


def known_case() -> tuple[list[dict[str, Any]], dict[str, dict[int, np.ndarray]]]:
    losses = {"random": noisy(0.0), "good": noisy(-0.2), "bad": noisy(0.2), "same": noisy(0.0)}
    cells = [cell(name, seed, values) for name, found in losses.items() for seed, values in found.items()]
    return [untrained(), *cells], losses


def test_means_and_differences_are_those_of_the_rows() -> None:
    cells, losses = known_case()
    made = summary(cells)
    for name, found in losses.items():
        mine, random = np.array(list(found.values())), np.array(list(losses["random"].values()))
        assert result(made, name).loss.value == pytest.approx(mine.mean())
        if name != "random":
            against = result(made, name).against
            assert against is not None
            assert (against.value, against.low, against.high) == pytest.approx(
                paired_difference_seeds(mine, random, seed=0)
            )
            assert against.value == pytest.approx(mine.mean() - random.mean())
        gap = result(made, name).gap
        assert gap is not None
        assert gap.value == pytest.approx(mine.mean() - np.array(list(losses["good"].values())).mean())


def test_the_known_winner_wins_and_the_known_loser_loses() -> None:
    made = summary(known_case()[0])
    assert only(made).best == "good"
    assert [one.selector for one in only(made).results][0::3] == ["good", "bad"]
    assert (result(made, "good").wins, result(made, "good").loses) == (True, False)
    assert (result(made, "bad").wins, result(made, "bad").loses) == (False, True)
    assert (result(made, "random").wins, result(made, "random").against) == (None, None)
    (overall,) = made.overall
    best = overall.standings[0]
    assert (best.selector, best.wins, best.losses, best.compared, best.mean_gap) == ("good", 1, 0, 1, 0.0)
    assert best.mean_rank == 1.0


def test_the_interval_of_identical_cells_is_zero_and_no_win() -> None:
    made = summary([cell(name, seed) for name in ("random", "twin") for seed in (0, 1)])
    against = result(made, "twin").against
    assert against is not None
    assert (against.value, against.low, against.high) == (0.0, 0.0, 0.0)
    assert (result(made, "twin").wins, result(made, "twin").loses) == (False, False)
    assert result(made, "twin").rank == result(made, "random").rank == 1.5


def test_the_order_of_the_cells_changes_nothing() -> None:
    cells = [*known_case()[0], *[cell("good", 0, HARD, target="piqa"), cell("random", 0, HARD, target="piqa")]]
    shuffled = [cells[place] for place in RNG.permutation(len(cells))]
    assert summary(cells).to_json() == summary(shuffled).to_json() == summary(cells).to_json()


def test_the_summary_survives_json_without_any_nan() -> None:
    made = summary([*known_case()[0], *decile_cells(noise=0.1)])
    text = json.dumps(made.to_json(), allow_nan=False)
    assert ComparisonSummary.from_json(json.loads(text)) == made


def test_only_seeds_that_both_have_are_paired() -> None:
    losses = {"random": noisy(0.0, (0, 1)), "good": noisy(-0.3, (1, 2))}
    made = summary([cell(name, seed, found[seed]) for name, found in losses.items() for seed in found])
    good = result(made, "good")
    assert good.against is not None
    assert good.against.value == pytest.approx((losses["good"][1] - losses["random"][1]).mean())
    assert (good.paired_seeds, good.seeds) == (1, (1, 2))
    assert good.loss.value == pytest.approx(np.mean([losses["good"][1], losses["good"][2]]))


def test_without_a_common_seed_there_is_no_difference() -> None:
    made = summary([cell("random", 0), cell("good", 1)])
    assert result(made, "good").against is None
    assert result(made, "good").wins is None


def test_one_lucky_seed_does_not_make_the_best() -> None:
    cells = [cell("steady", seed, HARD - 0.1) for seed in (0, 1, 2)] + [cell("lucky", 0, HARD - 0.5)]
    assert only(summary(cells)).best == "steady"


def test_without_the_reference_all_else_is_there() -> None:
    made = summary([one for one in known_case()[0] if one["selector"] != "random"])
    assert not made.reference_found
    assert all(one.against is None and one.wins is None for one in only(made).results)
    assert result(made, "bad").gap is not None
    assert only(made).untrained is not None
    assert all(one.compared == 0 and one.mean_against is None for one in made.overall[0].standings)


@pytest.mark.parametrize("left", range(0, 13, 2))
def test_any_part_of_the_cells_can_be_summarised(left: int) -> None:
    cells = known_case()[0][:left]
    made = summary(cells, expected=13)
    assert (made.cells, made.missing) == (left, 13 - left)
    ComparisonSummary.from_json(made.to_json())


def test_a_target_with_the_untrained_model_alone_is_kept_as_waiting() -> None:
    made = summary([cell("random"), untrained(target="piqa", losses=HARD + 1.0)])
    waiting = next(group for group in made.groups if group.target == "piqa")
    assert (waiting.budget, waiting.results) == (None, ())
    assert waiting.untrained is not None
    assert waiting.untrained.loss.value == pytest.approx(HARD.mean() + 1.0)


def test_the_untrained_model_is_paired_with_every_seed_of_the_reference() -> None:
    cells, losses = known_case()
    base = only(summary(cells)).untrained
    assert base is not None
    assert base.against is not None
    assert base.against.value == pytest.approx(np.mean([HARD + 1.0 - one for one in losses["random"].values()]))


def test_overlaps_are_shares_of_the_smaller_choice_averaged_over_common_seeds() -> None:
    ids = {
        ("a", 0): ["1", "2", "3", "4"],
        ("a", 1): ["5", "6", "7", "8"],
        ("b", 0): ["4", "9"],
        ("b", 1): ["5", "6", "1"],
        ("b", 2): ["5"],
        ("c", 3): ["1"],
    }
    made = summary([cell(name, seed, ids=found) for (name, seed), found in ids.items()])
    overlap = only(made).overlap
    assert overlap is not None
    share = dict(zip(itertools.product(overlap.selectors, repeat=2), itertools.chain(*overlap.shares), strict=True))
    assert share["a", "b"] == share["b", "a"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert share["a", "a"] == 1.0
    assert share["a", "c"] is None


def test_what_was_picked_is_averaged_over_seeds() -> None:
    made = summary(
        [
            cell("s", 0, tokens=200, distance=0.2, sources={"facts": 4}, seconds={"select": 1.0}),
            cell("s", 1, tokens=400, distance=0.4, sources={"facts": 1, "junk": 3}, seconds={"select": None}),
        ]
    )
    one = result(made, "s")
    assert (one.rows, one.tokens, one.distance) == (4.0, 300.0, pytest.approx(0.3))
    assert one.length_bias == pytest.approx((200 / 4 + 400 / 4) / 2 / 50.0)
    assert one.sources == {"facts": pytest.approx(0.625), "junk": pytest.approx(0.375)}
    assert (one.select_seconds, one.train_seconds) == (1.0, None)
    assert only(made).vendi_target == 6.0


def test_mean_gap_mean_rank_and_wins_are_over_targets() -> None:
    shifts = {"one": {"random": 0.0, "a": -0.3, "b": 0.1}, "two": {"random": 0.0, "a": 0.2, "b": -0.1}}
    cells = [
        cell(name, seed, HARD + shift, target=target)
        for target, found in shifts.items()
        for name, shift in found.items()
        for seed in (0, 1)
    ]
    (overall,) = summary(cells).overall
    standing = {one.selector: one for one in overall.standings}
    assert standing["a"].mean_gap == pytest.approx((0.0 + 0.3) / 2)
    assert standing["b"].mean_gap == pytest.approx((0.4 + 0.0) / 2)
    assert standing["random"].mean_gap == pytest.approx((0.3 + 0.1) / 2)
    assert [one.selector for one in overall.standings] == ["a", "b", "random"]
    assert (standing["a"].wins, standing["a"].losses, standing["a"].compared) == (1, 1, 2)
    assert standing["a"].mean_rank == pytest.approx((1 + 3) / 2)
    assert standing["b"].mean_against == pytest.approx(0.0)


def test_a_selector_of_fewer_targets_stands_behind_those_of_all() -> None:
    cells = [cell("random", target=target) for target in ("one", "two")] + [cell("new", 0, HARD - 1.0, target="one")]
    (overall,) = summary(cells).overall
    assert [(one.selector, one.targets) for one in overall.standings] == [("random", 2), ("new", 1)]


def test_an_entry_without_budget_stands_in_every_group_and_is_not_ranked() -> None:
    cells = [cell(name, 0, HARD + 0.1, budget=budget, rows=int(budget)) for name in ("random", "a") for budget in "48"]
    made = summary([*cells, cell("all", 0, HARD - 0.5, budget=None, ids=["x"] * 100)])
    assert [group.budget for group in made.groups] == ["4", "8"]
    for group in made.groups:
        whole = group.result("all")
        assert whole is not None
        assert (whole.at_budget, whole.rank, whole.wins) == (False, None, True)
        assert whole.gap is not None
        assert whole.gap.value == pytest.approx(-0.6)
        assert group.best == "a"
        assert group.overlap is not None
        assert "all" not in group.overlap.selectors


def test_budgets_stand_in_the_order_of_their_rows() -> None:
    sizes = {"96": 96, "0.2": 400, "1000tok": 12}
    made = summary([cell("random", budget=budget, rows=rows) for budget, rows in sizes.items()])
    assert made.budgets == ("1000tok", "96", "0.2")


def test_rows_without_loss_are_left_out_of_pairs_and_counted() -> None:
    holes = [None, None, *HARD[2:]]
    made = summary([cell("random"), cell("holes", 0, holes)])  # type: ignore[arg-type]
    one = result(made, "holes")
    assert (one.scored_rows, result(made, "random").scored_rows) == (ROWS - 2, ROWS)
    assert one.against is not None
    assert one.against.value == 0.0


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_a_cell_without_any_loss_is_named_and_left_out(nothing: float | None) -> None:
    made = summary([cell("random"), cell("dead", 0, [nothing] * ROWS)])  # type: ignore[list-item]
    assert [one.selector for one in only(made).results] == ["random"]
    assert made.unscored == ("arc, dead, 4, seed 0",)


def test_accuracies_are_means_of_the_verdicts_that_are_there() -> None:
    verdicts = (RNG.random(ROWS) < 0.5).astype(float)
    made = summary([cell("random", correct=[0.0] * ROWS), cell("a", correct=verdicts.tolist()), cell("b")])
    accuracy, against = result(made, "a").accuracy, result(made, "a").accuracy_against
    assert accuracy is not None
    assert against is not None
    assert accuracy.value == against.value == pytest.approx(verdicts.mean())
    assert result(made, "b").accuracy is result(made, "b").accuracy_against is None


def test_a_single_row_and_a_single_seed_give_intervals_of_no_width() -> None:
    made = summary([cell("random", losses=[1.0]), cell("a", losses=[0.5])])
    against = result(made, "a").against
    assert against is not None
    assert (against.value, against.low, against.high) == (-0.5, -0.5, -0.5)


def test_the_later_of_two_cells_of_the_same_model_counts() -> None:
    made = summary([cell("a", losses=HARD + 9.0), cell("a")])
    assert made.cells == 1
    assert result(made, "a").loss.value == pytest.approx(HARD.mean())


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ([cell("a"), cell("b", losses=HARD[:-1])], "39 test rows"),
        ([cell("a"), cell("b", split="validate")], "40 validate rows"),
        ([cell("a", correct=[1.0])], "1 verdicts"),
        ([{**cell("a"), "kind": "guess"}], "cell 0: kind"),
        ([{key: value for key, value in cell("a").items() if key != "target"}], "cell 0: target"),
    ],
)
def test_cells_that_do_not_belong_together_are_refused(cells: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(StageError, match=named):
        summary(cells)


def decile_cells(noise: float, seeds: Sequence[int] = (0, 1)) -> list[dict[str, Any]]:
    return [
        cell(
            "evoselect",
            seed,
            HARD + 0.1 * index + noise * RNG.normal(),
            kind="decile",
            decile={"index": index, "alignment": 0.9 - 0.05 * index + 0.2 * noise * RNG.normal()},
        )
        for index in range(1, 11)
        for seed in seeds
    ]


def test_deciles_show_mean_losses_and_the_rank_correlation_of_all_points() -> None:
    cells = decile_cells(noise=0.2)
    (analysis,) = summary(cells).deciles
    losses = [float(np.mean(one["losses"])) for one in cells]
    alignments = [one["decile"]["alignment"] for one in cells]
    assert analysis.points == 20
    assert analysis.spearman == pytest.approx(stats.spearmanr(alignments, losses).statistic)
    assert [decile.index for decile in analysis.deciles] == list(range(1, 11))
    for number, decile in enumerate(analysis.deciles):
        pair = losses[2 * number : 2 * number + 2]
        assert decile.loss.value == pytest.approx(np.mean(pair))
        assert (decile.loss.low, decile.loss.high) == pytest.approx((min(pair), max(pair)))
        assert decile.alignment == pytest.approx(np.mean(alignments[2 * number : 2 * number + 2]))


def test_alignment_that_orders_the_deciles_has_correlation_minus_one() -> None:
    (analysis,) = summary(decile_cells(noise=0.0, seeds=(0,))).deciles
    assert analysis.spearman == pytest.approx(-1.0)


def test_a_correlation_of_too_few_or_equal_points_is_unknown() -> None:
    cells = decile_cells(noise=0.0, seeds=(0,))
    assert summary(cells[:2]).deciles[0].spearman is None
    for one in cells:
        one["decile"] = {"index": one["decile"]["index"], "alignment": 0.5}
    assert summary(cells).deciles[0].spearman is None


def test_decile_models_are_no_selectors() -> None:
    made = summary([cell("random"), *decile_cells(noise=0.1)])
    assert [one.selector for group in made.groups for one in group.results] == ["random"]
