"""SGLang's recorder: stat dumps and their ring, passes by rank and slot, against slow twins that follow the engine's code."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import LoadTrace
from equipoise.errors import EquipoiseError, FileError
from equipoise.files.loads.ring import time_order

torch = pytest.importorskip("torch")

EXPERTS = 6
SLOTS = 8
SLOT_MAP = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1], [5, 4, 3, 2, 1, 0, 5, 5], [0, 1, 2, 3, 4, 5, 2, 3]])


def _saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def _stat(counts, **others):
    return _saved({"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None, **others})


class Ring:
    """The engine's circular buffer, step by step: it is emptied, but goes on where it was."""

    def __init__(self, size, layers=3, experts=EXPERTS):
        self.rows = torch.zeros((size, layers, experts), dtype=torch.int32)
        self.index = 0

    def append(self, counts):
        self.rows[self.index] = counts
        self.index = (self.index + 1) % len(self.rows)

    def empty(self):
        self.rows[...] = 0


def _passes(count, seed=0, dense=(0,)):
    """Counts [passes, layers, experts] of real passes; each pass has load, dense layers none."""
    counts = torch.from_numpy(np.random.default_rng(seed).integers(1, 50, (count, 3, EXPERTS)).astype(np.int32))
    counts[:, list(dense)] = 0
    return counts


class TestStat:
    """Counts by expert, added up over ranks."""

    @given(st.integers(2, 9), st.integers(0, 30), st.data())
    @settings(max_examples=60)
    def test_a_ring_that_did_not_wrap_comes_in_order_of_time(self, size, before, data):
        """Wherever an earlier recording left the ring, rows never written are dropped and the others turned into order."""
        recorded = data.draw(st.integers(1, size - 1))
        ring = Ring(size)
        for counts in _passes(before, 1):
            ring.append(counts)
        ring.empty()
        expected = _passes(recorded)
        for counts in expected:
            ring.append(counts)
        trace = LoadTrace.read(_stat(ring.rows))
        assert trace.is_in_order
        assert trace.load.tolist() == expected[:, 1:].tolist()
        assert trace.layer_ids == (1, 2)
        assert trace.origin.format == "sglang-stat"
        assert any("rows without load" in remark for remark in trace.origin.remarks)
        assert any("layer 0" in remark for remark in trace.origin.remarks)

    def test_a_full_ring_is_of_unknown_order(self):
        """Nothing tells a ring that wrapped from a recording without bound; the caller may know."""
        counts = _passes(5)
        trace = LoadTrace.read(_stat(counts))
        assert not trace.is_in_order
        assert trace.load.tolist() == counts[:, 1:].tolist()
        assert "look alike" in " ".join(trace.origin.remarks)
        assert LoadTrace.read(_stat(counts), is_in_order=True).is_in_order

    def test_idle_passes_in_between(self):
        """Zero rows in several places: dropped, the order unknown, unless the caller knows."""
        counts = _passes(6)
        counts[[1, 4]] = 0
        trace = LoadTrace.read(_stat(counts))
        assert not trace.is_in_order
        assert trace.load.tolist() == counts[[0, 2, 3, 5], 1:].tolist()
        known = LoadTrace.read(_stat(counts), is_in_order=True)
        assert known.is_in_order
        assert known.load.tolist() == trace.load.tolist()

    def test_the_caller_may_say_that_rows_stand_in_order(self):
        """Then nothing is turned."""
        counts = _passes(5)
        counts[1:3] = 0
        assert LoadTrace.read(_stat(counts)).load.tolist() == counts[[3, 4, 0], 1:].tolist()
        assert LoadTrace.read(_stat(counts), is_in_order=True).load.tolist() == counts[[0, 3, 4], 1:].tolist()

    def test_layers_that_are_named_are_taken(self):
        """Exactly these rows, with load or without, in the order given."""
        counts = _passes(4)
        trace = LoadTrace.read(_stat(counts), layer_ids=[0, 2])
        assert trace.layer_ids == (0, 2)
        assert trace.load.tolist() == counts[:, [0, 2]].tolist()

    def test_integers_stay_as_they_are_and_the_file_may_go(self, tmp_path):
        """Nothing hangs on the file once it is read."""
        path = tmp_path / "x.bin"
        path.write_bytes(_stat(_passes(4)).read())
        trace = LoadTrace.read(path)
        path.write_bytes(b"")
        assert trace.load.dtype == np.int32
        assert trace.load.tolist() == _passes(4)[:, 1:].tolist()

    @pytest.mark.parametrize(
        ("content", "how", "found"),
        [
            ({"logical_count": torch.zeros((3, 2, 4), dtype=torch.int32)}, {}, "has no load at all"),
            ({"logical_count": torch.ones((2, 3, 4, 5), dtype=torch.int32)}, {}, "logical_count of shape [2, 3, 4, 5]"),
            ({"logical_count": [[1]]}, {}, "has no tensor logical_count"),
            ({"logical_count": torch.ones((2, 3, 4))}, {"layer_ids": [3]}, "has 3 hidden layers: it must have layer 3"),
            ({"logical_count": -torch.ones((2, 3, 4))}, {}, "load is -1.0 at step 0, layer 0, expert 0"),
            ({"logical_count": torch.ones(1).expand(10**5, 10**4, 10**3)}, {}, "claims more than memory holds"),
        ],
    )
    def test_bad_dumps(self, content, how, found):
        """Each is named."""
        with pytest.raises(FileError) as error:
            LoadTrace.read(_saved({"rank": 0, **content}), **how)
        assert found in str(error.value)


