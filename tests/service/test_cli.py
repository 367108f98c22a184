"""The command line as its users meet it: exit codes, sentences, and what programs read from it."""

from __future__ import annotations

import csv
import json
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from db import embedded
from service.cli.answers import escaped
from service.cli.common import EXIT_MEANING, Exit, Stop, sentence_of
from service.serving import PortTaken, refuse_taken_port
from tests.browser.running import wait_until_ready
from tests.commands import RESIGHT, clean_environment, resight
from tests.flukes import draw

NAMES = ("Ada", "Bo", "Cleo")


@dataclass(frozen=True)
class Cli:
    """Runs `resight` on a data directory of its own."""

    data_dir: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"RESIGHT_DATA_DIR": str(self.data_dir)}
        return resight(*arguments, environment=own | self.environment | environment)

    def json(self, *arguments: object) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == Exit.OK, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per individual, three photos each, and a text that is called a photo."""
    folder = tmp_path_factory.mktemp("photos")
    for individual, name in enumerate(NAMES):
        for photo in range(3):
            draw(folder / name / f"{photo}.jpg", individual, photo)
    (folder / "Ada" / "text.jpg").write_text("not a photo")
    return folder


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[Cli]:
    """A data directory with the three individuals imported."""
    data_dir = tmp_path_factory.mktemp("cli")
    run = Cli(data_dir)
    report = run.json("import", photos)
    assert (report["import"]["imported"], len(report["import"]["skipped"])) == (9, 1)
    assert report["not_embedded"] == []
    yield run
    embedded.stop(data_dir)


# ---------------------------------------------------------------- without a database


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    heavy = {"numpy", "sqlalchemy", "openvino", "faiss", "fastapi", "pydantic", "PIL", "httpx"}
    code = (
        "import sys, service.cli.commands;"
        f"sys.exit(', '.join({heavy!r} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    started = time.perf_counter()
    shown = subprocess.run([RESIGHT, "--help"], capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - started < 2  # 0.1 s on an idle machine
    for command in ("demo", "serve", "identify", "batch", "verify", "import", "doctor", "keys"):
        assert f"\n  {command} " in shown


def test_every_exit_code_is_explained() -> None:
    assert set(EXIT_MEANING) == set(Exit)


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["frobnicate"], {}, "No such command"),
        (["identify"], {}, "Missing argument"),
        (["serve"], {"RESIGHT_THREADS": "many"}, "RESIGHT_THREADS='many' does not fit"),
        (["serve"], {"RESIGHT_DEVICE": "tpu"}, "RESIGHT_DEVICE='tpu' does not fit"),
        (["keys", "create", "x", "--role", "king"], {}, "--role is one of viewer"),
        (["models", "convert-pickled", __file__], {}, "runs whatever code it holds"),
    ],
)
def test_wrong_usage_is_code_2_and_one_sentence(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    done = Cli(tmp_path / "data", environment)(*arguments)
    assert done.returncode == Exit.USAGE
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_database_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    done = Cli(tmp_path)("individuals", "list", RESIGHT_DATABASE_URL=url)
    assert done.returncode == Exit.FAILED
    assert "The database does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_photo_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    done = Cli(tmp_path)("identify", tmp_path / "none.jpg")
    assert done.returncode == Exit.FAILED
    assert "none.jpg: No such file" in done.stderr
    assert not (tmp_path / "postgres").exists()


def test_a_fault_of_ours_is_not_dressed_up_as_a_sentence() -> None:
    assert sentence_of(KeyError("x")) is None
    assert sentence_of(Stop("Do this.")) == "Do this."
    assert sentence_of(PortTaken("Taken.")) == "Taken."
    assert sentence_of(PermissionError(13, "Permission denied", "/x")) == "/x: Permission denied."


@given(st.text())
def test_no_cell_is_a_formula(text: str) -> None:
    cell = escaped(text)
    assert cell in (text, "'" + text)
    if cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        float(cell)


@pytest.mark.parametrize("formula", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_are_escaped(formula: str) -> None:
    assert escaped(formula) == "'" + formula


def test_a_negative_number_stays_a_number() -> None:
    assert escaped(-0.25) == "-0.25"


def test_a_taken_port_is_refused_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} .* resight serve --port N"):
            refuse_taken_port("127.0.0.1", port, "resight serve --port N")


# ---------------------------------------------------------------- with a catalogue


def test_importing_again_doubles_nothing(cli: Cli, photos: Path) -> None:
    report = cli.json("import", photos)["import"]
    assert (report["imported"], report["already_known"]) == (0, 9)
    assert [skip["entry"] for skip in report["skipped"]] == ["Ada/text.jpg"]


def test_a_strict_import_fails_on_a_skip(cli: Cli, photos: Path) -> None:
    done = cli("import", photos, "--strict")
    assert done.returncode == Exit.PARTIAL
    assert "Ada/text.jpg" in done.stderr


def test_identify_answers_as_the_api_does(cli: Cli, tmp_path: Path) -> None:
    photo = draw(tmp_path / "query.jpg", individual=1, photo=7)
    answer = cli.json("identify", photo, "-k", "2")
    assert {"query_id", "gate", "default_answer", "matches", "agreement", "receipt"} <= set(answer)
    assert [match["rank"] for match in answer["matches"]] == [1, 2]
    assert answer["receipt"]["eligible"] == 9
    shown = cli("identify", photo, "-k", "2")
    assert answer["matches"][0]["individual"]["name"] in shown.stdout
    assert "9 of 9 searched" in shown.stdout


def test_identify_takes_filters(cli: Cli, photos: Path) -> None:
    answer = cli.json("identify", photos / "Bo" / "0.jpg", "--from", "2999-01-01")
    assert (answer["matches"], answer["receipt"]["eligible"]) == ([], 0)


def test_what_cannot_be_read_is_a_sentence(cli: Cli, photos: Path) -> None:
    done = cli("identify", photos / "Ada" / "text.jpg")
    assert (done.returncode, done.stdout) == (Exit.FAILED, "")
    assert done.stderr.startswith("resight: ")
    assert "Traceback" not in done.stderr


def test_verify_asks_the_gate_alone(cli: Cli, photos: Path) -> None:
    done = cli("verify", photos / "Bo" / "0.jpg", "--json")
    state = json.loads(done.stdout)["gate"]["state"]
    codes = {"accepted": Exit.OK, "rejected": Exit.REJECTED, "abstained": Exit.ABSTAINED}
    assert done.returncode == codes[state]


def test_predict_gives_the_compatible_answer(cli: Cli, photos: Path) -> None:
    done = cli("predict", photos / "Bo" / "0.jpg")
    answer = json.loads(done.stdout)
    assert answer["image_ind"] == "0.jpg"
    assert {"class_animal", "id_animal", "probability", "is_cetacean", "rejected"} <= set(answer)


def test_batch_has_a_row_for_every_file_in_order(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "batch"
    names = ["=cmd.jpg", "a.jpg", "broken.jpg", "sub/c.jpg"]
    for name in names:
        draw(folder / name, individual=0, photo=9)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff half")
    out = tmp_path / "out.csv"
    done = cli("batch", folder, "--csv", out)
    assert done.returncode == Exit.OK, done.stderr
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["'=cmd.jpg", *names[1:]]
    assert [bool(row["error"]) for row in rows] == [False, False, True, False]
    assert rows[1]["match_1"] in NAMES
    assert not list(tmp_path.glob("*.part"))
    assert cli("batch", folder, "--csv", out, "--strict").returncode == Exit.PARTIAL


def test_an_added_individual_is_found_next(cli: Cli, tmp_path: Path) -> None:
    photo = draw(tmp_path / "dora.jpg", individual=40, photo=0)
    added = cli.json("individuals", "add", "Dora", photo, "--taxon", "humpback whale")
    assert [one["embedded"] for one in added["photos"]] == [True]
    again = draw(tmp_path / "again.jpg", individual=40, photo=1)
    more = cli.json("individuals", "add-photos", "dora", again)
    assert more["individual"]["id"] == added["individual"]["id"]
    shown = cli.json("individuals", "show", added["individual"]["id"])
    assert (shown["name"], len(shown["annotations"])) == ("Dora", 2)
    listed = cli.json("individuals", "list", "--text", "dor")
    assert [(one["name"], one["photo_count"]) for one in listed] == [("Dora", 2)]
    # Her second photo with its bytes changed: known to nobody, nearest to itself.
    Image.open(again).save(tmp_path / "query.png")
    answer = cli.json("identify", tmp_path / "query.png")
    assert "Dora" in [match["individual"]["name"] for match in answer["matches"]]
    taken = cli("individuals", "add", "DORA", photo)
    assert taken.returncode == Exit.FAILED
    assert "'DORA' is in this catalogue already" in taken.stderr


def test_a_worker_embeds_what_an_import_left(cli: Cli, tmp_path: Path) -> None:
    draw(tmp_path / "new" / "Eve" / "0.jpg", individual=50, photo=0)
    assert cli("import", tmp_path / "new", "--no-embed").returncode == Exit.OK
    notes = [one for one in cli.json("doctor") if one["subject"] == "vectors"]
    assert [one["state"] for one in notes] == ["note"]
    done = cli("worker", "--once")
    assert (done.returncode, "1 embedded" in done.stderr) == (Exit.OK, True), done.stderr
    assert "vectors" not in [one["subject"] for one in cli.json("doctor")]


def test_a_worker_imports_what_was_left_to_it(cli: Cli, tmp_path: Path) -> None:
    draw(tmp_path / "later" / "Fay" / "0.jpg", individual=51, photo=0)
    job = cli.json("import", tmp_path / "later", "--background")["job_id"]
    assert cli("worker", "--once").returncode == Exit.OK
    shown = cli.json("jobs", "show", job)
    assert (shown["state"], shown["result"]["imported"]) == ("done", 1)
    assert [one["name"] for one in cli.json("individuals", "list", "--text", "fay")] == ["Fay"]
    assert "vectors" not in [one["subject"] for one in cli.json("doctor")]


def test_doctor_names_a_photo_that_is_gone(cli: Cli) -> None:
    found = {one["subject"]: one for one in cli.json("doctor", "--deep")}
    assert {one["state"] for one in found.values()} <= {"ok", "note"}
    victim = next(path for path in (cli.data_dir / "media" / "originals").glob("*/*"))
    kept = victim.read_bytes()
    try:
        victim.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert cli("doctor").returncode == Exit.OK
        deep = cli("doctor", "--deep")
        assert (deep.returncode, victim.name[:12] in deep.stdout) == (Exit.FAILED, True)
        victim.unlink()
        gone = cli("doctor")
        assert (gone.returncode, victim.name[:12] in gone.stdout) == (Exit.FAILED, True)
    finally:
        victim.write_bytes(kept)


def test_keys_are_shown_once_and_can_be_revoked(cli: Cli) -> None:
    made = cli("keys", "create", "laptop", "--role", "reviewer")
    key = made.stdout.strip()
    assert made.returncode == Exit.OK
    assert key.startswith("rs_")
    assert key not in json.dumps(cli.json("keys", "list"))
    again = cli("keys", "create", "laptop")
    assert (again.returncode, again.stdout) == (Exit.FAILED, "")
    assert cli("keys", "revoke", "laptop").returncode == Exit.OK
    row = next(row for row in cli.json("keys", "list") if row["name"] == "laptop")
    assert row["revoked_at"] is not None


def test_a_key_can_go_into_a_file_once(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "key"
    made = cli("keys", "create", "compose", "--role", "admin", "--to", file)
    assert (made.returncode, made.stdout) == (Exit.OK, "")
    key = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = cli("keys", "create", "compose", "--role", "admin", "--to", file)
    assert again.returncode == Exit.OK
    assert file.read_text() == key
    cli("keys", "revoke", "compose")


def test_listening_wider_needs_a_key(cli: Cli) -> None:
    done = cli("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == Exit.FAILED
    assert "resight keys create" in done.stderr


def test_serve_answers_and_ends_on_sigterm(cli: Cli, photos: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [RESIGHT, "serve", "--port", str(port)],
        env=clean_environment() | {"RESIGHT_DATA_DIR": str(cli.data_dir)},
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        with (photos / "Cleo" / "1.jpg").open("rb") as photo:
            answer = httpx.post(f"{url}/v1/identify", files={"file": photo}, timeout=30).json()
        assert "matches" in answer
        taken = cli("serve", "--port", port)
        assert (taken.returncode, "is taken" in taken.stderr) == (Exit.FAILED, True)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)


def test_models_and_gate_are_shown(cli: Cli) -> None:
    listed = cli.json("models", "list")
    assert "starter" in [one["name"] for one in listed["installed"]]
    assert "effb4-arcface-v1" in listed["known"]
    shown = cli.json("models", "show", "starter")
    assert shown["licence"] == "Apache-2.0"
    assert cli.json("models", "verify", "starter") == {"starter": []}
    missing = cli("models", "show", "nothing")
    assert (missing.returncode, "resight models pull" in missing.stderr) == (Exit.FAILED, True)
    gate = cli.json("gate", "show")
    assert (len(gate["positive"]), len(gate["negative"])) == (10, 14)
    assert gate["installed"] is False


def test_the_gate_is_not_calibrated_without_its_weights(cli: Cli, photos: Path) -> None:
    manifest = photos / "manifest.csv"
    manifest.write_text("path,label\nAda/0.jpg,positive\n")
    done = cli("gate", "calibrate", "--data", manifest)
    manifest.unlink()
    assert done.returncode == Exit.FAILED
    assert "The gate is not installed" in done.stderr


def test_the_database_says_how_it_is(cli: Cli) -> None:
    status = cli.json("db", "status")
    assert status["up_to_date"] is True
    assert cli("db", "upgrade").returncode == Exit.OK


def test_version_names_what_it_stands_on(cli: Cli) -> None:
    versions = cli.json("version")
    assert {"resight", "python", "openvino", "faiss-cpu"} <= set(versions)


def test_the_embedded_database_can_be_stopped_and_comes_back(cli: Cli) -> None:
    assert "Stopped" in cli("db", "stop").stderr
    assert "not running" in cli("db", "stop").stderr
    assert cli("individuals", "list", "--json").returncode == Exit.OK
