"""examples/score_in_*: the judge as evaluator of OpenEvolve and ShinkaEvolve, in their own calling conventions."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from equipoise import LoadTrace

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
OPENEVOLVE, SHINKA = (ROOT / "examples" / f"score_in_{name}" for name in ("openevolve", "shinka"))
SNAKE = (
    "    rank = turn % num_ranks\n",
    "    there, back = turn % num_ranks, num_ranks - 1 - turn % num_ranks\n"
    "    rank = torch.where(turn // num_ranks % 2 == 0, there, back)\n",
)
LEFT_OUT = ("    return phy2log, log2phy, count\n", "    return phy2log * 0, log2phy, count\n")


@dataclass(frozen=True)
class Framework:
    """A framework's wheel, what it is really imported with, and what is only stood in for: its models' and charts' clients."""

    wheel: tuple[str, str, str]
    needs: tuple[str, ...]
    stood_in: tuple[str, ...]


FRAMEWORKS = {
    "openevolve": Framework(("openevolve", "0.4.0", "openevolve/"), ("dacite==1.9.2",), ("openai", "flask", "tqdm")),
    "shinka": Framework(
        ("shinka-evolve", "0.0.7", "shinka/"),
        (),
        (
            *("adjustText", "aiofiles", "anthropic", "backoff", "boto3", "dotenv", "google", "httpx", "hydra", "instructor"),
            *("Levenshtein", "markdown", "matplotlib", "moviepy", "networkx", "omegaconf", "openai", "pandas", "psutil"),
            *("radon", "requests", "seaborn", "sklearn", "unidiff"),
        ),
    ),
}
IN_OPENEVOLVE = """
import asyncio, json, pathlib, sys
from openevolve.config import load_config
from openevolve.evaluator import Evaluator

folder, *programs = map(pathlib.Path, sys.argv[1:])
config = load_config(folder / "config.yaml")
assert config.enforce_evolve_blocks and config.prompt.include_artifacts
evaluator = Evaluator(config.evaluator, str(folder / "evaluator.py"))


async def evaluate():
    return [
        [await evaluator.evaluate_program(path.read_text(), path.name), evaluator.get_pending_artifacts(path.name)]
        for path in programs
    ]


print(json.dumps(asyncio.run(evaluate())))
"""
IN_SHINKA = """
import json, pathlib, sys
from dataclasses import fields
from shinka.cli.run_config import load_optional_yaml_config
from shinka.core import EvolutionConfig
from shinka.database import DatabaseConfig
from shinka.launch import JobScheduler, LocalJobConfig

folder, results, *programs = map(pathlib.Path, sys.argv[1:])
kinds = {"evo": EvolutionConfig, "db": DatabaseConfig, "job": LocalJobConfig}
known = {name: {field.name: field.type for field in fields(kind)} for name, kind in kinds.items()}
config, _ = load_optional_yaml_config(task_dir=folder, config_fname="shinka.yaml", allowed_field_types=known)
assert EvolutionConfig(**config["evo"]).use_text_feedback
scheduler = JobScheduler("local", LocalJobConfig(eval_program_path=str(folder / "evaluate.py"), **config["job"]))
print(json.dumps([scheduler.run(str(path), str(results / path.stem))[0] for path in programs]))
scheduler.shutdown()
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Write a better program than the first one, and one that leaves experts out."""
    folder, text = tmp_path_factory.mktemp("programs"), (SHINKA / "initial.py").read_text()
    paths = [SHINKA / "initial.py"]
    for name, (before, after) in {"snake": SNAKE, "wrong": LEFT_OUT}.items():
        assert text.count(before) == 1
        paths.append(folder / f"{name}.py")
        paths[-1].write_text(text.replace(before, after))
    return paths


def load(path, monkeypatch):
    """Import a file of an example."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)
    return module


def stand_in(monkeypatch, name, **attributes):
    """Put a module with these attributes under a name, and empty packages above it."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:length]))
        module.__path__ = []
        monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module).update(attributes)