class TestRing:
    """Order of rows, against trying every start."""

    @given(st.lists(st.booleans(), min_size=1, max_size=12).filter(any))
    def test_against_trying_every_start(self, written):
        """Some start puts all rows with load first, and is the only one: then it is taken; else the order is unknown."""
        order = time_order(np.array(written))
        count = sum(written)
        starts = [s for s in range(len(written)) if all((written * 2)[s : s + count])]
        assert order.is_known == (count < len(written) and len(starts) == 1)
        rows = [(starts[0] + i) % len(written) for i in range(count)] if order.is_known else np.flatnonzero(written).tolist()
        assert order.rows.tolist() == rows
        assert order.remarks or rows == list(range(len(written)))

    def test_one_short_run_may_be_idle_passes(self):
        """Below a hundredth of the ring the order is unknown; above it is taken, on an assumption that is told."""
        written = np.ones(1000, bool)
        written[400:409] = False
        short = time_order(written)
        assert not short.is_known
        assert "too few to be rows never written" in short.remarks[1]
        assert short.rows.tolist() == np.flatnonzero(written).tolist()
        assert time_order(written, True).is_known
        written[409] = False
        order = time_order(written)
        assert order.is_known
        assert order.rows[0] == 410
        assert "rests on their being rows never written, not idle passes" in order.remarks[1]


def _record(number, rank, seed, mode=None, slots=SLOTS):
    counts = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (3, slots)).astype(np.int32))
    counts[0] = 0
    record = {"forward_pass_id": number, "rank": rank, "gatherer_key": "primary", "global_physical_count": counts}
    return record if mode is None else {**record, "forward_mode": mode, "input_ids": [1], "misc_objects": []}


def _write(folder, records_of_rank, slot_map=SLOT_MAP):
    folder.mkdir(exist_ok=True)
    for rank, records in records_of_rank.items():
        dump = {"records": records, "last_physical_to_logical_map": slot_map}
        torch.save(dump, folder / f"expert_distribution_recorder_17{rank}.5_{rank}.pt")
    return folder


def _by_hand(records, slot_map):
    """What the engine's own conversion gives for one pass, slot by slot."""
    load = np.zeros((len(slot_map), EXPERTS), int)
    for record in records:
        for layer, row in enumerate(slot_map.tolist()):
            for slot, expert in enumerate(row):
                load[layer, expert] += int(record["global_physical_count"][layer, slot])
    return load


