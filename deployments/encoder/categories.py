"""The shipped weights of the category classifier, fitted by `load_tests/category_classifier.py`.

On the questions of MMLU-Pro (TIGER-AI-Lab, Apache-2.0), and on prompts of HumanEval (OpenAI, MIT), MBPP
(Google Research, CC-BY-4.0), IFEval (Google Research, Apache-2.0), MT-Bench (lm-sys, Apache-2.0), CLINC150
(clinc, CC-BY-3.0) and `load_tests/signals/code_prompts.py`. None of their texts is in the file.
"""

from pathlib import Path

import numpy as np

from cluster.policy.routing.models.categories import CATEGORIES, CategoryModel

WEIGHTS_FILE = Path(__file__).with_name("category_weights.npz")


def load_category_model(path: Path = WEIGHTS_FILE) -> CategoryModel:
    """The weights of a file; 13 kB, a few milliseconds.

    Raises:
        ValueError: the file was made for other categories.
    """
    with np.load(path, allow_pickle=False) as arrays:
        found = tuple(str(name) for name in arrays["categories"])
        if found != CATEGORIES:
            raise ValueError(f"{path} tells {', '.join(found)} apart, not {', '.join(CATEGORIES)}")
        return CategoryModel(weights=arrays["weights"].astype(np.float32), biases=arrays["biases"])
