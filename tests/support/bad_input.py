"""Invalid command lines, configs and files: what is typed, the exit code, and the two error lines.

One table serves the test and `docs/errors.md`, which `python -m tests.support.bad_input`
prints.

Longer than 350 lines: it is one table, whose parts have nothing of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GOOD = "".join(
    f'{{"question": "{n} + 1", "solution": "{n} + 1 = {n + 1}", "answer": "{n + 1}"}}\n'
    for n in range(40)
)
DEEP = '{"question": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
RUN = "seed: 0\n"
TINY = {"good.jsonl": GOOD}


ADAPTER = {
    "a/adapter_config.json": '{"peft_type": "LORA", "r": 2, "lora_alpha": 4}',
    "full/thing": "mine",
}


#: A model's folder as far as a plan looks at it, without its tokenizer.
QWEN = '{"model_type": "qwen3", "hidden_size": 4, "vocab_size": 8}'
WEIGHTS = "\2\0\0\0\0\0\0\0{}"


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
CHATS = "".join(
    f'{{"messages": [{{"role": "user", "content": "{n} + 1"}}, '
    f'{{"role": "assistant", "content": "{n + 1}"}}]}}\n'
    for n in range(40)
)


STEPS = {
    "made/config.yaml": RUN,
    **{f"made/checkpoints/step-{n:06d}/adapter_config.json": "{}" for n in (0, 25, 50)},
}


@dataclass(frozen=True)
class Case:
    """`says` and `hints` are parts of the two error lines; `files` are in the working directory."""

    command: str
    code: int
    says: str
    hints: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


CASES = [
    # the command line
    Case("train --data good.jsonl", 2, "no such option: --data",
         "did you mean --set data.train=good.jsonl?"),
    Case("train --learning-rate=1e-4", 2, "no such option: --learning-rate",
         "did you mean --lr 1e-4?"),
    Case("train --lora-rank 8", 2, "no such option: --lora-rank", "did you mean --set lora.rank=8"),
    Case("eval --data good.jsonl", 2, "no such option: --data", "--benchmark good.jsonl"),
    Case("trian", 2, "no such command 'trian'", "--help"),
    Case("train --stes 3", 2, "no such option: --stes", "opsd train --help`; settings are given"),
    Case("presets lst", 2, "no such command 'lst'", "opsd presets --help"),
    Case("train --seed many", 2, "should be a valid integer"),
    Case("train --seed", 2, "requires an argument", "see `opsd train --help`"),
    Case("presets copy --help=1 embedded", 2, "does not take", "see `opsd presets copy --help`"),
    Case("train extra", 2, "unexpected extra argument"),
    Case("sample --n 0", 2, "greater than or equal to 1"),
    Case("eval --limit 0", 2, "greater than or equal to 1"),
    # configs
    Case("train --config nosuch.yaml", 2, "cannot read config nosuch.yaml", "YAML"),
    Case("train --config embeded", 2, "neither a preset nor a file", "did you mean 'embedded'"),
    Case("train --config bad.yaml", 2, "bad.yaml, line", "", {"bad.yaml": "seed: [1\n"}),
    Case("train --config list.yaml", 2, "not a mapping", "", {"list.yaml": "- 1\n"}),
    Case("train --config p.yaml", 2, "no preset 'x'", "opsd presets", {"p.yaml": "preset: x\n"}),
    Case("train --config k.yaml", 2, "k.yaml, line 1: unknown config key 'train.stpes'",
         "'train.steps'", {"k.yaml": "train: {stpes: 3}\n"}),
    Case("train --config empty.yaml", 2, "empty.yaml holds no config key", "leave out --config",
         {"empty.yaml": "# seed: 1\n"}),
    Case("train --config k.yaml --config embeded", 2, "'embeded' is neither a preset nor a file",
         "'embedded'", {"k.yaml": "seed: 1\n"}),
    Case("train --config data", 2, "cannot read config data", "YAML", {"data/x": ""}),
    Case("train --set train.steps", 2, "is not key=value", "--set train.steps=50"),
    Case("train --set train.setps=3", 2, "unknown config key", "did you mean 'train.steps'"),
    Case("train --set train.batch_size=4", 2, "unknown config key", "'train.questions_per_step'"),
    Case("train --set train.warmup=5", 2, "unknown config key", "'optimizer.warmup_steps'"),
    Case("train --set lr=1e-5", 2, "unknown config key 'lr'", "'optimizer.learning_rate'"),
    Case("train --set train.steps=0", 2, "train.steps: input should be greater than 0"),
    Case("train --set train.steps=ten", 2, "train.steps: input should be a valid integer"),
    Case("train --set divergence.kind=kl", 2, "divergence.kind", "forward_kl"),
    Case("train --set divergence.beta=2", 2, "divergence.beta", "JSD"),
    Case("train --set divergence.weigh=late --set divergence.weigh_by=2", 2,
         "late takes at most 1", "set divergence.weigh_by=1 or less"),
    Case("train --set optimizer.learning_rate=-1", 2, "greater than 0", "AdamW"),
    Case("train --set lora.dropout=1", 2, "lora.dropout: input should be less than 1"),
    Case("train --set prompts.student.template=hi", 2, "exactly once", "{question}"),
    Case("train --set teacher.weights=old", 2, "teacher.weights", "weights"),
    Case("train --set seed=-1", 2, "seed: input should be greater than or equal to 0"),
    Case("train --seed 9223372036854775808", 2, "seed: input should be less than or equal to"),
    Case("train --set optimizer.betas=[0.9,1.0]", 2, "betas.1: input should be less than 1",
         "AdamW"),
    Case("train --set grading.deadline_seconds=1e10", 2, "less than or equal to 604800", "grade"),
    Case("train --set optimizer.learning_rate=.nan", 2, "should be a finite number", "AdamW"),
    Case("train --set train.steps=1000000000000", 2, "train.steps: input should be less than"),
    Case("train --set sampling.temperature=1e-9", 2, "should be 0, which is greedy", "greedy"),
    Case("train --set 'prompts.student.chat_arguments={1: 2}'", 2, "should be a valid string",
         "chat template"),
    Case("train --set 'prompts.student.chat_arguments={tokenize: true}'", 2, "set by opsd itself",
         "chat template"),
    Case("train --config deep.yaml", 2, "nested more than 32 deep", "",
         {"deep.yaml": "a: " + "[" * 490 + "]" * 490}),
    Case("train --config bomb.yaml", 2, "aliases stand for more than 100,000 values", "write out",
         {"bomb.yaml": "a: &a [1, 1]\n" + "".join(
             f"a{n}: &a{n} [*{before}, *{before}]\n"
             for n, before in enumerate(["a", *(f"a{n}" for n in range(30))]))}),
    Case("train --set rollouts.engine=vlm", 2, "rollouts.engine", "engine"),
    Case("train --set rollouts.engine=vllm", 3, "vLLM is not installed for",
         "rollouts.vllm.python"),
    Case("eval --set rollouts.engine=vllm --set rollouts.vllm.url=http://127.0.0.1:9", 2,
         "no vLLM server answers at http://127.0.0.1:9", "--enable-lora"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.python=nosuch", 2,
         "no interpreter nosuch", "rollouts.vllm.python"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.url=gpu2:8000", 2,
         "which is no server's address", "http://HOST:PORT"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.url=http://me:pass@gpu2:8000", 2,
         "holds a user or password", "VLLM_API_KEY"),
    Case("train --set rollouts.engine=vllm "
         "--set rollouts.vllm.arguments=['--data-parallel-size=2']", 2,
         "reaches only the replica that answers", "--tensor-parallel-size"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.url=http://a:1,http://a:1", 2,
         "names http://a:1 twice", "each server once"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.url=http://a:1 "
         "--set rollouts.vllm.replicas=2", 2, "exclude each other", "leave out"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.replicas=3 "
         "--set rollouts.vllm.devices=4,5,6,7", 2, "3 servers cannot share evenly",
         "a multiple of rollouts.vllm.replicas"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.replicas=4", 2,
         "do not fit on the GPUs", "rollouts.vllm.devices"),
    Case("train --set rollouts.engine=vllm --set rollouts.vllm.arguments=['--api-key=secret']", 2,
         "holds --api-key", "a key of its own"),
    Case("train --set train.questions_per_step=50 --set data.train=good.jsonl", 2,
         "only 32 training problems", "32 or fewer", TINY),
    # backends
    Case("train --backend tpu", 2, "backend", "Where to run"),
    Case(
        "train --backend mlx",
        3,
        "backend 'mlx' needs the package 'mlx_that_is_not_installed', which is not installed",
        "pip install 'mlx",
    ),
    # devices
    Case("train --devices 0", 2, "--devices is '0'", "auto for all"),
    Case("train --devices many", 2, "--devices is 'many'", "auto for all"),
    Case("train --hosts none.json", 2, "there is no host file none.json",
        "mlx.distributed_config writes one"),
    Case("train --hosts torn.json", 2, "torn.json is no host file", "writes one",
        {"torn.json": "[{"}),
    Case("train --hosts words.json", 2, "is no list of hosts, each with its name under 'ssh'",
        "writes one", {"words.json": '["mac1", "mac2"]'}),
    Case("train --hosts empty.json", 2, "empty.json names no host", "writes one",
        {"empty.json": "[]"}),
    Case("train --backend cpu --devices 3 --set train.reduce=exact", 2,
        "8 units, which 3 ranks cannot share", "train.reduce=fast"),
    Case("train --backend cpu --devices 2 --set train.shard=full", 2,
        "samples with the trainer's own weights", "set rollouts.engine=vllm"),
    Case("train --backend cpu --devices 2 --set train.shard=full --set rollouts.engine=vllm "
        "--set teacher.weights=ema --set teacher.reason_first=true", 2,
        "teacher.weights=ema samples its analyses", "set teacher.reason_first=false"),
    # problems
    Case("train --model some/model", 2, "data.train is not set", "--set data.train=problems.jsonl"),
    Case("train --set data.train=nosuch.jsonl", 2, "nosuch.jsonl"),
    Case("train --set data.train=notes.txt", 2, "notes.txt", "", {"notes.txt": "hello"}),
    Case("train --set data.train=empty.jsonl", 2, "empty.jsonl", "", {"empty.jsonl": ""}),
    Case("train --set data.train=torn.jsonl", 2, "line 41", "",
         {"torn.jsonl": GOOD + '{"question'}),
    Case("train --set data.train=deep.jsonl", 2, "deep.jsonl line 1 is nested too deeply", "flat",
         {"deep.jsonl": DEEP}),
    Case("train --set data.train=nul.jsonl", 2, "1 with damaged text (first: row 1 has a NUL)",
         "text", {"nul.jsonl": '{"question": "1\\u0000", "solution": "s", "answer": "1"}\n'}),
    Case("train --set data.train=~nobody-of-that-name/a.jsonl", 2, "a path begins with ~", "write"),
    Case(f"train --set data.train={'a' * 300}.jsonl", 2, "the name is too long", "255 bytes"),
    Case("train --set data.train=good.jsonl/more.jsonl", 2, "no file 'good.jsonl/more.jsonl'", "",
         TINY),
    Case("train --set data.train=few.jsonl", 2, "too few to hold out", "data.validation",
         {"few.jsonl": "".join(GOOD.splitlines(True)[:5])}),
    Case("train --set data.train=good.jsonl --set data.columns.solution=solutoin", 2,
         "solutoin", "did you mean", TINY),
    Case("train --set data.train=bare.jsonl", 2, "solution", "",
         {"bare.jsonl": '{"question": "1+1"}\n'}),
    Case("train --set data.train=good.jsonl --set data.test=good.jsonl", 2, "every problem",
         "measured", TINY),
    Case("eval --benchmark aime99", 2, "no set 'aime99'", "did you mean 'aime2"),
    Case("eval --benchmark riddles", 2, "no set 'riddles'", "opsd data"),
    Case("eval --benchmark hmmt-feb25", 2, "no set 'hmmt-feb25'", "did you mean 'hmmt_feb25'"),
    Case("eval --benchmark aime24,embedded,aime24", 2, "named twice", "once"),
    Case("train --set data.train=aime24", 2, "aime24 is a benchmark", "openthoughts-30k"),
    Case("train --set data.train=dapo-math-17k", 2, "no worked solutions", "--method grpo"),
    Case("train --set data.train=bare.jsonl", 2, "no column for the solution",
         "--set teacher.reference=answer",
         {"bare.jsonl": '{"question": "1+1", "answer": "2"}\n'}),
    Case("train --set teacher.reference=sibling --set rollouts.per_question=1", 2,
         "needs several rollouts of a question", "set rollouts.per_question=8"),
    Case("train --set teacher.contrast=wrong_rollout --set rollouts.per_question=1", 2,
         "teacher.contrast=wrong_rollout needs several rollouts", "rollouts.per_question=8"),
    Case("train --set teacher.contrast=other_problem --set teacher.reason_first=true", 2,
         "there is no analysis of a wrong reference", "leave one of them out"),
    Case("train --set 'teacher.reference=Hint: {hint'", 2,
         "a brace that is no part of a place: 'Hint: {hint'", "write each place as {COLUMN}"),
    Case("train --set 'teacher.reference={answer} {'", 2, "a brace that is no part of a place",
         "a brace itself cannot stand in a template"),
    Case("train --set teacher.reference=answr", 2, "the embedded problems have no column 'answr'",
         "did you mean 'answer'?"),
    Case("train --set teacher.reference=feedbak --set data.train=good.jsonl", 2,
         "good.jsonl has no column 'feedbak'", "did you mean 'feedback'?", TINY),
    Case("train --set teacher.reference=feedback", 2, "math says only whether it is right",
         "grading.grader=code"),
    Case("train --set teacher.reference=none", 2, "teacher.reference=none needs teacher.model",
         "set teacher.model, or another teacher.reference"),
    Case("train --set teacher.model=embedded --set teacher.reference=none", 2,
         "teacher and student are the same, and nothing can be learnt", "name a larger model"),
    Case("train --set teacher.model=embedded --set teacher.weights=ema", 2,
         "teacher.weights=ema is of the student's own weights", "leave one of them out"),
    Case("train --set teacher.quantize=int4", 2, "teacher.quantize=int4 needs teacher.model",
         "set teacher.model"),
    Case("train --config domain-choice", 2, "no file 'domains/choice/train.jsonl'",
         "python -m benchmarks.domains --out domains --only choice --make-only"),
    Case("train --config domain-constraints", 2, "benchmarks/domains/rules.py",
         "the preset domain-constraints needs a clone of the repository"),
    Case("train --set teacher.model=no/such/folder", 2, "no model folder at no/such/folder",
         "ORG/NAME"),
    Case("eval --benchmark mine.yaml", 2, "no file 'mine.yaml'", "path"),
    Case("eval --benchmark mine.yaml", 2, "mine.yaml: a problem set has no key 'colums'",
         "did you mean 'columns'", {"mine.yaml": "data: good.jsonl\ncolums: {}\n"}),
    Case("eval --benchmark mine.yaml", 2, "mine.yaml: data is missing", "hub id",
         {"mine.yaml": "split: test\n"}),
    Case("eval --benchmark mine.yaml", 2, "no column 'level' to select by", "keep",
         {"mine.yaml": "data: good.jsonl\nkeep: {level: hard}\n", **TINY}),
    Case("eval --benchmark nobody/nothing", 2, "nobody/nothing is not in the cache", "file"),
    Case("data show aime42", 2, "no catalogued set 'aime42'", "did you mean 'aime2"),
    Case("eval --benchmark good.jsonl --benchmark good.jsonl", 2, "named twice", "once", TINY),
    Case("eval --model some/model", 2, "--benchmark is missing", "opsd data"),
    Case("train --set data.train=lfs.jsonl", 2, "lfs.jsonl is a Git LFS pointer", "git lfs pull",
         {"lfs.jsonl": POINTER}),
    Case("train --set data.train=chat.jsonl", 2, "40 without an answer",
         "or grade none: --set grading.grader=none", {"chat.jsonl": CHATS}),
    Case("train --set data.train=God.json", 2, "no file 'God.json'", "did you mean 'good.jsonl'?",
         TINY),
    Case("train --set data.train=other.jsonl", 2, "no file 'other.jsonl'",
         "the files of problems there: good.jsonl", TINY),
    Case("train --set data.train=data/good.jsonl", 2, "no file 'data/good.jsonl'",
         "did you mean 'good.jsonl'?", TINY),
    Case("train --set data.train=good", 2, "no set 'good'", "did you mean 'good.jsonl'?", TINY),
    # dry runs
    Case("train --dry-run --set data.train=good.jsonl --model no/such/one", 2,
         "no model folder at no/such/one", "ORG/NAME", TINY),
    Case("train --dry-run --set data.train=good.jsonl --model m", 2,
         "m/model.safetensors cannot be loaded: it is a Git LFS pointer", "git lfs pull",
         {"m/config.json": '{"model_type": "qwen3"}', "m/model.safetensors": POINTER, **TINY}),
    Case("train --dry-run --set data.train=good.jsonl --model m", 2,
         "m has no tokenizer (tokenizer.json is missing)", "from the model's repository",
         {"m/config.json": QWEN, "m/model.safetensors": WEIGHTS, **TINY}),
    Case("train --dry-run --set rollouts.engine=vllm", 3, "vLLM is not installed for",
         "rollouts.vllm.python"),
    Case("eval --dry-run --model no/such/one --benchmark good.jsonl", 2,
         "no model folder at no/such/one", "ORG/NAME", TINY),
    Case("compare --dry-run --set rollouts.engine=vllm", 3, "vLLM is not installed for",
         "rollouts.vllm.python"),
    Case("train --preflight-only --resume --out run", 2,
         "--preflight-only measures before any training, and --resume goes on with a run",
         "leave out --resume, or --preflight-only"),
    Case("train --preflight-only --method grpo", 2, "method grpo has no teacher",
         "leave out --preflight-only"),
    Case("train --preflight-only --sources hint", 2, "the problems have no column 'hint'",
         "possible here: solution, answer, sibling"),
    Case("train --sources answer", 2, "--sources names what the preflight compares",
         "--preflight-only"),
    Case("train --set teacher.contrast=other_problem", 2, "no place for a wrong reference",
         "divergence.vocabulary=sampled"),
    Case("train --method grpo --set train.learn_from=correct", 2, "grpo cannot leave rollouts"),
    Case("train --method grpo --set train.anchor=kl", 2, "grpo has no anchor"),
    Case("train --set divergence.vocabulary=no_teacher --set divergence.weigh=gap", 2,
         "divergence.weigh weighs what a teacher teaches", "leave divergence.weigh out"),
    Case("train --set train.weigh_groups=pass_rate", 2, "needs several rollouts of a question",
         "set rollouts.per_question=8"),
    Case("train --probe", 2, "--probe estimates the time of a plan", "--dry-run"),
    # a first config
    Case("init --data good.jsonl", 2, "--model is missing", "--model MODEL --data good.jsonl",
         TINY),
    Case("init --model some/model", 2, "--data is missing", "opsd data"),
    Case("init --model some/model --data nosuch.jsonl", 2, "no file 'nosuch.jsonl'"),
    Case("init --model nosuch/at/all --data good.jsonl", 2, "no model folder at nosuch/at/all",
         "ORG/NAME", TINY),
    Case("init mine.yaml", 2, "mine.yaml exists already", "another name", {"mine.yaml": "seed: 1"}),
    Case("init embedded", 2, "embedded is no name of a config", ".yaml"),
    Case("init no/such/place.yaml", 2, "cannot write", "another place"),
    Case("init --set train.setps=3", 2, "unknown config key", "did you mean 'train.steps'"),
    Case("init --model embedded --data few.jsonl", 2, "too few to hold out", "data.validation",
         {"few.jsonl": "".join(GOOD.splitlines(True)[:5])}),
    Case("init --model embedded --data odd.jsonl", 2, "no column for the question",
         "--set data.columns.question=COLUMN",
         {"odd.jsonl": GOOD.replace("question", "prompt")}),
    # runs
    Case("train --steps 0", 2, "train.steps: input should be greater than 0"),
    Case("train --resume --out used --steps 3", 2, "used has not finished", "then add steps",
         {"used/config.yaml": RUN}),
    Case("train --resume --out used --lr 1e-3", 2, "flags cannot change", "another --out",
         {"used/config.yaml": RUN}),
    Case("train --out used", 2, "already holds a run", "--resume", {"used/config.yaml": RUN}),
    Case("eval --out made", 2, "already holds an evaluation", "opsd eval --resume --out made",
         {"made/evaluation.json": "{}", "made/config.yaml": RUN}),
    Case("train --resume-from 3", 2, "--resume-from needs the run's directory", "--out DIR"),
    Case("train --resume-from 3 --out used", 2, "no checkpoint of step 3", "leave out",
         {"used/config.yaml": RUN}),
    Case("train --out full", 2, "full is not empty", "empty directory", {"full/thesis.tex": "x"}),
    Case("train --out file", 2, "file is a file", "directory", {"file": "x"}),
    Case("train --resume", 2, "--resume needs the run's directory", "--out DIR"),
    Case("train --resume --out nosuch", 2, "nosuch is not a run", "directory of the run"),
    Case("train --resume --out used --seed 3", 2, "flags cannot change", "another --out",
         {"used/config.yaml": RUN}),
    Case("eval --out full", 2, "full is not empty", "empty directory", {"full/thesis.tex": "x"}),
    Case("eval --resume", 2, "--resume needs the evaluation's directory", "--out DIR"),
    Case("eval --regrade", 2, "--regrade needs the evaluation's directory", "--out DIR"),
    # graders
    Case("eval --set grading.grader=maths", 2, "'json', 'code'", "docs/graders.md"),
    Case("eval --set grading.grader=nosuch.py:score", 2, "there is no file", "working directory"),
    Case("eval --set grading.grader=rules.py:scor", 2, "rules.py has no function 'scor'",
         "its functions are score", {"rules.py": "def score(problem, completion): return 1\n"}),
    Case("eval --set grading.grader=command", 2, "command needs grading.command", "docs/graders"),
    Case("eval --set grading.weights.maths=1", 2, "unknown grader 'maths'", "choose from math"),
    Case("eval --regrade --out full", 2, "full is not an evaluation", "", {"full/x": "x"}),
    # nothing is graded
    Case("train --method grpo --set grading.grader=none", 2, "grpo learns from rewards",
         "--method opsd"),
    Case("train --method hybrid --set grading.grader=none", 2, "hybrid learns from rewards",
         "a grading.grader that grades"),
    Case("train --set grading.grader=none --set train.learn_from=correct", 2,
         "train.learn_from chooses rollouts by their grade", "leave train.learn_from out"),
    Case("train --set grading.grader=none --set train.weigh_groups=pass_rate", 2,
         "train.weigh_groups weighs questions by their grades", "leave train.weigh_groups out"),
    Case("train --set grading.grader=none --set teacher.reference=sibling", 2,
         "teacher.reference is sibling", "leave teacher.reference out"),
    Case("train --set grading.grader=none --set teacher.reference=feedback", 2,
         "the grader none grades nothing", "leave teacher.reference out"),
    Case("train --set grading.grader=none --set grading.weights.math=1", 2,
         "grading.weights weighs the scores of graders", "leave grading.weights out"),
    Case("eval --set grading.grader=none --set grading.pass_at=0.5", 2,
         "grading.pass_at is the least score", "leave grading.pass_at out"),
    Case("compare --methods opsd,sft --set grading.grader=none", 2,
         "a comparison is of accuracies, and opsd has none", "compare the divergence"),
    # adapters
    Case("eval --limit 2 --against nosuch", 2, "nosuch is not an evaluation", "directory"),
    Case("eval --adapter nosuch", 2, "no adapter at nosuch", "folder"),
    Case("eval --adapter full", 2, "full holds no adapter", "adapter_config.json", {"full/x": ""}),
    Case("eval --checkpoint last", 2, "no run is given", "--adapter RUN"),
    Case("eval --adapter made --checkpoint newest", 2, "best, last or a step, not 'newest'",
         "--checkpoint 25", STEPS),
    Case("eval --adapter made --checkpoint 7", 2,
         "made has no checkpoint of step 7; it has 0, 25, 50", "last", STEPS),
    Case("eval --adapter used --checkpoint last", 2, "the run in used holds no checkpoint",
         "opsd train --resume --out used", {"used/config.yaml": RUN}),
    Case("eval --adapter a --checkpoint last", 2, "a is one adapter, and not a run", "leave out",
         ADAPTER),
    Case("sample hello --adapter a --model m", 2,
         "made for the model embedded, and this is m: its hidden_size is", "--model embedded",
         {"a/adapter_config.json": '{"base_model_name_or_path": "embedded"}',
          "m/config.json": '{"model_type": "qwen3", "hidden_size": 7}'}),
    # sample
    Case("sample hello --divergence", 2, "--divergence needs a reference", "--solution"),
    Case("sample hello --privileged", 2, "--privileged needs a reference", "--solution"),
    Case("sample --privileged --set teacher.reference=sibling", 2, "teacher.reference is sibling",
         "rollouts.jsonl has the prompts"),
    Case("sample hello --file good.jsonl", 2, "both given", "one of them", TINY),
    Case("sample --solution 4", 2, "belongs to a typed question", "type the question"),
    Case("sample --from tset", 2, "no split 'tset'", "train, validation, test"),
    Case("sample ''", 2, "the question is empty", "type a question"),
    # compare
    Case("compare --steps 5", 2, "no such option: --steps",
         "--set train.steps=5 gives all of them this one, --set methods.grpo.train.steps=5"),
    Case("compare --seeds 2 --lr=1e-4", 2, "no such option: --lr",
         "--set optimizer.learning_rate=1e-4 gives all"),
    Case("compare --batch", 2, "no such option: --batch", "--set train.questions_per_step=VALUE"),
    Case("compare --methods opsd", 2, "does not name two different methods", "opsd, grpo, sft"),
    Case("compare --methods opsd,gpro", 2, "no method 'gpro'", "did you mean 'grpo'"),
    Case("compare --vary train.passes", 2, "is not KEY=A,B", "divergence.kind=forward_kl,jsd"),
    Case("compare --vary train.pases=1,2", 2, "unknown config key", "did you mean 'train.passes'"),
    Case("compare --vary seed=1,2", 2, "--vary cannot vary seed", "--seeds"),
    Case("compare --vary evaluation.samples=1,4", 2, "another evaluation sampling",
         "the training alone"),
    Case("compare --grid", 2, "--grid combines the values of --vary", "--vary KEY=A,B"),
    Case("compare --halving", 2, "there are 2", "three arms or more"),
    Case("compare --halving-rounds 2", 2, "of the rounds of --halving", "give --halving too"),
    Case("compare --methods opsd,grpo,sft --halving --tune", 2, "ends the worse ones early",
         "optimizer.learning_rate=A,B,C"),
    Case("compare --vary train.passes=2,3 --halving --set train.evaluate_every=8", 2,
         "0 validations before its last step", "lower train.evaluate_every"),
    Case("compare --seeds 0", 2, "greater than or equal to 1"),
    Case("compare --seed 9223372036854775807", 2, "leaves no room for --seeds", "or less"),
    Case("compare --target 1.5", 2, "target"),
    Case("compare --resume", 2, "--resume needs the comparison's directory", "--out DIR"),
    Case("compare --resume --out nosuch", 2, "nosuch is not a comparison", "directory of the"),
    Case("compare --resume --out c --seed 3", 2, "flags cannot change", "another --out",
         {"c/plan.json": "{}"}),
    Case("compare --out c", 2, "c already holds a comparison", "--resume --out c",
         {"c/plan.json": "{}"}),
    Case("compare --out full", 2, "full is not empty", "empty directory", {"full/x": "x"}),
    Case("compare --devices 2", 2, "no such option: --devices", "--jobs N deals N runs"),
    Case("compare one", 2, "one run cannot be compared with itself", "two runs"),
    Case("compare one two", 2, "one is not a run", "run directories"),
    Case("compare a b", 2, "the run in a has not finished", "--resume --out a",
         {"a/config.yaml": RUN, "b/config.yaml": RUN}),
    Case("compare a b --seed 3", 2, "compared as they are", "leave them out"),
    Case("train --set rollouts.overlap=true", 2, "needs vLLM", "rollouts.engine=vllm"),
    Case("train --set rollouts.importance_cap=2", 2, "needs vLLM", "rollouts.engine=vllm"),
    Case("train --set rollouts.engine=vllm --set rollouts.overlap=true "
         "--set rollouts.vllm.sleep=true", 2, "exclude each other", "leave one out"),
    Case("train --method opds", 2, "method: input should be", "self-distillation"),
    Case("train --config m.yaml", 2, "`methods` names 'gpro'", "did you mean 'grpo'",
         {"m.yaml": "methods: {gpro: {seed: 1}}\n"}),
    # presets
    # exports
    Case("export", 2, "missing argument"),
    Case("export nosuch", 2, "no adapter at nosuch", "run's or an adapter's folder"),
    Case("export a --format gguf", 2, "unknown format 'gguf'", "peft, mlx, merged", ADAPTER),
    Case("export a --format mlx", 2, "adapter_model.safetensors is missing", "", ADAPTER),
    Case("export made --checkpoint 7", 2, "no checkpoint of step 7", "last", STEPS),
    Case("export a --out full", 2, "full is not empty", "empty directory", ADAPTER),
    Case("presets show embeded", 2, "no preset 'embeded'", "did you mean 'embedded'"),
    Case("presets copy embedded mine.yaml", 2, "mine.yaml exists", "another name",
         {"mine.yaml": "seed: 1\n"}),
    Case("presets copy", 2, "missing argument 'name'", "opsd presets copy --help"),
    Case("presets copy embedded", 2, "embedded.yaml exists", "another name",
         {"embedded.yaml": "seed: 1\n"}),
    Case("presets keys train.stpes", 2, "no config key has 'train.stpes'",
         "did you mean 'train.steps'"),
    Case("presets copy embedded no/such/place.yaml", 2, "cannot write", "another place"),
]  # fmt: skip


def main() -> None:
    print("# What goes wrong, and what is said\n")
    print("Each was typed; the first line names what is wrong, the second what to do. Nothing is")
    print("written or lost. `tests/unit/cli/test_bad_input.py` checks every row.\n")
    print("| typed | exit code | says | hints |\n|---|---|---|---|")
    for case in CASES:
        shown = case.command.replace("a" * 300, "a…(300 times)")
        cells = (f"`opsd {shown}`", str(case.code), case.says, case.hints)
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


if __name__ == "__main__":
    main()
