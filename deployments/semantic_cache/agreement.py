"""Whether two answers say the same, as far as that can be told without asking anybody."""

import numpy as np

from deployments.encoder.encoder import Encoder, EncoderBusyError
from deployments.semantic_cache.answers import normalised, read_answer
from deployments.semantic_cache.documents import Document


async def agree(one: Document, other: Document, encoder: Encoder, *, agreement_min: float) -> bool | None:
    """Whether two answers say the same: in the same words, or with nearly the same meaning.

    Args:
        one: An answer.
        other: Another one.
        encoder: Compares their meaning where the words differ.
        agreement_min: Cosine similarity from which the meaning is the same.

    Returns:
        None if that cannot be told, or nobody has the time to find out.
    """
    first = read_answer(one.body, one.content_type)
    second = read_answer(other.body, other.content_type)
    if first is None or second is None:
        return None
    if normalised(first.text) == normalised(second.text):
        return True
    try:
        vectors = (await encoder.encode([first.text, second.text])).vectors
    except EncoderBusyError:
        return None
    return float(np.dot(vectors[0], vectors[1])) >= agreement_min