class TestDirectly:
    """Without the frameworks: what the evaluators answer."""

    def test_both_begin_with_the_same_program(self):
        assert (OPENEVOLVE / "initial_program.py").read_text() == (SHINKA / "initial.py").read_text()

    @pytest.mark.compiled
    def test_openevolve(self, programs, monkeypatch):
        result = type("EvaluationResult", (), {"__init__": lambda self, **given: vars(self).update(given)})
        stand_in(monkeypatch, "openevolve.evaluation_result", EvaluationResult=result)
        example = load(OPENEVOLVE / "evaluator.py", monkeypatch)
        snake, wrong = (example.evaluate(str(path)) for path in programs[1:])
        assert snake.metrics["combined_score"] > 0.7
        assert all(isinstance(value, float) for value in snake.metrics.values())
        assert snake.artifacts["verdict"] == "accepted"
        assert wrong.metrics == {"combined_score": 0.0}
        assert wrong.artifacts["verdict"].startswith("expert missing: ")

    @pytest.mark.compiled
    def test_shinka(self, programs, monkeypatch):
        example = load(SHINKA / "evaluate.py", monkeypatch)
        snake, wrong = (example.judge(str(path)) for path in programs[1:])
        assert snake["combined_score"] > 0.7
        assert example.is_valid(snake) == (True, None)
        assert wrong["combined_score"] == 0.0
        assert example.is_valid(wrong) == (False, wrong["text_feedback"])
        assert wrong["text_feedback"].startswith("expert missing: ")
        json.dumps([snake, wrong])

    @pytest.mark.compiled
    def test_two_windows_have_one_call(self, programs, monkeypatch):
        """Which is the cold one."""
        load_of_two = LoadTrace(LoadTrace.example().load[:2])
        for path in (OPENEVOLVE / "evaluator.py", SHINKA / "evaluate.py"):
            example = load(path, monkeypatch)
            monkeypatch.setattr(example, "LoadTrace", type("Two", (), {"example": staticmethod(lambda: load_of_two)}))
            found = example.judge(str(programs[1]))
            metrics = found[0] if isinstance(found, tuple) else found["private"]
            assert metrics["milliseconds"] > 0

    @pytest.mark.parametrize(("content", "verdict"), [(b"\xff", "is no text in UTF-8"), (None, "cannot be read")])
    def test_a_program_that_is_no_text_scores_nothing(self, tmp_path, monkeypatch, content, verdict):
        path = tmp_path / "program.py"
        if content is not None:
            path.write_bytes(content)
        metrics, artifacts = load(OPENEVOLVE / "evaluator.py", monkeypatch).judge(str(path))
        assert metrics == {"combined_score": 0.0}
        assert verdict in artifacts["verdict"]
        shinka = load(SHINKA / "evaluate.py", monkeypatch).judge(str(path))
        assert (shinka["combined_score"], verdict in shinka["text_feedback"]) == (0.0, True)


@pytest.mark.engines
@pytest.mark.compiled
class TestInside:
    """Through the frameworks' own code, from their wheels; no language model is asked."""

    def test_openevolve(self, programs, tmp_path):
        first, snake, wrong = inside("openevolve", IN_OPENEVOLVE, tmp_path, OPENEVOLVE, *programs)
        assert 0.5 < first[0]["combined_score"] < snake[0]["combined_score"] <= 1.0
        assert first[1]["verdict"] == snake[1]["verdict"] == "accepted"
        assert wrong[0] == {"combined_score": 0.0}
        assert wrong[1]["verdict"].startswith("expert missing: ")

    def test_shinka(self, programs, tmp_path):
        results = tmp_path / "results"
        first, snake, wrong = inside("shinka", IN_SHINKA, tmp_path, SHINKA, results, *programs)
        assert 0.5 < first["metrics"]["combined_score"] < snake["metrics"]["combined_score"] <= 1.0
        assert snake["correct"] == {"correct": True, "error": None}
        assert (snake["metrics"]["num_valid_runs"], snake["metrics"]["text_feedback"]) == (1, "accepted")
        assert wrong["metrics"]["combined_score"] == 0.0
        assert wrong["correct"]["correct"] is False
        assert wrong["correct"]["error"].startswith("Validation failed: expert missing: ")
        assert sorted(path.name for path in (results / "snake").iterdir()) == [
            *("correct.json", "job_log.err", "job_log.out", "metrics.json"),
        ]


def inside(name, script, scratch, *arguments):
    """Run a script where a framework can be imported; returns the JSON on its last line."""
    framework = FRAMEWORKS[name]
    place = scratch / "stand_ins"
    place.mkdir()
    names = ", ".join(map(repr, framework.stood_in))
    (place / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(ROOT / 'tests' / 'engines')!r})\n"
        f"from stand_ins import EmptyPackages\nsys.meta_path.append(EmptyPackages({names}))\n"
    )
    folders = [place, unpacked(framework), *dependencies(framework)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONDONTWRITEBYTECODE": "1"}
    call = [sys.executable, "-c", script, *map(str, arguments)]
    ran = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=scratch, timeout=300)
    assert ran.returncode == 0, ran.stdout[-5_000:] + ran.stderr[-10_000:]
    return json.loads(ran.stdout.splitlines()[-1])


def unpacked(framework):
    """Fetch a framework's wheel unless it is in the cache; returns the folder that holds its Python files."""
    fetching = _fetching()
    wheel = fetching.Wheel(*framework.wheel)
    archive = fetching.find_wheel(wheel, fetching.CACHE) or fetching.fetch(wheel, fetching.CACHE)
    folder = fetching.CACHE / f"{wheel.distribution}-{wheel.version}"
    with zipfile.ZipFile(archive) as held:
        others = [name for name in held.namelist() if name.startswith(wheel.member) and not name.endswith(".py")]
        fetching.extract(archive, wheel.member, folder)
        held.extractall(folder, [name for name in others if name.endswith((".csv", ".txt", ".json", ".yaml"))])
    return folder


def dependencies(framework):
    """Yield folders that hold what a framework needs to be imported, each installed into the cache once."""
    fetching = _fetching()
    for requirement in framework.needs:
        with contextlib.suppress(FileExistsError):
            fetching.CACHE.mkdir(parents=True)
        folder = fetching.CACHE / f"{requirement.replace('==', '-')}-{sys.implementation.cache_tag}"
        if not folder.is_dir():
            said = fetching._pip("install", "--target", str(folder), "--only-binary=:all:", requirement)
            assert folder.is_dir(), f"{requirement} is not to be had: {said}"
        yield folder


def _fetching():
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module("benchmarks.peers.fetching")
