"""Entries that memory has no room for: found again on disk, forgotten with the rest, never a stranger's."""

from dataclasses import asdict

import numpy as np
import pytest

from cluster.policy.semantic_cache.identity import Partition
from cluster.policy.semantic_cache.store import PurgeScope, StoredAnswer
from deployments.semantic_cache import resting, sqlite_documents
from deployments.semantic_cache.cells import trained
from deployments.semantic_cache.documents import Document
from deployments.semantic_cache.sqlite_documents import SqliteDocuments

DIMENSIONS = 32
MINE, OTHER = Partition("mill", "m", "scope"), Partition("weir", "m", "scope")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def entry(name, partition=MINE, *, document="", stored_at_s=0.0):
    return StoredAnswer(
        entry_id=name,
        partition=partition,
        category="chat",
        language="en",
        text=f"question {name}",
        document_id=document or name,
        document_bytes=6,
        saved_s=1.0,
        saved_tokens=10,
        stored_at_s=stored_at_s,
    )


class Disk:
    """Documents with entries in them."""

    def __init__(self, file, resting_max=10_000):
        self.documents = SqliteDocuments(file, resting_max=resting_max)
        self.documents.open()
        self.vectors = unit(np.random.default_rng(7).normal(size=(4000, DIMENSIONS)))

    def keep(self, number, partition=MINE, **how):
        kept = entry(f"{partition.tenant}-{number:04}", partition, **how)
        document = Document(body=b"answer", content_type="application/json")
        self.documents.write(kept, self.vectors[number], document, expires_at_s=1000.0 + number)
        return kept

    def nearest(self, number, partition=MINE, count=3):
        return [
            found.entry_id
            for found, _ in self.documents.resting.nearest(partition, self.vectors[number], count)
        ]


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "near.sqlite")
    yield disk
    disk.documents.close()


def test_what_rests_is_found_by_its_vector_and_not_loaded(disk):
    kept = [disk.keep(number) for number in range(20)]
    disk.documents.resting.rest(kept[:10])
    assert len(disk.documents.resting) == 10
    assert {found.entry_id for found, _ in disk.documents.entries(MINE)} == {e.entry_id for e in kept[10:]}
    assert disk.nearest(4)[0] == "mill-0004"
    assert "mill-0014" not in disk.nearest(14, count=20)
    (found, vector), *_ = disk.documents.resting.nearest(MINE, disk.vectors[4], 1)
    assert asdict(found) == asdict(kept[4])
    np.testing.assert_array_equal(vector, disk.vectors[4])


def test_what_wakes_rests_no_more_and_is_loaded_again(disk):
    kept = [disk.keep(number) for number in range(5)]
    disk.documents.resting.rest(kept)
    disk.documents.resting.rest(kept[:2])
    assert len(disk.documents.resting) == 5
    disk.documents.resting.wake([kept[3], entry("unknown")])
    assert len(disk.documents.resting) == 4
    assert "mill-0003" not in disk.nearest(3, count=9)
    assert [found.entry_id for found, _ in disk.documents.entries(MINE)] == ["mill-0003"]


def test_nothing_crosses_a_partition_even_where_their_numbers_are_equal(disk, monkeypatch):
    monkeypatch.setattr(resting, "_number", lambda _: 1)
    disk.documents.resting.rest([disk.keep(1, MINE), disk.keep(2, OTHER)])
    assert disk.nearest(2, MINE, count=9) == ["mill-0001"]
    assert disk.nearest(2, OTHER, count=9) == ["weir-0002"]


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        (PurgeScope(tenant="mill"), ["weir-0002"]),
        (PurgeScope(entry_id="mill-0001"), ["mill-0000", "weir-0002"]),
        (PurgeScope(category="chat"), []),
        (PurgeScope(model="n"), ["mill-0000", "mill-0001", "weir-0002"]),
    ],
)
def test_a_purge_reaches_what_rests(disk, scope, left):
    disk.documents.resting.rest([disk.keep(0), disk.keep(1), disk.keep(2, OTHER)])
    disk.documents.forget_scope(scope)
    found = {*disk.nearest(0, MINE, count=9), *disk.nearest(2, OTHER, count=9)}
    assert sorted(found) == left
    rows = disk.documents._database.execute("SELECT count(*) FROM resting").fetchone()
    assert rows == (len(left),)


def test_what_is_near_a_text_is_found_for_operators_in_every_cell(disk, monkeypatch):
    monkeypatch.setattr(sqlite_documents, "_READ_AT_A_TIME", 7)
    disk.documents.resting.rest([disk.keep(number) for number in range(30)])
    near = disk.documents.near(PurgeScope(), disk.vectors[21], similarity_min=0.99, answers=set())
    assert [found.entry_id for found in near] == ["mill-0021"]
    weir = PurgeScope(tenant="weir")
    assert disk.documents.near(weir, disk.vectors[21], similarity_min=0.0, answers=set()) == []


