"""Tasks of lm-evaluation-harness and lighteval for `evaluation_speed.py`.

Both read a JSONL file with a prompt, which is used as it is, and an answer, and compare the answer
with the last box of one greedy completion.
"""

from __future__ import annotations

import json
from pathlib import Path

#: What both tasks are called.
NAME = "family"
#: The last box of a completion, as a regular expression.
BOX = r"\\boxed\{([^{}]*)\}"


def write_lm_eval_task(path: Path, problems: Path, longest: int) -> None:
    """The task of lm-evaluation-harness; JSON is YAML too."""
    task = {
        "task": NAME, "dataset_path": "json", "output_type": "generate_until",
        "dataset_kwargs": {"data_files": {"test": str(problems)}}, "test_split": "test",
        "doc_to_text": "{{prompt}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {
            "until": [], "max_gen_toks": longest, "do_sample": False, "temperature": 0.0
        },
        "filter_list": [{"name": "box", "filter": [
            {"function": "regex", "regex_pattern": BOX, "group_select": -1},
            {"function": "take_first"},
        ]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                         "ignore_case": True}],
    }  # fmt: skip
    path.write_text(json.dumps(task, indent=1))


def write_lighteval_task(path: Path, problems: Path, longest: int) -> None:
    """The task of lighteval: a module."""
    path.write_text(f"""import re
import numpy as np
from lighteval.metrics.metrics_sample import ExactMatches
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

def last_box(text):
    return (re.findall({BOX!r}, text) or [""])[-1].lower()

def prompt(line, task_name=None):
    return Doc(task_name=task_name, query=line["prompt"], choices=[line["answer"]], gold_index=0)

exact = SampleLevelMetric(
    metric_name="box", sample_level_fn=ExactMatches(strip_strings=True, normalize_pred=last_box),
    category=SamplingMethod.GENERATIVE, corpus_level_fn=np.mean, higher_is_better=True,
)
TASKS_TABLE = [LightevalTaskConfig(
    name={NAME!r}, prompt_function=prompt, hf_repo={str(problems.parent)!r}, hf_subset="default",
    hf_avail_splits=["test"], evaluation_splits=["test"], metrics=[exact],
    generation_size={longest}, stop_sequence=[],
)]
""")
