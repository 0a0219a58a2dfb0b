"""Invariants of the decision log's JSON form.

1. Lossless: any record comes back equal through text.
2. Stable: writing what was read gives the same text.
3. Strict: a record with a field too many or too few is refused, with the field's path.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.entities.decision import DecisionRecord
from cluster.entities.pool import ReplicaId
from cluster.replay import DecisionLogError, from_json, to_json
from tests.examples import examples

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(ReplicaId, st.text(max_size=8))
RECORDS = st.from_type(DecisionRecord)
BY_NAME = (".scores", ".energies_j", ".remembered", ".propensities", ".states")
"""Tables by replica or model: any key is a field of theirs."""


@settings(max_examples=examples(50))
@given(RECORDS)
def test_a_record_survives_json_text(record):
    text = json.dumps(to_json(record))
    again = from_json(json.loads(text))
    assert again == record
    assert json.dumps(to_json(again)) == text


def objects(data, path="record"):
    """Every object with a fixed set of fields in a record's JSON, with its path."""
    if isinstance(data, dict):
        if not path.endswith(BY_NAME):
            yield path, data
        for key, value in data.items():
            yield from objects(value, f"{path}.{key}")
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from objects(value, f"{path}[{index}]")


@settings(max_examples=examples(30))
@given(RECORDS, st.data())
def test_a_field_too_many_or_too_few_is_refused_where_it_is(record, data):
    plain = to_json(record)
    path, section = data.draw(st.sampled_from(list(objects(plain))))
    section["from_the_future"] = 1
    with pytest.raises(DecisionLogError) as caught:
        from_json(plain)
    assert str(caught.value).startswith(f"{path}: unknown field from_the_future")
    del section["from_the_future"]
    gone = data.draw(st.sampled_from(sorted(section)))
    del section[gone]
    with pytest.raises(DecisionLogError) as caught:
        from_json(plain)
    assert str(caught.value).startswith(f"{path}: missing field {gone}")