def test_what_expires_goes_and_a_shared_answer_stays_while_anyone_needs_it(disk):
    first, second = disk.keep(0), disk.keep(1, document="mill-0000")
    disk.documents.resting.rest([second])
    disk.documents.forget([first], ["mill-0000"])
    assert disk.nearest(1) == ["mill-0001"]
    assert disk.documents.read("mill-0000") is not None
    disk.documents.forget_expired(now_s=2000.0)
    assert disk.nearest(1) == []
    assert disk.documents.read("mill-0000") is None


def test_the_disk_is_bounded_and_what_expires_first_goes(tmp_path):
    disk = Disk(tmp_path / "near.sqlite", resting_max=100)
    disk.documents.resting.rest([disk.keep(number) for number in range(150)])
    assert len(disk.documents.resting) <= 100
    assert disk.nearest(0)[0] != "mill-0000"
    assert disk.nearest(149)[0] == "mill-0149"
    count = disk.documents._database.execute("SELECT count(*) FROM documents").fetchone()
    assert count == (len(disk.documents.resting),)
    disk.documents.close()


def test_with_cells_nearly_everything_is_found_and_a_restart_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(resting, "STAGES", ((500, 16), (2000, 64)))
    disk = Disk(tmp_path / "near.sqlite")
    kept = [disk.keep(number) for number in range(3000)]
    disk.documents.resting.rest(kept[:2500])
    disk.documents.resting.rest(kept[2500:])
    cells = disk.documents._database.execute("SELECT count(DISTINCT cell) FROM resting").fetchone()[0]
    assert cells > 50
    generator = np.random.default_rng(1)
    asked = unit(disk.vectors[:3000:10] + 0.3 * unit(generator.normal(size=(300, DIMENSIONS))))

    def recall():
        found = [disk.documents.resting.nearest(MINE, vector, 1) for vector in asked]
        return np.mean(
            [
                bool(each) and each[0][0].entry_id == f"mill-{10 * place:04}"
                for place, each in enumerate(found)
            ]
        )

    before = recall()
    assert before > 0.9
    disk.documents.close()
    disk.documents.open()
    assert recall() == before
    assert len(disk.documents.resting) == 3000
    disk.documents.resting.wake(kept[:5])
    assert disk.nearest(3)[0] != "mill-0003"
    disk.documents.close()


def test_replicas_on_one_file_find_theirs_whoever_made_the_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(resting, "STAGES", ((500, 16), (1000, 64)))
    one, other = Disk(tmp_path / "near.sqlite"), Disk(tmp_path / "near.sqlite")
    one.documents.resting.rest([one.keep(number, MINE) for number in range(600)])
    other.documents.resting.rest([other.keep(number, OTHER) for number in range(600)])
    assert one.documents._database.execute("SELECT count FROM cells").fetchone() == (64,)
    asked = range(0, 600, 7)
    assert all(one.nearest(number, MINE)[0] == f"mill-{number:04}" for number in asked)
    assert all(other.nearest(number, OTHER)[0] == f"weir-{number:04}" for number in asked)
    for each in (one, other):
        each.documents.close()


def test_what_another_replica_does_while_cells_are_made_is_not_undone(tmp_path, monkeypatch):
    monkeypatch.setattr(resting, "STAGES", ((500, 16),))
    one, other = Disk(tmp_path / "near.sqlite"), Disk(tmp_path / "near.sqlite")

    def meanwhile(sample, cells):
        other.documents.resting.rest([other.keep(700, OTHER)])
        other.documents.forget_scope(PurgeScope(entry_id="mill-0003"))
        return trained(sample, cells)

    monkeypatch.setattr(resting, "trained", meanwhile)
    one.documents.resting.rest([one.keep(number, MINE) for number in range(600)])
    for each in (one, other):
        assert each.nearest(700, OTHER) == ["weir-0700"]
        assert each.nearest(3, MINE)[0] != "mill-0003"
    counted = "SELECT (SELECT count(*) FROM resting), (SELECT count(*) FROM places)"
    assert one.documents._database.execute(counted).fetchone() == (600, 600)
    for each in (one, other):
        each.documents.close()


def test_a_purge_that_left_too_few_for_cells_stops_nothing(disk, monkeypatch):
    monkeypatch.setattr(resting, "STAGES", ((500, 16),))
    disk.documents.resting.rest([disk.keep(number, MINE) for number in range(499)])
    disk.documents.forget_scope(PurgeScope())
    disk.documents.resting.rest([disk.keep(1, MINE)])
    disk.documents.resting.rest([disk.keep(2, MINE)])
    assert disk.nearest(2)[0] == "mill-0002"


def test_cells_are_where_the_vectors_are():
    generator = np.random.default_rng(3)
    centres = unit(generator.normal(size=(8, DIMENSIONS)))
    vectors = unit(np.repeat(centres, 50, axis=0) + 0.1 * unit(generator.normal(size=(400, DIMENSIONS))))
    cells = trained(vectors, 32)
    assert (np.einsum("nd,nd->n", vectors, cells.centres[cells.of(vectors)]) > 0.97).all()
    assert all(cells.of(vector[None])[0] == cells.nearest(vector, 3)[0] for vector in vectors)
    assert len(cells.nearest(vectors[0], 99)) == 32