class TestPasses:
    """Counts by slot, a file for each rank."""

    @given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_slots_are_folded_and_ranks_added_up(self, tmp_path_factory, ranks, passes, seed):
        """Against a loop over slots; the order of passes is that of their numbers, whatever that of records."""
        numbers = np.random.default_rng(seed).permutation(passes) * 3 + 5
        records = {rank: [_record(int(n), rank, seed + 97 * int(n) + rank) for n in numbers] for rank in range(ranks)}
        folder = _write(tmp_path_factory.mktemp("dumps"), records)
        trace = LoadTrace.read(folder)
        expected = [
            _by_hand([one for by_rank in records.values() for one in by_rank if one["forward_pass_id"] == number], SLOT_MAP)[1:]
            for number in sorted(int(n) for n in numbers)
        ]
        assert trace.load.tolist() == np.array(expected).tolist()
        assert (trace.layer_ids, trace.origin.format, trace.is_in_order) == ((1, 2), "sglang-per-pass", True)
        if ranks > 1:
            assert trace.source_load.shape == (passes, ranks, 2, EXPERTS)
            first = next(one for one in records[1] if one["forward_pass_id"] == min(numbers))
            assert trace.source_load[0, 1].tolist() == _by_hand([first], SLOT_MAP)[1:].tolist()

    def test_one_file_is_one_rank(self, tmp_path):
        """Read, and said."""
        folder = _write(tmp_path, {0: [_record(1, 0, 1)], 1: [_record(1, 1, 2)]})
        trace = LoadTrace.read(next(folder.glob("*_1.pt")))
        assert trace.load[0].tolist() == _by_hand([_record(1, 1, 2)], SLOT_MAP)[1:].tolist()
        assert "rank 1 alone" in trace.origin.remarks[0]
        assert trace.source_load is None

    def test_passes_that_a_rank_lacks_are_left_out(self, tmp_path):
        """Ranks stop recording at different passes."""
        trace = LoadTrace.read(_write(tmp_path, {0: [_record(1, 0, 1), _record(2, 0, 3)], 1: [_record(1, 1, 2)]}))
        assert trace.num_steps == 1
        assert "left out 1 of 2 passes that some ranks did not record" in trace.origin.remarks

    def test_ranks_that_counted_the_same_or_their_own_slots(self, tmp_path):
        """Neither tells where tokens came from."""
        same = LoadTrace.read(_write(tmp_path / "a", {rank: [_record(1, rank, 1)] for rank in range(2)}))
        assert same.source_load is None
        assert "2 times as large" in " ".join(same.origin.remarks)
        own = {rank: [_record(1, rank, rank)] for rank in range(2)}
        own[0][0]["global_physical_count"][:, 4:] = 0
        own[1][0]["global_physical_count"][:, :4] = 0
        found = LoadTrace.read(_write(tmp_path / "b", own))
        assert found.source_load is None
        assert "its own slots" in " ".join(found.origin.remarks)

    def test_tokens_say_what_each_pass_did(self, tmp_path):
        """The engine's forward modes become phases; idle ranks say nothing; slots picked are counted where no counts are."""
        ids = torch.tensor([[[-1, -1]] * 3, [[0, 7], [0, 1], [-1, -1]], [[2, 3], [6, 7], [1, 0]]], dtype=torch.int32)
        tokens = [{**_record(number, 0, number, mode), "topk_ids_of_layer": ids} for number, mode in enumerate((1, 2, 3), 1)]
        del tokens[0]["global_physical_count"]
        idle = [_record(number, 1, 9, 4) for number in (1, 2, 3)]
        for record in idle:
            record["global_physical_count"][...] = 0
        trace = LoadTrace.read(_write(tmp_path, {0: tokens, 1: idle}))
        assert trace.origin.format == "sglang-per-token"
        assert trace.phases == ("prefill", "decode", "mixed")
        # layer 1: slots 0 (twice), 7, 1 hold experts 5, 5, 5, 4; layer 2: slots 2, 3, 6, 7, 1, 0 hold 2, 3, 2, 3, 1, 0
        assert trace.load[0].tolist() == [[0, 0, 0, 0, 1, 3], [1, 1, 2, 2, 0, 0]]

    @pytest.mark.parametrize(
        ("records", "slot_map", "found"),
        [
            ({0: [_record(1, 0, 1)], 2: [_record(1, 2, 1)]}, SLOT_MAP, "has no file of rank 1"),
            ({0: [_record(1, 0, 1)], 1: [_record(2, 1, 1)]}, SLOT_MAP, "none of them recorded by all 2 ranks"),
            ({0: [_record(1, 0, 1), _record(1, 0, 1)]}, SLOT_MAP, "has pass 1 of rank 0, as another record has"),
            ({0: [_record(1, 0, 1, slots=7)]}, SLOT_MAP, "record 0 counts [3, 7]: it must be [3, 8]"),
            ({0: [_record(1, 0, 1)]}, SLOT_MAP - 1, "which holds no expert"),
            ({0: [_record(1, 0, 1)]}, SLOT_MAP * 2, "has expert 8 in layer 0, slot 4"),
            ({0: [_record(-1, 0, 1)]}, SLOT_MAP, "has no forward_pass_id"),
            ({0: [{"forward_pass_id": 1, "rank": 0}]}, SLOT_MAP, "has no global_physical_count of 2 dimensions"),
            ({0: ["x"]}, SLOT_MAP, "has no list of records"),
            ({0: []}, SLOT_MAP, "has 0 passes"),
            ({0: [_record(1, 0, 1)]}, [[0]], "has no last_physical_to_logical_map of 2 dimensions"),
        ],
    )
    def test_bad_dumps(self, tmp_path, records, slot_map, found):
        """Each is named with its file."""
        with pytest.raises(FileError) as error:
            LoadTrace.read(_write(tmp_path / "x", records, slot_map))
        assert found in str(error.value)
        assert str(tmp_path) in str(error.value)

    def test_two_recordings_in_one_folder(self, tmp_path):
        """Maps that differ are of two recordings."""
        _write(tmp_path, {0: [_record(1, 0, 1)]})
        _write(tmp_path, {1: [_record(1, 1, 1)]}, SLOT_MAP.flip(0))
        with pytest.raises(FileError, match="another last_physical_to_logical_map"):
            LoadTrace.read(tmp_path)


@given(st.sampled_from(["stat", "pass"]), st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_dumps_give_an_error_or_a_trace(kind, data):
    """Whatever bytes are flipped or cut."""
    dump = {"records": [_record(1, 0, 1, 2)], "last_physical_to_logical_map": SLOT_MAP}
    content = bytearray((_stat(_passes(3)) if kind == "stat" else _saved(dump)).read())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        trace = LoadTrace.read(io.BytesIO(bytes(content)))
    except EquipoiseError:
        return
    assert trace.load.min() >= 0
