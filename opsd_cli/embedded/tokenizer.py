"""The embedded model's tokenizer: byte-level BPE with digits split, and a Qwen-style chat template.

Byte-level, so that any text can be encoded. Every digit is one token, as in Qwen, so that the model
sees numbers as sequences of digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from opsd_cli.embedded.corpus import END_OF_TURN, completion_text
from opsd_cli.embedded.prompt_templates import STUDENT_TEMPLATE, TEACHER_TEMPLATE
from opsd_cli.problems.arithmetic import chains

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
SPECIAL = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
THINK = ("<think>", "</think>")
#: Vocabulary size in tokens, special tokens included.
VOCABULARY = 512

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif -%}"
    "{%- endif -%}"
)
#: Splits text into words, single digits, punctuation and white space.
SPLIT_PATTERN = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"


def training_texts(count: int, seed: int) -> Iterator[str]:
    """Prompts and completions of `count` pretraining problems, to train the tokenizer on."""
    for chain in islice(chains("pretrain", seed), count):
        problem = chain.problem()
        for template in (STUDENT_TEMPLATE, TEACHER_TEMPLATE):
            yield template.replace("{question}", problem.question).replace(
                "{solution}", problem.solution or ""
            )
        yield completion_text(chain, thinking=False)
        yield "user\nassistant\nsystem\nYou are a helpful assistant.\n\n"


def build_tokenizer(folder: Path, texts: Iterable[str]) -> None:
    """Train the tokenizer on prompts and completions, and write its files into `folder`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(THINK),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in THINK])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [START_OF_TURN],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
