"""A run as one Markdown page: the verdict first, then why, then how to get the same again."""

from __future__ import annotations

from evoray.report.summary import Arm, Cascade, Interval, Progress, RunSummary
from evoray.report.table import count, escape, interval, markdown_table, result_rows

BASE, RANDOM = "base", "random"


def render(run: RunSummary) -> str:
    """The page, ending in a line break. Sections without content are left out."""
    sections = [
        f"# {escape(run.name)}",
        _verdict(run),
        markdown_table(*result_rows(run.arms)),
        _section("Rounds on the validate rows", _progress(run)),
        _section("What the generator wrote", _generated(run)),
        _section("What was chosen", _chosen(run)),
        _section("How the weights were found", _path(run)),
        _section("Certificates", _certificates(run)),
        _section("Convergence of the weights", _trace(run)),
        _section("Rows that could not be used", _quarantine(run)),
        _section("Time", _timings(run)),
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


def _verdict(run: RunSummary) -> str:
    return f"**{escape(verdict(run))}**"


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


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _progress(run: RunSummary) -> str:
    if not run.progress:
        return ""
    rows = [
        (
            str(one.round),
            f"{one.loss:.4f}",
            interval(one.against_untrained, signed=True),
            f"{interval(one.against_best, signed=True)} ({f'round {one.best}' if one.best else 'untrained'})",
            _harm(one),
        )
        for one in run.progress
    ]
    table = markdown_table(("round", "loss", "loss - untrained [95%]", "loss - best before [95%]", ""), rows)
    return table if run.ending is None else f"{table}\n\nThe run ended early: {escape(run.ending)}."


def _generated(run: RunSummary) -> str:
    """Round by round; what was refused or dropped is among the rows that could not be used."""
    if not run.generated:
        return ""
    names = ("round", "requests", "answered", "samples", "kept", "prompt_tokens", "completion_tokens")
    rows = [tuple(count(getattr(one, name)) for name in names) for one in run.generated]
    return markdown_table(("round", "requests", "answered", "samples", "new", "tokens read", "tokens written"), rows)


def _harm(one: Progress) -> str:
    if not one.harmful:
        return "better" if one.against_best.high < 0 else "no clear difference"
    return "HARMFUL, rolled back" if one.rolled_back else "HARMFUL, kept"


def _chosen(run: RunSummary) -> str:
    choice = run.choice
    parts = []
    if choice.sources:
        pool = sum(source.pool for source in choice.sources)
        chosen = sum(source.chosen for source in choice.sources)
        rows = [
            (
                source.source,
                count(source.pool),
                _share(source.pool, pool),
                count(source.chosen),
                _share(source.chosen, chosen),
            )
            for source in sorted(choice.sources, key=lambda source: (-source.chosen, source.source))
        ]
        parts.append(markdown_table(("source", "in the pool", "share", "chosen", "share chosen"), rows))
    facts = []
    if choice.vendi is not None:
        beside = "" if choice.vendi_target is None else f"; the target's own is {choice.vendi_target:.1f}"
        facts.append(f"- Vendi score (effective number of different rows): {choice.vendi:.1f}{beside}")
    if choice.tokens_mean is not None:
        beside = "" if choice.tokens_mean_pool is None else _bias(choice.tokens_mean, choice.tokens_mean_pool)
        facts.append(f"- Mean tokens of a chosen row: {choice.tokens_mean:.1f}{beside}")
    if choice.cascade is not None:
        facts.append(_cascade(choice.cascade))
    if facts:
        parts.append("\n".join(facts))
    return "\n\n".join(parts)


def _cascade(cascade: Cascade) -> str:
    sentence = f"- Cascade: {cascade.representation} left {count(cascade.kept)} candidates"
    recall = cascade.recall
    if recall is None:
        return sentence + "; what that loses was not measured"
    return (
        f"{sentence}; of {count(recall.rows)} random rows the full pass would pick {count(recall.wanted)}, and "
        f"{count(recall.found)} of these are among the {count(recall.kept)} that the cheap pass keeps"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _bias(chosen: float, pool: float) -> str:
    ratio = f" ({chosen / pool:.2f} times)" if pool else ""
    return f"; of a pool row: {pool:.1f}{ratio}"


def _path(run: RunSummary) -> str:
    if not run.path:
        return ""
    untrained = all(point.validate_loss is None for point in run.path)
    rows = [
        (
            str(point.round),
            f"{point.lam:g}",
            f"{point.r:g}",
            f"{point.transport_cost:.6g}",
            *([] if untrained else ["" if point.validate_loss is None else f"{point.validate_loss:.4f}"]),
            "chosen" if point.chosen else "",
        )
        for point in run.path
    ]
    titles = ("round", "lambda", "r", "transport cost to the validation rows")
    return markdown_table((*titles, *([] if untrained else ["loss on them after training"]), ""), rows)


def _certificates(run: RunSummary) -> str:
    if not run.certificates:
        return ""
    rows = [
        (one.name, f"{one.value:.3g}", f"{one.bound:.3g}", "yes" if one.holds else "NO") for one in run.certificates
    ]
    return markdown_table(("certificate", "value", "bound", "holds"), rows)


def _trace(run: RunSummary) -> str:
    if not run.trace:
        return ""
    rows = [
        (
            str(line.round),
            str(line.step),
            f"{line.transport:.5f}",
            f"{line.diversity:.5f}",
            f"{line.gap:.2g}",
            f"{line.effective:.1f}",
            f"{line.marginal_error:.1e}",
        )
        for line in run.trace
    ]
    titles = ("round", "step", "transport", "diversity", "gap to the optimum", "candidates in play", "marginal error")
    return markdown_table(titles, rows)


def _quarantine(run: RunSummary) -> str:
    if not run.quarantine:
        return ""
    ordered = sorted(run.quarantine.items(), key=lambda entry: (-entry[1], entry[0]))
    return markdown_table(("reason", "rows"), [(reason, count(rows)) for reason, rows in ordered])


def _timings(run: RunSummary) -> str:
    if not run.timings:
        return ""
    rows = [(stage, f"{seconds:.1f}") for stage, seconds in run.timings.items()]
    return markdown_table(("stage", "seconds"), [*rows, ("all", f"{sum(run.timings.values()):.1f}")])


def _reproduce(run: RunSummary) -> str:
    command = "\n".join(f"    {line}" for line in run.command.splitlines())  # indented code: no fence to break out of
    versions = markdown_table(("package", "version"), list(run.versions.items())) if run.versions else ""
    return "\n\n".join(part for part in (command, versions) if part)
