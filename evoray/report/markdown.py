"""A run as one Markdown page: the verdict first, then why, then how to get the same again."""

from __future__ import annotations

from evoray.report.cost_tables import compared_grid, compared_title
from evoray.report.run_tables import (
    certificate_grid,
    generated_grid,
    path_grid,
    progress_grid,
    quarantine_grid,
    source_grid,
    timing_grid,
    trace_grid,
    version_grid,
)
from evoray.report.summary import Arm, Cascade, Choice, Interval, RunSummary
from evoray.report.table import count, escape, interval, markdown_of, markdown_table, result_rows

BASE, RANDOM = "base", "random"


def render(run: RunSummary) -> str:
    """The page, ending in a line break. Sections without content are left out."""
    sections = [
        f"# {escape(run.name)}",
        f"**{escape(verdict(run))}**",
        markdown_table(*result_rows(run.arms)),
        _section("Rounds on the validate rows", _progress(run)),
        _section("What the generator wrote", markdown_of(generated_grid(run))),
        _section("What was chosen", _chosen(run)),
        _section("How the weights were found", markdown_of(path_grid(run.path))),
        _section("Certificates", markdown_of(certificate_grid(run))),
        _section("Convergence of the weights", markdown_of(trace_grid(run))),
        _section("Rows that could not be used", markdown_of(quarantine_grid(run))),
        _section(compared_title(run.forecast), markdown_of(compared_grid(run.forecast, run.timings))),
        _section("Time", markdown_of(timing_grid(run))),
        _section("To get the same again", _reproduce(run)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def verdict(run: RunSummary) -> str:
    """One or two plain sentences: what the kept model is, and whether it beats random rows and no training."""
    kept = run.arm(run.best)
    if kept is None:
        return f"No result is known for {run.best}, the model that this run kept."
    sentences = [f"{kept.name} was kept: loss {interval(kept.loss)} on {count(run.target_rows)} {run.split} rows."]
    if kept.name == BASE:
        sentences.append("No round was better than the untrained model.")
    if kept.against_random is not None and kept.name != RANDOM:
        sentences.append(_against_random(kept.against_random))
    base = run.arm(BASE)
    if base is not None and kept.name != BASE:
        sentences.append(_against_base(kept, base))
    return " ".join(sentences)


def _against_random(difference: Interval) -> str:
    shown = interval(difference, signed=True)
    if difference.high < 0:
        return f"It beats random rows: paired loss difference {shown}."
    if difference.low > 0:
        return f"It is worse than random rows: paired loss difference {shown}."
    return f"It cannot be told apart from random rows: paired loss difference {shown}."


def _against_base(kept: Arm, base: Arm) -> str:
    sentence = f"The untrained model has loss {base.loss.value:.4f}"
    if kept.accuracy is None or base.accuracy is None:
        return sentence + "."
    return f"{sentence}; accuracy went from {base.accuracy.value:.1%} to {kept.accuracy.value:.1%}."


def choice_facts(choice: Choice) -> list[str]:
    """What is known of the choice as a whole, a sentence each."""
    facts = []
    if choice.vendi is not None:
        beside = "" if choice.vendi_target is None else f"; the target's own is {choice.vendi_target:.1f}"
        facts.append(f"Vendi score (effective number of different rows): {choice.vendi:.1f}{beside}")
    if choice.tokens_mean is not None:
        beside = "" if choice.tokens_mean_pool is None else _bias(choice.tokens_mean, choice.tokens_mean_pool)
        facts.append(f"Mean tokens of a chosen row: {choice.tokens_mean:.1f}{beside}")
    if choice.cascade is not None:
        facts.append(_cascade(choice.cascade))
    return facts


def _cascade(cascade: Cascade) -> str:
    sentence = f"Cascade: {cascade.representation} left {count(cascade.kept)} candidates"
    recall = cascade.recall
    if recall is None:
        return sentence + "; what that loses was not measured"
    return (
        f"{sentence}; of {count(recall.rows)} random rows the full pass would pick {count(recall.wanted)}, and "
        f"{count(recall.found)} of these are among the {count(recall.kept)} that the cheap pass keeps"
    )


def _bias(chosen: float, pool: float) -> str:
    ratio = f" ({chosen / pool:.2f} times)" if pool else ""
    return f"; of a pool row: {pool:.1f}{ratio}"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _progress(run: RunSummary) -> str:
    table = markdown_of(progress_grid(run))
    if not table or run.ending is None:
        return table
    return f"{table}\n\nThe run ended early: {escape(run.ending)}."


def _chosen(run: RunSummary) -> str:
    facts = "\n".join(f"- {escape(fact)}" for fact in choice_facts(run.choice))
    return "\n\n".join(part for part in (markdown_of(source_grid(run)), facts) if part)


def _reproduce(run: RunSummary) -> str:
    command = "\n".join(f"    {line}" for line in run.command.splitlines())  # indented code: no fence to break out of
    return "\n\n".join(part for part in (command, markdown_of(version_grid(run))) if part)
