"""A run as one offline page: the verdict first, then what was chosen and why, then how to get the same again."""

from __future__ import annotations

from evoray.report.cost_tables import compared_grid, compared_title, duration
from evoray.report.markdown import BASE, choice_facts, verdict
from evoray.report.page import Code, Examples, Fact, Facts, Page, Part, Plots, Prose, Section, Table, render_page
from evoray.report.run_drawings import (
    convergence_plots,
    curve_plots,
    map_plot,
    path_plots,
    result_plots,
    source_plot,
)
from evoray.report.run_tables import (
    certificate_grid,
    generated_grid,
    manifest_grid,
    progress_grid,
    quarantine_grid,
    result_grid,
    set_aside_grid,
    timing_grid,
    trace_grid,
    version_grid,
)
from evoray.report.summary import Arm, Interval, RunSummary
from evoray.report.table import Grid, count, interval


def render_run(run: RunSummary) -> str:
    """The page. Sections without content are left out."""
    kept = run.arm(run.best)
    version = run.versions.get("evoray", "")
    parts = {
        ("results", "Results"): _results(run),
        ("rounds", "Rounds on the validate rows"): _rounds(run),
        ("chosen", "What was chosen"): _chosen(run),
        ("why", "How the choice was found"): _why(run),
        ("aside", "Rows that were set aside"): _set_aside(run),
        ("training", "Training"): _training(run),
        ("cost", "Time"): _cost(run),
        ("again", "To get the same again"): _again(run),
        ("notes", "How to read this"): _notes(),
    }
    sections = [Section(key=key, title=title, parts=found) for (key, title), found in parts.items() if found]
    return render_page(
        Page(
            title=f"Report of a run ({run.name})",
            lead=_sentence(verdict(run)),
            tone=_tone(None if kept is None else kept.against_random),
            sections=sections,
            footer=f"Written by evoray {version}".rstrip(),
        )
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tone(difference: Interval | None) -> str:
    if difference is None or difference.low <= 0 <= difference.high:
        return "unclear"
    return "better" if difference.high < 0 else "worse"


def _results(run: RunSummary) -> list[Part]:
    return [
        Facts(facts=_facts(run)),
        Table(caption=f"Models on {count(run.target_rows)} {run.split} rows", grid=result_grid(run)),
        Plots(plots=result_plots(run)),
    ]


def _facts(run: RunSummary) -> list[Fact]:
    kept, base = run.arm(run.best), run.arm(BASE)
    facts = []
    if kept is not None:
        beside = f"untrained {base.loss.value:.4f}" if base is not None and kept is not base else ""
        facts.append(
            Fact(name=f"Loss on {run.split}", value=f"{kept.loss.value:.4f}", beside=_range(kept.loss, beside))
        )
        if kept.against_random is not None:
            shown = _range(kept.against_random, "paired", signed=True)
            facts.append(Fact(name="Loss against random rows", value=f"{kept.against_random.value:+.4f}", beside=shown))
        facts += _accuracy(kept, base)
    facts += _size(run, kept)
    if run.timings:
        trained = sum(run.train_seconds.values())
        beside = f"of these {duration(trained)} to train the models of the table" if trained else ""
        facts.append(Fact(name="Time", value=duration(sum(run.timings.values())), beside=beside))
    return facts


def _accuracy(kept: Arm, base: Arm | None) -> list[Fact]:
    if kept.accuracy is None:
        return []
    before = "" if base is None or base.accuracy is None or kept is base else f"untrained {base.accuracy.value:.1%}"
    shown = f"[{kept.accuracy.low:.1%}, {kept.accuracy.high:.1%}]"
    beside = f"{shown}; {before}" if before else shown
    return [Fact(name="Accuracy", value=f"{kept.accuracy.value:.1%}", beside=beside)]


def _size(run: RunSummary, kept: Arm | None) -> list[Fact]:
    """How many rows the kept model was trained on, and of how many."""
    if kept is None or kept.rows is None:
        return []
    pool = sum(source.pool for source in run.choice.sources)
    tokens = "" if kept.tokens is None else f"{count(kept.tokens)} tokens trained on"
    beside = "; ".join(part for part in (f"of {count(pool)} in the pool" if pool else "", tokens) if part)
    return [Fact(name="Rows", value=count(kept.rows), beside=beside)]


def _range(value: Interval, beside: str, *, signed: bool = False) -> str:
    shown = interval(value, signed=signed).partition(" ")[2]
    return f"{shown}; {beside}" if beside else shown


def _rounds(run: RunSummary) -> list[Part]:
    parts = _table("Each round beside the untrained model and the best round before", progress_grid(run))
    if run.ending is not None:
        parts.append(Prose(lines=[f"The run ended early: {run.ending}."]))
    return [*parts, *_table("What the generator wrote", generated_grid(run))]


def _chosen(run: RunSummary) -> list[Part]:
    facts = choice_facts(run.choice)
    plots = [plot for plot in (source_plot(run), map_plot(run)) if plot is not None]
    parts: list[Part] = [Prose(lines=facts, listed=True)] if facts else []
    parts += [Plots(plots=plots)] if plots else []
    if run.examples:
        parts += [
            Prose(lines=["Some of the chosen rows, the best first, each beside the row of the target nearest to it."]),
            Examples(examples=run.examples),
        ]
    return parts


def _why(run: RunSummary) -> list[Part]:
    parts: list[Part] = []
    paths, convergence = path_plots(run), convergence_plots(run)
    if paths:
        parts.append(Plots(plots=paths))
    if convergence:
        parts.append(Plots(plots=convergence))
    certificates = "How far the choice can be from the best possible"
    return [
        *parts,
        *_table(certificates, certificate_grid(run)),
        *_table("The descent step by step", trace_grid(run), folded=True),
    ]


def _set_aside(run: RunSummary) -> list[Part]:
    return [
        *_table("Rows that could not be used, or not whole, by reason", quarantine_grid(run)),
        *_table("Some of these rows", set_aside_grid(run)),
    ]


def _training(run: RunSummary) -> list[Part]:
    plots = curve_plots(run)
    return [Plots(plots=plots)] if plots else []


def _cost(run: RunSummary) -> list[Part]:
    """What the run was expected to take, and what it took."""
    return [
        *_table(compared_title(run.forecast), compared_grid(run.forecast, run.timings)),
        *_table("Seconds of each stage, over all processes that worked on the run", timing_grid(run)),
    ]


def _again(run: RunSummary) -> list[Part]:
    parts: list[Part] = [Code(caption="The command, in the folder that it was given in", text=run.command)]
    if run.config is not None:
        parts.append(Code(caption="The config with all its defaults (config.yaml)", text=run.config, folded=True))
    parts += _table("What the choices depend on, by fingerprint (manifest.json)", manifest_grid(run), folded=True)
    return [*parts, *_table("Versions", version_grid(run), folded=True)]


def _notes() -> list[Part]:
    notes = [
        "Losses are nats a supervised token, lower is better. Brackets are intervals of 95%, from resampling the rows "
        "of the target: they tell nothing of another seed or another training.",
        "A random model was trained on random rows of as many tokens, for as many steps. The difference to it is "
        "paired, row by row: an interval below zero is a better model, one that contains zero tells the two apart in "
        "neither direction.",
        "Alignment is the cost of transporting the chosen rows to held-out rows of the target; diversity is the Vendi "
        "score, the effective number of different rows. Lambda weighs diversity against alignment, r blurs the plan.",
        "A certificate bounds how far the choice is from the best one by its own objective, no more.",
        "The map shows two directions of many: rows far apart on it differ, rows side by side need not be alike.",
    ]
    return [Prose(lines=notes, listed=True)]


def _table(caption: str, grid: Grid | None, *, folded: bool = False) -> list[Part]:
    return [] if grid is None else [Table(caption=caption, grid=grid, folded=folded)]
