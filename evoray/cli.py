"""The command line: `evoray COMMAND --help` explains each command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from evoray.cli_options import (
    Adapter,
    Address,
    EvaluatedSplit,
    Features,
    Model,
    Out,
    Pool,
    ResultFile,
    ScoresFolder,
    Seed,
    SelectorName,
    SelectorOptions,
    Set,
    Target,
    TargetFeatures,
)
from evoray.cli_output import (
    display,
    environment,
    keep_facts,
    say,
    score_facts,
    set_level,
    show_facts,
    show_live,
    show_run,
)
from evoray.cli_settings import answers, kept_in, option, run_config, sections
from evoray.program import run_program, typed

if TYPE_CHECKING:
    from evoray.records import Comparison, Score

_DASHBOARD = "http://127.0.0.1:8265"  # where Ray's own is by default

app = typer.Typer(
    name="evoray",
    help="Pick the training samples that move a model toward your task, train on them, measure, go round again.",
    callback=set_level,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="Folder for data and results.")] = "demo-run",
    small: Annotated[bool, typer.Option("--small", help="A reduced size, for a first look in a few minutes.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Delete an earlier run in this folder first.")] = False,
) -> None:
    """Run the whole loop on the embedded model, pool and target: no network, no config."""
    from evoray.demo.job import demo_config
    from evoray.pipeline import run as run_loop

    command = f"evoray demo --out {shlex.quote(out)}" + (" --small" if small else "")
    show_run(run_loop(demo_config(out, small=small), display=display(), anew=anew, command=command))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The config to write.")] = Path("run.yaml"),
    pool: Annotated[str | None, typer.Option("--pool", help="Candidates: a file, folder or glob.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Task: a file (dev), folder, or lm-eval:NAME.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Hub id, local directory, or smollm2.")] = None,
    k: Annotated[str | None, typer.Option("--k", help="How much to choose in a round: 500, 0.2, 100000tok.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Of choosing and training.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Run directory or bucket URI.")] = None,
) -> None:
    """Write a first config, with its keys explained; asks in a terminal for what is not given."""
    from evoray.initial import write_initial

    asked = {"pool": pool, "target": target, "model": model, "out": out, "rounds": rounds, "selection.k": k}
    write_initial(path, answers(asked))
    typer.echo(f"Written: {path}. Next: evoray plan {path}, then evoray run {path}")


@app.command()
def schema(kind: Annotated[str, typer.Argument(help="run, or comparison.")] = "run") -> None:
    """Print the JSON Schema of a config, by which editors complete, explain and check its keys."""
    from evoray.schemas import config_schema

    show_facts(config_schema(kind))


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML config.")],
    address: Address = None,
    overrides: Set = None,
    out: Annotated[str | None, typer.Option("--out", help="Run directory or bucket URI.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Delete an earlier run in this folder first.")] = False,
) -> None:
    """Run the whole loop of a config; the same command again goes on where it was interrupted."""
    from evoray.pipeline import run as run_loop

    loaded = run_config(config, address, overrides, out, seed)
    show_run(run_loop(loaded, display=display(), anew=anew, command=typed()))


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="YAML config of a run.")],
    address: Address = None,
    overrides: Set = None,
    out: Annotated[str | None, typer.Option("--out", help="Run directory or bucket URI.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="Rows of the pool to rehearse on.", min=16)] = 256,
) -> None:
    """Predict time, storage, memory and price of a run, by a rehearsal on a few rows where it will run."""
    from evoray.planning import plan as predict

    loaded = run_config(config, address, overrides, out, seed)
    Console().print(predict(loaded, rows=rows, display=display()))


@app.command()
def submit(
    config: Annotated[Path, typer.Argument(help="YAML config.")],
    dashboard: Annotated[
        str, typer.Option("--address", help="Jobs address of the cluster.", envvar="RAY_API_SERVER_ADDRESS")
    ] = _DASHBOARD,
    overrides: Set = None,
    out: Annotated[str | None, typer.Option("--out", help="Run directory that all nodes reach, or bucket.")] = None,
    follow: Annotated[bool, typer.Option(help="Show its output, and submit it again where it is lost.")] = True,
    retries: Annotated[int, typer.Option("--retries", help="Submissions after the first.", min=0)] = 3,
) -> None:
    """Run a config as a job on a Ray cluster; Ctrl-C leaves it there, and the same command resumes it."""
    from evoray.submission import submit as hand_over

    hand_over(
        config, dashboard, overrides or [], out=out, follow=follow, retries=retries, again=typed(), shown=environment(),
        tell=lambda line: typer.echo(line, err=True), write=lambda text: typer.echo(text, nl=False),
    )  # fmt: skip


@app.command()
def generate(
    config: Annotated[Path, typer.Argument(help="YAML config of a run, with a section generation.")],
    address: Address = None,
    overrides: Set = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder or bucket URI for the candidates.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")] = None,
) -> None:
    """Have a model write candidates for a task; what was answered is never asked again."""
    from evoray.generating import generate as write_candidates

    found = write_candidates(run_config(config, address, overrides, out, seed), display=display())
    show_facts({"candidates": found.path, "rows": found.rows, **found.facts})


@app.command()
def featurize(
    pool: Pool,
    model: Model,
    out: Out,
    adapter: Adapter = None,
    representation: Annotated[str, typer.Option(help="gradient, rds, embed, hidden_mean or uncertainty.")] = "gradient",
    dim: Annotated[int, typer.Option(help="Dimensions after the sketch.")] = 2048,
    seed: Seed = 0,
    max_tokens: Annotated[int, typer.Option(help="Longer samples are truncated.")] = 512,
    overrides: Set = None,
    address: Address = None,
) -> None:
    """Compute features of a pool into a feature store; resumable."""
    from evoray.single import featurize as compute

    settings = sections(
        overrides, address, features={"representation": representation, "dim": dim, "max_tokens": max_tokens}
    )
    result = compute(
        pool, model, out, adapter=adapter, features=settings.features, lora=settings.lora, reading=settings.reading,
        seed=seed, cluster=settings.cluster, display=display(),
    )  # fmt: skip
    show_facts({"features": result.path, "rows": result.rows, "quarantined": result.quarantined})


@app.command()
def select(
    k: Annotated[str, typer.Option("--k", help="Rows (500), a share of the pool (0.2), or tokens (100000tok).")],
    out: Out,
    pool: Annotated[str | None, typer.Option("--pool", help="Candidates: a file, folder or glob.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Task: a file (dev), folder, or lm-eval:NAME.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Hub id, local directory, or smollm2.")] = None,
    selector: SelectorName = None,
    adapter: Adapter = None,
    features: Features = None,
    target_features: TargetFeatures = None,
    options: SelectorOptions = None,
    seed: Seed = 0,
    overrides: Set = None,
    address: Address = None,
) -> None:
    """Choose K rows of a pool for a target; writes OUT/selected.parquet."""
    from evoray.single import select as choose

    chosen: dict[str, Any] = {"k": k, "options": dict(option(text) for text in options or [])}
    if selector is not None:
        chosen["selector"] = selector
    settings = sections(overrides, address, selection=chosen)
    result = choose(
        pool, target, model, settings.selection.k, out, adapter=adapter, features_path=features,
        target_features_path=target_features, features=settings.features, lora=settings.lora,
        selection=settings.selection, reading=settings.reading, seed=seed, cluster=settings.cluster, display=display(),
    )  # fmt: skip
    shown = {key: result.facts[key] for key in ("selector", "usable", "lambda", "r") if key in result.facts}
    show_facts({"selected": result.path, "rows": len(result.ids), **shown})


@app.command()
def score(
    potentials: Annotated[
        str, typer.Option("--potentials", help="potentials.parquet, its folder, or a run directory (its last round).")
    ],
    out: Out,
    pool: Annotated[str | None, typer.Option("--pool", help="New candidates: a file, folder or glob.")] = None,
    features: Annotated[
        str | None, typer.Option("--features", help="Their features, as for `select`; then no model is needed.")
    ] = None,
    overrides: Set = None,
    address: Address = None,
) -> None:
    """Score unseen candidates by the potentials of a selection; writes OUT/scores.parquet, best first."""
    from evoray.single import score as extend

    settings = sections(overrides, address)
    result = extend(
        potentials, pool, out, features_path=features, reading=settings.reading, cluster=settings.cluster,
        display=display(),
    )  # fmt: skip
    show_facts({"scores": result.path, "rows": result.rows, "quarantined": result.quarantined})


@app.command()
def train(
    data: Annotated[str, typer.Option("--data", help="Rows to train on, in any format of a pool.")],
    model: Model,
    out: Out,
    adapter: Adapter = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Task whose validate rows training.early_stop looks at.")
    ] = None,
    seed: Seed = 0,
    overrides: Set = None,
    address: Address = None,
) -> None:
    """Fine-tune with DeepSpeed: a LoRA adapter (OUT/adapter), or with training.weights=full a model (OUT/model)."""
    from evoray.single import train as fine_tune

    settings = sections(overrides, address)
    result = fine_tune(
        data, model, out, adapter=adapter, target=target, training=settings.training, lora=settings.lora,
        reading=settings.reading, max_tokens=settings.features.max_tokens, seed=seed, cluster=settings.cluster,
        display=display(),
    )  # fmt: skip
    show_facts({Path(result.path).name: result.path, **result.facts})


@app.command()
def evaluate(
    model: Model,
    target: Target,
    adapter: Adapter = None,
    against_model: Annotated[
        str | None, typer.Option("--against-model", help="Also score another model, and the difference row by row.")
    ] = None,
    against_adapter: Annotated[
        str | None, typer.Option("--against-adapter", help="The same with another adapter (none: none).")
    ] = None,
    split: EvaluatedSplit = "validate",
    out: ResultFile = None,
    scores: ScoresFolder = None,
    seed: Seed = 0,
    overrides: Set = None,
    address: Address = None,
) -> None:
    """Loss and accuracy of a model on a target, with 95% intervals; or of two on the same rows, and how far apart."""
    from evoray.single import evaluate as measure
    from evoray.single import evaluate_paired

    settings = sections(overrides, address)
    common: dict[str, Any] = {
        "adapter": adapter, "split": split, "evaluation": settings.evaluation,
        "max_tokens": settings.features.max_tokens, "seed": seed, "cluster": settings.cluster, "display": display(),
    }  # fmt: skip
    against: dict[str, Any] = {"against_model": against_model, "against_adapter": against_adapter}
    found: Score | Comparison
    with kept_in(scores) as folder:
        if against_model is None and against_adapter is None:
            found = measure(model, target, str(folder), **common)
        else:
            found = evaluate_paired(target, model, str(folder), **against, **common)
    facts = score_facts(found, (model, adapter), (against_model or model, against_adapter))
    keep_facts({"target": target, "split": split, **facts}, out)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="YAML config of a comparison.")],
    address: Address = None,
    overrides: Set = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder or bucket URI for the results.")] = None,
) -> None:
    """Select by several selectors, train, and compare on the same test rows; the same command again goes on."""
    from evoray.comparison import compare as run_comparison
    from evoray.comparison_config import load_comparison

    settings = [*(overrides or []), *([f"cluster.address={address}"] if address else [])]
    result = run_comparison(load_comparison(config, settings, out=out), display=display())
    typer.echo(result.headline)
    typer.echo(f"Results: {result.out} (report.html, report.md, cells.jsonl)")


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="Run directory, folder of a selection, or a file of rows.")],
    out: Out,
    form: Annotated[
        str, typer.Option("--form", help="Rows: messages (JSON lines), parquet, dataset. What was trained: model.")
    ] = "messages",
    rounds: Annotated[int | None, typer.Option("--rounds", help="Rounds of the run to take; all.", min=1)] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of --form model: the base, where not known.")] = None,
) -> None:
    """Write chosen rows for other trainers (messages, Parquet, a dataset with its card), or the model for serving."""
    from evoray.engine.exports import export as write
    from evoray.engine.serving import export_model

    if form == "model":
        merged = export_model(source, out, model=model)
        show_facts({"exported": merged.path, "model": merged.model, "trained": merged.trained})
        return
    result = write(source, out, form=form, rounds=rounds)
    show_facts({"exported": result.path, "rows": result.rows, "left_out": result.left_out})


@app.command()
def report(
    run_dir: Annotated[str, typer.Argument(help="Directory or URI of a finished run or comparison.")],
    form: Annotated[str | None, typer.Option("--form", help="Print this form alone: markdown, or html.")] = None,
) -> None:
    """Print the report of a finished run or comparison as Markdown, and write its report.html anew."""
    from evoray.reporting import read_report, write_page

    typer.echo(read_report(run_dir, form=form or "markdown"))
    if form is None:
        say(f"Page: {write_page(run_dir)}")


@app.command()
def status(
    run_dir: Annotated[str, typer.Argument(help="Directory or URI of a run.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on until nobody drives it; JSON lines elsewhere.")] = False,
    every: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.1)] = 2.0,
) -> None:
    """What is done of a run, what it is doing now, and who drives it."""
    from evoray.watching import status as look
    from evoray.watching import watch as follow

    if watch:
        show_live(follow(run_dir, every))
    else:
        show_facts(look(run_dir))


@app.command()
def doctor(
    run_dir: Annotated[str | None, typer.Argument(help="Run directory to look at as well.", show_default=False)] = None,
    dashboard: Annotated[str, typer.Option("--dashboard", help="Address of a cluster's dashboard.")] = _DASHBOARD,
) -> None:
    """Check this machine, and whether a run directory and a cluster are closed to strangers; 1 where they are not."""
    from evoray.doctor import examine, show

    findings = examine(run_dir, dashboard)
    show(findings, Console(soft_wrap=True, highlight=False))
    if any(one.status == "FAIL" for one in findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the `evoray` command."""
    run_program(app)


if __name__ == "__main__":
    main()
