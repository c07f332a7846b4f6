"""How commands read loads: --format, --model, --active and --in-order, the same in each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

from equipoise import LoadTrace
from equipoise.files.placements import FoundPlacement, write_as
from samples import npy

SHAPE = ("--ranks", 4, "--slots", 40, "--json")
DENSE = 1


@pytest.fixture
def dump(tmp_path):
    """A ring of SGLang's, full, of a model with 24 MoE layers and 32 experts."""
    torch = pytest.importorskip("torch")
    counts = torch.from_numpy(np.random.default_rng(0).multinomial(400, np.full(32, 1 / 32), (6, 24)).astype(np.int32))
    path = tmp_path / "dump.pt"
    torch.save({"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None}, path)
    return path


def test_inspect_says_what_it_took_the_file_for(run, dump):
    """Format, remarks, order and source ranks; for people, a line each."""
    found = json.loads(run("inspect", dump, "--json", "--model", "gpt-oss-20b")[1])
    assert (found["format"], found["is_in_order"], found["source_ranks"]) == ("sglang-stat", False, 0)
    assert "look alike" in found["remarks"][0]
    assert any("--in-order" in finding for finding in found["findings"])
    known = json.loads(run("inspect", dump, "--json", "--in-order")[1])
    assert (known["is_in_order"], known["findings"]) == (True, [])
    shown = run("inspect", dump)[1]
    assert "read as sglang-stat" in shown
    assert "remark: all 6 rows are in use" in shown


@pytest.mark.compiled
def test_forecasts_need_order(run, dump):
    """Refused with a way out, which is then taken."""
    code, _, err = run("plan", dump, *SHAPE, "--forecast", "last")
    assert code == 2
    assert "--in-order" in err
    assert run("plan", dump, *SHAPE, "--forecast", "last", "--in-order")[0] == 0
    assert run("plan", dump, *SHAPE)[0] == 0
    for command in (("plan", dump, *SHAPE, "--last", 2), ("compare", dump, *SHAPE, "--window", 2)):
        assert run(*command)[0] == 2
        assert run(*command, "--in-order")[0] == 0


@pytest.mark.compiled
def test_simulate_reads_dumps(run, dump):
    """As it reads plain files; a file alone or several."""
    assert run("simulate", dump, *SHAPE, "--policy", "last")[0] == 2
    code, text, _ = run("simulate", dump, *SHAPE, "--policy", "last", "--in-order", "--model", "gpt-oss-20b")
    assert code == 0
    assert json.loads(text)["traces"][0]["trace"] == str(dump)


def test_a_load_of_another_model_is_refused(run, dump):
    """But by inspect, which says so."""
    code, _, err = run("plan", dump, *SHAPE, "--model", "gpt-oss-120b")
    assert code == 2
    assert "has 24 hidden layers: it must have layer 35" in err
    code, _, err = run("inspect", dump, "--model", "gpt-oss")
    assert code == 2
    assert "did you mean gpt-oss-20b" in err or "gpt-oss-120b" in err


def test_other_experts_than_the_model(run, tmp_path):
    """Named with both numbers; inspect goes on and tells."""
    LoadTrace(np.ones((1, 24, 40), int)).write(tmp_path / "x.npz")
    code, _, err = run("plan", tmp_path / "x.npz", *SHAPE, "--model", "gpt-oss-20b")
    assert code == 2
    assert "x.npz has 40 experts a layer: the model has 32" in err
    assert "may be slots" in run("inspect", tmp_path / "x.npz", "--model", "gpt-oss-20b")[1]


def test_formats_by_name(run, tmp_path):
    """An unknown one lists those there are; one of another kind says what it is read from."""
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    code, _, err = run("inspect", tmp_path / "x.csv", "--format", "sglang")
    assert code == 2
    assert "it must be one of auto" in err
    assert "sglang-stat" in err
    code, _, err = run("inspect", tmp_path / "x.csv", "--format", "npz")
    assert code == 2
    assert "x.csv is text: the format npz is read from an .npz file" in err
    assert json.loads(run("inspect", tmp_path / "x.csv", "--format", "csv", "--json")[1])["format"] == "csv"


@pytest.mark.compiled
def test_plan_says_that_slots_may_be_planned_as_experts(run, tmp_path):
    """On stderr, beside JSON too, of windows too, and never with --quiet or the placement in use."""
    loads = np.random.default_rng(0).integers(1, 9, (3, 2, 40))
    tensors = {f"{step}_{layer}": loads[step, layer] for step in range(3) for layer in range(2)}
    path = tmp_path / "rank0.safetensors"
    path.write_bytes(safetensors_bytes({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
    shape = ("--ranks", 4, "--slots", 44)
    for more in ((), ("--json",), ("--window", 2)):
        code, _, err = run("plan", path, *shape, *more)
        assert code == 0
        assert "note: 40 columns, as many experts as no known model has, and tensorrt-llm counts slots" in err
    assert run("plan", path, *shape, "--quiet")[2] == ""
    active = tmp_path / "active.yaml"
    write_as(active, "tensorrt-llm", FoundPlacement(np.tile(np.arange(40) % 32, (2, 1)), (0, 1), num_experts=32))
    assert run("plan", path, *shape, "--active", active)[2] == ""
    active.write_text(active.read_text().replace("layer_updates_per_iter: 0", "layer_updates_per_iter: 2"))
    assert "the engine moves experts away from this placement" in run("inspect", path, "--active", active)[1]


def test_plain_files_with_rows_of_dense_layers(run, tmp_path):
    """The model's rows are taken where the others have no load; with load in them it is another model."""
    load = np.zeros((2, 61, 256), int)
    load[:, 3:] = 8
    for name, content in (("x.json", json.dumps({"logical_count": load.tolist()}).encode()), ("x.npy", npy(load))):
        (tmp_path / name).write_bytes(content)
        found = json.loads(run("inspect", tmp_path / name, "--model", "deepseek-v3", "--json")[1])
        assert (found["layers"], found["per_layer"]["layer_id"][0]) == (58, 3)
        assert found["remarks"] == ["took the rows of the 58 layers named; the other 3 of 61 have no load"]
    (tmp_path / "x.npy").write_bytes(npy(load + 1))
    code, _, err = run("inspect", tmp_path / "x.npy", "--model", "deepseek-v3")
    assert code == 2
    assert "layer_ids has 58" in err
