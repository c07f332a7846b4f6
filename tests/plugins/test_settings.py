"""Settings of the plug-ins: from the environment and a file, refused by name where they are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from equipoise import EquipoiseError
from equipoise.planning.efforts import EFFORTS
from equipoise.plugins import settings
from equipoise.plugins.settings import CHOICES, Settings, is_on, read_settings


class TestReading:
    """What the environment and the file say."""

    def test_nothing_set_is_the_default(self):
        assert read_settings({}) == Settings()

    def test_environment_goes_before_the_file(self, tmp_path):
        file = tmp_path / "settings.json"
        file.write_text(json.dumps({"effort": "best", "max_moves": 9, "wait_seconds": 5}))
        found = read_settings({"EQUIPOISE_SETTINGS": str(file), "EQUIPOISE_MAX_MOVES": "2", "EQUIPOISE_EFFORT": ""})
        assert found == Settings(effort="best", max_moves=2, wait_seconds=5)

    def test_other_variables_are_no_settings(self):
        assert read_settings({"EQUIPOISE_PLUGIN": "1", "EQUIPOISE_LOADS": "here", "PATH": "there"}) == Settings()

    @pytest.mark.parametrize(("text", "on"), [("", False), ("0", False), ("off", False), ("1", True), ("True", True)])
    def test_switch(self, text, on):
        assert is_on({"EQUIPOISE_PLUGIN": text}) is on

    def test_every_effort_can_be_set(self):
        assert CHOICES["effort"] == tuple(EFFORTS)

    def test_importing_them_is_light(self):
        """Engines import the plug-ins in every process, turned on or not."""
        code = (
            "import sys; import equipoise.plugins.vllm as v, equipoise.plugins.sglang as s; v.register(); s.register(); "
            "print([m for m in ('numpy', 'numba', 'torch', 'scipy', 'vllm', 'sglang') if m in sys.modules])"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert (found.stdout.strip(), found.stderr) == ("[]", "")


def test_the_page_names_every_setting():
    """With its default, in the table of settings."""
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    for field in fields(Settings):
        row = next(line for line in page.splitlines() if line.startswith("|") and f"`{field.name}`" in line.split("|")[1])
        default = (
            "" if field.default is None else f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        )
        assert default in row.split("|")[2]


class TestDigest:
    """Equal where plans will be."""

    def test_it_is_of_what_decides(self):
        base = Settings().digest
        assert Settings(record="here.jsonl", wait_seconds=9, record_bytes=1000).digest == base
        assert Settings(locality="soft", home_share=1).digest == Settings(locality="soft", home_share=1.0).digest
        others = [
            Settings(effort="best"),
            Settings(max_moves=3),
            Settings(mode="one_rank"),
            Settings(compare="plans"),
            Settings(locality="soft", home_share=0.5),
            Settings(locality="none", dispatch="optimal"),
        ]
        assert len({base, *(other.digest for other in others)}) == 1 + len(others)

    @pytest.mark.parametrize("package", ["equipoise", "llvmlite", "numba", "numpy", "scipy"])
    def test_it_is_of_versions(self, monkeypatch, package):
        version = settings._version
        base = Settings().digest
        monkeypatch.setattr(settings, "_version", lambda name: "another" if name == package else version(name))
        assert Settings().digest != base

    def test_numbers_are_of_one_kind(self):
        """A file may say 5, a variable always 5.0."""
        found = Settings(locality="soft", home_share=1, wait_seconds=5)
        assert [type(value) for value in (found.home_share, found.wait_seconds)] == [float, float]


class TestRefusals:
    """One line: what was found, the rule, the next step."""

    @pytest.mark.parametrize(
        ("environment", "words"),
        [
            ({"EQUIPOISE_EFORT": "best"}, "EQUIPOISE_EFORT is unknown: settings are effort, .*; did you mean effort?"),
            ({"EQUIPOISE_FOO": "1"}, "EQUIPOISE_FOO is unknown"),
            ({"EQUIPOISE_EFFORT": "huge"}, "effort is 'huge': it must be one of fast, default, best"),
            ({"EQUIPOISE_MAX_MOVES": "many"}, "EQUIPOISE_MAX_MOVES is 'many': it must be a whole number"),
            ({"EQUIPOISE_MAX_MOVES": "-1"}, "max_moves is -1"),
            ({"EQUIPOISE_HOME_SHARE": "0.9"}, "home_share is 0.9: it goes with soft locality"),
            ({"EQUIPOISE_LOCALITY": "soft"}, "soft locality needs a home share"),
            ({"EQUIPOISE_LOCALITY": "soft", "EQUIPOISE_HOME_SHARE": "nan"}, "home_share is nan"),
            (
                {"EQUIPOISE_LOCALITY": "soft", "EQUIPOISE_HOME_SHARE": "1", "EQUIPOISE_MAX_MOVES": "1"},
                "max_moves with locality",
            ),
            ({"EQUIPOISE_FORECAST": "auto"}, "a forecast in every_rank mode: .* set mode to one_rank"),
            ({"EQUIPOISE_FORECAST": "robust:4", "EQUIPOISE_MODE": "one_rank"}, "forecast robust: a forecast of several"),
            ({"EQUIPOISE_DISPATCH": "optimal"}, "dispatch optimal with a locality"),
            ({"EQUIPOISE_WAIT_SECONDS": "0"}, "wait_seconds is 0.0"),
            ({"EQUIPOISE_RECORD_BYTES": "10"}, "record_bytes is 10"),
            ({"EQUIPOISE_RECORD": "calls.json"}, "record is 'calls.json': readers know recordings by the ending .jsonl"),
            ({"EQUIPOISE_SETTINGS": "/nowhere/at/all"}, "/nowhere/at/all cannot be read"),
        ],
    )
    def test_environment(self, environment, words):
        with pytest.raises(EquipoiseError, match=words):
            read_settings(environment)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{", "is no JSON"),
            ("[1]", "holds a list"),
            ('{"efort": "best"}', "efort in .* is unknown: .*did you mean effort"),
            ('{"max_moves": 1.5}', "max_moves is 1.5"),
            ('{"max_moves": true}', "max_moves is True"),
            ('{"record": 3}', "record is 3"),
        ],
    )
    def test_file(self, tmp_path, text, words):
        file = tmp_path / "settings.json"
        file.write_text(text)
        with pytest.raises(EquipoiseError, match=words):
            read_settings({"EQUIPOISE_SETTINGS": str(file)})

    def test_record_is_a_folder(self, tmp_path):
        folder = tmp_path / "calls.jsonl"
        folder.mkdir()
        with pytest.raises(EquipoiseError, match=r"calls\.jsonl': it is a folder, and must be a file; name a file in it"):
            Settings(record=str(folder))

    def test_switch(self):
        with pytest.raises(EquipoiseError, match="EQUIPOISE_PLUGIN is 'maybe': it must be 1 or 0"):
            is_on({"EQUIPOISE_PLUGIN": "maybe"})
