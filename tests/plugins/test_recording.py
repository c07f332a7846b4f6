"""The recorder: whole lines, bounded files, and no effect on answers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from equipoise import LoadTrace
from equipoise.plugins.answering import Answerer
from equipoise.plugins.deciding import Call
from equipoise.plugins.recording import Recorder
from equipoise.plugins.settings import Settings

LOAD = np.arange(12).reshape(2, 6)


def call(load=LOAD, slots: int = 8, in_use=None) -> Call:
    """Return a call of two ranks."""
    return Call(np.asarray(load), slots, 2, 1, 3, False, in_use)


def lines(path: Path) -> list[dict]:
    """Return the records of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestLines:
    """What is written."""

    def test_schema(self, tmp_path):
        path = tmp_path / "new" / "calls.jsonl"
        recorder = Recorder(path, "vllm", 10_000, 2)
        recorder.write(call(in_use=np.full((2, 8), -1)))
        recorder.write(call(LOAD / 2.0))
        recorder.write(call(LOAD * 1.0))
        meta, first, second, third = lines(path)
        assert meta == {
            "record_type": "equipoise_record_meta",
            "version": 1,
            "engine": "vllm",
            "num_ranks": 2,
            "num_groups": 3,
            "num_nodes": 1,
            "num_slots": 8,
            "num_experts": 6,
            "num_layers": 2,
        }
        time = first.pop("time")
        assert time > 1.7e9
        assert first == {
            "record_type": "equipoise_record",
            "version": 1,
            "call": 0,
            "load": LOAD.tolist(),
            "expert_of_slot": [[-1] * 8] * 2,
        }
        assert (second["call"], second["load"], second["expert_of_slot"]) == (1, (LOAD / 2).tolist(), None)
        assert third["load"] == LOAD.tolist()
        assert all(isinstance(value, int) for row in third["load"] for value in row)

    def test_files_are_bounded(self, tmp_path):
        path = tmp_path / "calls.jsonl"
        recorder = Recorder(path, "vllm", 1000, 3)
        for _ in range(100):
            recorder.write(call())
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["calls.jsonl", "calls.jsonl.1", "calls.jsonl.2"]
        assert all(file.stat().st_size <= 1000 for file in files)
        numbers = [
            line["call"] for file in reversed(files) for line in lines(file) if line["record_type"] == "equipoise_record"
        ]
        assert numbers == list(range(numbers[0], 100))
        assert all(lines(file)[0]["record_type"] == "equipoise_record_meta" for file in files)

    def test_one_file(self, tmp_path):
        recorder = Recorder(tmp_path / "calls.jsonl", "vllm", 1000, 1)
        for _ in range(20):
            recorder.write(call())
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_new_run_and_another_shape_begin_new_files(self, tmp_path):
        path = tmp_path / "calls.jsonl"
        Recorder(path, "vllm", 10_000, 4).write(call())
        recorder = Recorder(path, "vllm", 10_000, 4)
        recorder.write(call())
        recorder.write(call(slots=10))
        assert [lines(file)[0]["num_slots"] for file in (path, tmp_path / "calls.jsonl.1", tmp_path / "calls.jsonl.2")] == [
            10,
            8,
            8,
        ]

    def test_models_have_files_of_their_own(self, tmp_path):
        recorder = Recorder(tmp_path / "calls.jsonl", "vllm", 10_000, 4)
        for _ in range(3):
            recorder.write(call())
            recorder.write(call(LOAD[:1]))
        assert sorted(file.name for file in tmp_path.iterdir()) == ["calls.1x6.jsonl", "calls.jsonl"]
        assert len(lines(tmp_path / "calls.1x6.jsonl")) == 4

    def test_a_file_that_is_taken_away_is_begun_anew(self, tmp_path):
        recorder = Recorder(tmp_path / "calls.jsonl", "vllm", 10_000, 4)
        recorder.write(call())
        (tmp_path / "calls.jsonl").unlink()
        recorder.write(call())
        assert [line["record_type"] for line in lines(tmp_path / "calls.jsonl")] == [
            "equipoise_record_meta",
            "equipoise_record",
        ]

    def test_a_full_disk_leaves_whole_lines(self, tmp_path, monkeypatch):
        path = tmp_path / "calls.jsonl"
        recorder = Recorder(path, "vllm", 10_000, 4)
        recorder.write(call())
        before = path.read_bytes()
        opened = Path.open

        def open_full(self, mode):
            with opened(self, mode) as file:
                file.write(b"half a line")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr(Path, "open", open_full)
            with pytest.raises(OSError, match="No space"):
                recorder.write(call())
        assert path.read_bytes() == before


class TestReading:
    """``LoadTrace.read`` takes what was recorded."""

    def test_a_file(self, tmp_path):
        recorder = Recorder(tmp_path / "calls.jsonl", "vllm", 10_000, 4)
        for number in range(3):
            recorder.write(call(LOAD + number, in_use=np.full((2, 8), -1)))
        trace = LoadTrace.read(tmp_path / "calls.jsonl")
        assert trace.load.tolist() == [(LOAD + number).tolist() for number in range(3)]

    def test_all_files_of_a_recording(self, tmp_path):
        recorder = Recorder(tmp_path / "calls.jsonl", "vllm", 1000, 100)
        for number in range(30):
            recorder.write(call(LOAD + number))
        assert len(list(tmp_path.iterdir())) > 5
        assert LoadTrace.read(tmp_path).load.tolist() == [(LOAD + number).tolist() for number in range(30)]


class TestAnswering:
    """Recording beside answers."""

    def answerer(self, path) -> Answerer:
        return Answerer(Settings(record=str(path)), "vllm", logging.getLogger("test.recording"), lambda: None)

    def test_one_rank_without_a_group(self, tmp_path):
        answerer = self.answerer(tmp_path / "calls.jsonl")
        answerer.answer(lambda: Call(LOAD, 6, 1, 1, 1, False))
        assert len(lines(tmp_path / "calls.jsonl")) == 2

    def test_several_ranks_without_a_group_have_files_of_their_own(self, tmp_path):
        self.answerer(tmp_path / "calls.jsonl").answer(call)
        (file,) = tmp_path.iterdir()
        assert file.name.startswith("calls.process")

    def test_a_fault_is_logged_once_and_changes_no_answer(self, tmp_path, caplog):
        (tmp_path / "file").write_text("")
        answerer = self.answerer(tmp_path / "file" / "calls.jsonl")
        sound = Answerer(Settings(), "vllm", logging.getLogger("test.recording"), lambda: None)
        for _ in range(3):
            assert (answerer.answer(call) == sound.answer(call)).all()
        assert caplog.text.count("calls are not recorded") == 1
