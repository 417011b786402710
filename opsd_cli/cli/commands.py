"""The flags and help of each command, whose body is in a module of its own.

A body is imported when its command runs, so that `opsd --help` costs little more than importing
Typer.
"""

from __future__ import annotations

from opsd_cli.cli import compare_options, options


def sample(
    question: options.Question = None,
    file: options.QuestionFile = None,
    split: options.Split = "validation",
    limit: options.Limit = None,
    n: options.Completions = 1,
    sampling: options.Sampling = "evaluation",
    max_tokens: options.SampledTokens = None,
    temperature: options.SampledTemperature = None,
    solution: options.Solution = None,
    privileged: options.Privileged = False,
    divergence: options.Divergence = False,
    show_prompts: options.ShowPrompts = False,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    devices: options.Devices = None,
    hosts: options.Hosts = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    checkpoint: options.Checkpoint = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw completions for a question.

    On a terminal the text appears while it is decoded; with --json, on standard error.

    [dim]opsd sample --divergence[/dim]
    [dim]opsd sample "Start with 12. Add 30. What is the result?" --n 4[/dim]
    """
    from opsd_cli.cli import sample
    from opsd_cli.cli.request import request

    sample.run(
        request(
            config, set_, backend, model, adapter, seed, json, quiet, dry_run, trust,
            checkpoint=checkpoint, devices=devices, hosts=hosts,
            aliases=sample.sampling_flags(sampling, max_tokens, temperature),
        ),
        sample.Options(
            question=question, file=file, split=split, limit=limit, n=n, solution=solution,
            privileged=privileged, divergence=divergence, show_prompts=show_prompts,
            sampling=sampling, temperature=temperature,
        ),
    )  # fmt: skip


def init(
    file: options.NewConfig = None,
    out: options.NewConfigOut = None,
    model: options.Model = None,
    data: options.TrainOn = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    trust: options.Trust = False,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a commented config for a first run on a model and data of your own.

    [dim]opsd init --model Qwen/Qwen3-1.7B --data problems.jsonl[/dim]
    [dim]opsd train --config opsd.yaml[/dim]
    """
    from opsd_cli.cli import init
    from opsd_cli.cli.console import Output

    flags = {"backend": backend, "trust_remote_code": trust or None}
    init.run(file, out, model, data, tuple(set_ or ()), flags, dry_run, Output(json, quiet))


def train(
    method: options.Method = None,
    steps: options.Steps = None,
    lr: options.LearningRate = None,
    batch: options.Batch = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    out: options.Out = None,
    resume: options.ResumeRun = False,
    resume_from: options.ResumeFrom = None,
    log: options.Log = None,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    devices: options.Devices = None,
    hosts: options.Hosts = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    probe: options.Probe = False,
    show_config: options.ShowConfig = False,
    preflight_only: options.PreflightOnly = False,
    sources: options.Sources = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Teach a model by on-policy self-distillation.

    Every other setting is a config key: --set KEY=VALUE (`opsd presets keys` lists them), or a
    file that `opsd init` writes.

    [dim]opsd train[/dim]
    [dim]opsd train --config opsd.yaml --preflight-only[/dim]
    [dim]opsd train --config opsd.yaml --steps 50 --lr 2e-5 --out runs/mine[/dim]
    [dim]opsd train --config opsd-qwen3-1.7b --set data.train=problems.jsonl --out runs/mine[/dim]
    """
    from opsd_cli.cli import train
    from opsd_cli.cli.request import request

    train.run(
        request(
            config, set_, backend, model, adapter, seed, json, quiet, dry_run, trust,
            method=method, log=log, devices=devices, hosts=hosts,
            aliases={
                "train.steps": steps, "train.questions_per_step": batch,
                "optimizer.learning_rate": lr, "sampling.max_new_tokens": max_tokens,
                "sampling.temperature": temperature,
            },
        ),
        out,
        resume,
        resume_from,
        probe,
        show_config,
        preflight_only,
        sources,
    )  # fmt: skip


def evaluate(
    benchmark: options.Benchmark = None,
    samples: options.Samples = None,
    max_tokens: options.EvaluatedTokens = None,
    temperature: options.EvaluatedTemperature = None,
    limit: options.Limit = None,
    out: options.Out = None,
    resume: options.ResumeEvaluation = False,
    regrade: options.Regrade = False,
    against: options.Against = None,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    devices: options.Devices = None,
    hosts: options.Hosts = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    checkpoint: options.Checkpoint = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure accuracy: k samples a problem, graded.

    [dim]opsd eval --samples 4[/dim]
    [dim]opsd eval --adapter runs/mine --benchmark aime24,aime25 --samples 16 --out evals/mine[/dim]
    [dim]opsd eval --resume --out evals/mine --against evals/base[/dim]
    """
    from opsd_cli.cli import evaluate
    from opsd_cli.cli.request import request

    evaluate.run(
        request(
            config, set_, backend, model, adapter, seed, json, quiet, dry_run, trust,
            samples=samples, checkpoint=checkpoint, devices=devices, hosts=hosts,
            aliases={
                "evaluation.max_new_tokens": max_tokens, "evaluation.temperature": temperature,
            },
        ),
        evaluate.Options(
            benchmarks=tuple(benchmark or ()), limit=limit, out=out, resume=resume,
            regrade=regrade, against=against, temperature=temperature,
        ),
    )  # fmt: skip


def compare(
    finished: compare_options.Runs = None,
    methods: compare_options.Methods = None,
    vary: compare_options.Vary = None,
    grid: compare_options.Grid = False,
    halving: compare_options.Halving = False,
    halving_rounds: compare_options.HalvingRounds = None,
    halving_fraction: compare_options.HalvingFraction = None,
    seeds: compare_options.Seeds = 3,
    tune: compare_options.Tune = False,
    target: compare_options.Target = None,
    require_ratio: compare_options.RequireRatio = None,
    jobs: compare_options.Jobs = 1,
    out: options.Out = None,
    resume: compare_options.ResumeComparison = False,
    log: options.Log = None,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    trust: options.Trust = False,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Set methods against each other on equal terms: tokens for the same accuracy.

    [dim]opsd compare[/dim]
    [dim]opsd compare --methods opsd,grpo,sft --seeds 5 --tune[/dim]
    [dim]opsd compare --vary divergence.kind=forward_kl,jsd --vary train.passes=4,16[/dim]
    [dim]opsd compare --vary optimizer.learning_rate=1e-5,3e-5,1e-4 --halving[/dim]
    [dim]opsd compare runs/a runs/b --require-ratio 4[/dim]
    """
    from opsd_cli.cli import compare
    from opsd_cli.cli.request import request

    compare.run(
        request(
            config, set_, backend, model, adapter, seed, json, quiet, dry_run, trust, log=log,
            aliases={
                "sampling.max_new_tokens": max_tokens, "sampling.temperature": temperature,
            },
        ),
        compare.Options(
            finished=tuple(finished or ()), methods=methods, seeds=seeds, tune=tune,
            target=target, require_ratio=require_ratio, jobs=jobs, out=out, resume=resume,
            vary=tuple(vary or ()), grid=grid, halving=halving, halving_rounds=halving_rounds,
            halving_fraction=halving_fraction,
        ),
    )  # fmt: skip


def export(
    adapter: options.Exported,
    format_: options.Format = "peft",
    dtype: options.Dtype = None,
    checkpoint: options.Checkpoint = None,
    out: options.Out = None,
    push: options.Push = None,
    public: options.Public = False,
    config: options.Config = None,
    set_: options.Set = None,
    backend: options.Backend = None,
    model: options.Model = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write an adapter for peft and vLLM, for mlx-lm, or merged into its model.

    [dim]opsd export runs/mine --format mlx --out adapters/mine[/dim]
    [dim]opsd export runs/mine --format merged --push ORG/NAME[/dim]
    """
    from opsd_cli.cli import export
    from opsd_cli.cli.request import request

    export.run(
        request(
            config, set_, backend, model, adapter, None, json, quiet, dry_run,
            checkpoint=checkpoint,
        ),
        export.Options(form=format_, directory=out, dtype=dtype, push=push, public=public),
    )  # fmt: skip


def report(
    directory: options.Reported,
    out: options.ReportOut = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write the page of a run, an evaluation or a comparison again, finished or interrupted.

    [dim]opsd report runs/mine[/dim]
    """
    from opsd_cli.cli import report
    from opsd_cli.cli.console import Output

    report.run(directory, out, Output(json, quiet))


def doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Report platform, versions and what each backend can do here; paste it into an issue."""
    from opsd_cli.cli import doctor

    doctor.run(json)
