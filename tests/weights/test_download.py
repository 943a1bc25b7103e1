"""Downloads from a local server, with all that may go wrong."""

import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from support.common import AS_A_USER, files_below, locked_by_another
from support.release import (
    INDEX,
    ROOT,
    archive_of,
    cut,
    model_files,
    page,
    redirect,
    serving,
    slow,
    stalled,
    status,
    text,
    use,
)

from spleeter_2.config.loading import UPSTREAM_PREFIX, embedded_models, load_configuration
from spleeter_2.errors import ModelError
from spleeter_2.weights import download
from spleeter_2.weights.download import find_or_fetch

ARCHIVE = "4stems.tar.gz"
FILES = model_files()
COMPLETE = sorted(f"4stems/{name}" for name in [*FILES, ".probe"])


@pytest.fixture
def models(tmp_path) -> Path:
    """The folder of all models, missing at first."""
    return tmp_path / "models"


@pytest.fixture
def release(monkeypatch, models):
    with serving() as found:
        found.add("4stems")
        use(found, monkeypatch, models)
        yield found


def refused(words: str, name: str = "4stems") -> str:
    """The one sentence of a refusal, which matches a pattern."""
    with pytest.raises(ModelError) as error:
        find_or_fetch(name)
    message = str(error.value)
    assert re.search(words, message) and "\n" not in message, message
    return message


def left(models: Path) -> list[str]:
    """Files below the folder of models, but for the lock's."""
    return [name for name in files_below(models) if name != ".lock"]


def test_a_model_is_fetched_once(release, models, caplog):
    caplog.set_level("INFO", "spleeter_2")
    folder = find_or_fetch("4stems")
    assert folder == models / "4stems" and left(models) == COMPLETE
    for name, data in FILES.items():
        assert (folder / name).read_bytes() == data
    assert (folder / ".probe").read_text() == "OK"
    assert caplog.messages == [
        f"fetching the model 4stems (0.3 MB) from 127.0.0.1 into {models}/4stems"
    ]
    assert find_or_fetch("4stems") == folder
    assert release.requests == [(INDEX, None), (ARCHIVE, None)]


def test_progress(release):
    release.answers[ARCHIVE] = slow(ARCHIVE, 0.01)
    seen = []
    find_or_fetch("4stems", lambda *progress: seen.append(progress))
    size = len(release.files[ARCHIVE])
    counts = [count for count, _ in seen]
    assert counts == sorted(counts) and counts[-1] == size and len(counts) >= 8
    assert {total for _, total in seen} == {None}  # chunked
    seen.clear()
    release.answers.clear()
    release.add("2stems")
    find_or_fetch("2stems", lambda *progress: seen.append(progress))
    assert seen[-1] == (size, size)


def test_another_release(release, models, monkeypatch):
    monkeypatch.setenv("GITHUB_HOST", release.host + "/mirror/")
    monkeypatch.setenv("GITHUB_REPOSITORY", "some/fork")
    monkeypatch.setenv("GITHUB_RELEASE", "v9")
    message = refused("there is no .* .HTTP 404.; put its files into .*, or name .* MODEL_PATH")
    assert f" {release.host}/mirror/some/fork/releases/download/v9/{INDEX} " in message
    assert message.startswith("cannot fetch the model 4stems from 127.0.0.1: ")
    monkeypatch.setenv("GITHUB_REPOSITORY", "deezer/spleeter")
    monkeypatch.setenv("GITHUB_RELEASE", "v1.4.0")
    find_or_fetch("4stems")
    assert left(models) == COMPLETE


@pytest.mark.parametrize("host", ["github.com", "file:///etc", "http://[", "https://"])
def test_a_host_that_is_no_address(release, monkeypatch, host):
    monkeypatch.setenv("GITHUB_HOST", host)
    refused("GITHUB_HOST must be an address such as https://github.com")


def test_the_users_cache(release, tmp_path, monkeypatch):
    monkeypatch.delenv("MODEL_PATH")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained_models/4stems").mkdir(parents=True)  # upstream was interrupted
    folder = find_or_fetch("4stems")
    assert folder == tmp_path / "cache/spleeter-2/models/4stems"
    assert left(folder.parent) == COMPLETE and files_below(tmp_path / "pretrained_models") == []


def test_an_empty_folder_is_filled(release, models):
    (models / "4stems").mkdir(parents=True)
    find_or_fetch("4stems")
    assert left(models) == COMPLETE


def test_a_half_folder_is_not_fetched_over(release, models):
    (models / "4stems").mkdir(parents=True)
    (models / "4stems/checkpoint").write_bytes(FILES["checkpoint"])
    refused("is incomplete: put model.index there, or delete the folder, and one of Spleeter's ")
    assert release.requests == []


# --- faults of the connection ---


def test_no_server(release, monkeypatch, models):
    monkeypatch.setenv("GITHUB_HOST", "http://127.0.0.1:9")
    refused(f"from 127.0.0.1: Connection refused; put its files into {models}/4stems, or")
    monkeypatch.setenv("GITHUB_HOST", "https://nowhere.invalid")
    refused("from nowhere.invalid: its name cannot be resolved, is there a network")
    assert left(models) == []


@pytest.mark.parametrize("name", [INDEX, ARCHIVE])
@pytest.mark.parametrize(
    "answer, words",
    [
        (status(404), r"there is no http://.* \(HTTP 404\)"),
        (status(503), r"the server has an error, try again later \(HTTP 503\)"),
        (status(403), r"is refused \(HTTP 403\)"),
        (page, "an HTML page, perhaps of a proxy or a login, from 127.0.0.1 came in place of"),
        (text(b"rubbish"), "something else from 127.0.0.1 came in place of"),
        (text(b""), "came in place of"),
        (lambda handler: None, "the connection ended"),
        (
            lambda handler: handler.wfile.write(b"rubbish\r\n"),
            "is not understood .rubbish.;",
        ),
        (redirect(ROOT + INDEX + "/.."), "HTTP 404"),
        (
            redirect("file:///etc/passwd"),
            r"redirects in a loop or to another protocol \(HTTP 302\)",
        ),
        (redirect("http://["), "the answer is not understood .Invalid IPv6 URL"),
    ],
)
def test_a_wrong_answer(release, models, name, answer, words):
    release.answers[name] = answer
    refused(words)
    assert left(models) == []


def test_a_loop_of_redirects(release, models):
    release.answers[ARCHIVE] = redirect(ROOT + ARCHIVE)
    refused(r"it redirects in a loop or to another protocol \(HTTP 302\)")
    assert left(models) == []


def test_a_redirect_to_another_host(release, models):
    with serving() as other:
        other.add("4stems")
        release.answers[ARCHIVE] = redirect(other.host + ROOT + ARCHIVE)
        find_or_fetch("4stems")
    assert left(models) == COMPLETE and other.requests == [(ARCHIVE, None)]


def test_a_redirect_to_a_host_that_cannot_be_reached(release, models):
    release.answers[ARCHIVE] = redirect("http://nowhere.invalid/x")
    refused("from 127.0.0.1: redirected to nowhere.invalid: its name cannot be resolved")
    assert left(models) == []


def test_a_proxy(release, models, monkeypatch):
    monkeypatch.setenv("http_proxy", release.host)
    monkeypatch.setenv("GITHUB_HOST", "http://nowhere.invalid")
    find_or_fetch("4stems")
    assert left(models) == COMPLETE
    monkeypatch.setenv("https_proxy", release.host)  # which has no CONNECT
    monkeypatch.setenv("GITHUB_HOST", "https://nowhere.invalid")
    release.add("2stems")
    refused("from nowhere.invalid: Tunnel connection failed: 501", "2stems")


@pytest.mark.parametrize(
    "index, words",
    [
        (b"[1]", "checksum.json is not an index of check sums"),
        (b'{"a\\nb": 1, "2stems": 2}', "release v1.4.0 has no model 4stems, only 2stems;"),
        (b'{"4stems": 1}', "checksum.json has no SHA-256 sum of 4stems"),
        (b'{"4stems": "../x"}', "checksum.json has no SHA-256 sum of 4stems"),
        (b"[" * 60_000, "came in place of checksum.json"),
        (b" " * 1_000_000 + b"{}", "checksum.json is larger than 1.0 MB"),
        (b"\xff", "came in place of checksum.json"),
    ],
)
def test_a_wrong_index(release, models, index, words):
    release.files[INDEX] = index
    refused(words)
    assert left(models) == []


def test_an_unknown_name(release, models):
    release.add("2stems")
    refused("release v1.4.0 has no model musdb_model, only 2stems, 4stems", "musdb_model")
    refused("release v1.4.0 has no model ..%2fx", "..%2fx")


# --- resuming ---


def test_a_cut_archive_is_resumed(release, models, caplog):
    caplog.set_level("INFO", "spleeter_2")
    release.answers[ARCHIVE] = cut(ARCHIVE, 200_000)
    refused("the connection ended after 0.2 of 0.3 MB; run again to resume, or put its files into")
    (part,) = left(models)
    assert re.fullmatch(r"\.4stems\.[0-9a-f]{16}\.part", part)
    assert (models / part).read_bytes() == release.files[ARCHIVE][:200_000]
    release.answers.clear()
    find_or_fetch("4stems")
    assert left(models) == COMPLETE
    assert release.requests[-1] == (ARCHIVE, "bytes=200000-")
    assert "(0.3 MB, 0.2 MB are there)" in caplog.messages[-1]


def test_begun_anew_where_the_server_cannot_resume(release, models):
    release.resumes = False
    release.answers[ARCHIVE] = cut(ARCHIVE, 200_000)
    refused("run again to resume")
    release.answers.clear()
    find_or_fetch("4stems")
    assert left(models) == COMPLETE


def test_an_error_page_does_not_cost_what_is_there(release, models):
    release.answers[ARCHIVE] = cut(ARCHIVE, 200_000)
    refused("run again to resume")
    release.answers[ARCHIVE] = page
    refused("an HTML page.* run again to resume")
    assert (models / left(models)[0]).stat().st_size == 200_000


def keep(release, models: Path, data: bytes) -> None:
    """Leave a part as an interrupted download does, with other bytes."""
    release.answers[ARCHIVE] = cut(ARCHIVE, 1000)
    refused("run again to resume")
    (models / left(models)[0]).write_bytes(data)
    release.answers.clear()
    release.requests.clear()


def test_a_damaged_part_is_begun_anew(release, models):
    keep(release, models, bytes(5000))
    find_or_fetch("4stems")
    assert left(models) == COMPLETE
    assert release.requests == [(INDEX, None), (ARCHIVE, "bytes=5000-"), (ARCHIVE, None)]


def test_a_part_that_is_too_long_is_begun_anew(release, models):
    size = len(release.files[ARCHIVE])
    keep(release, models, bytes(size))
    find_or_fetch("4stems")
    assert left(models) == COMPLETE
    assert release.requests == [(INDEX, None), (ARCHIVE, f"bytes={size}-"), (ARCHIVE, None)]


def test_a_part_of_another_release_is_removed(release, models):
    keep(release, models, bytes(5000))
    release.add("4stems", archive_of(model_files(1000)))
    find_or_fetch("4stems")
    assert left(models) == COMPLETE and release.requests == [(INDEX, None), (ARCHIVE, None)]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-9/10"},
        {"Content-Range": "bytes 5000-4999/5000", "Content-Length": "0"},
    ],
    ids=["wrong", "empty"],
)
def test_a_wrong_or_empty_range_is_begun_anew(release, models, headers):
    # an empty one follows bytes of another archive, a wrong one bytes of this one
    kept = bytes(5000) if "Content-Length" in headers else release.files[ARCHIVE][:5000]
    keep(release, models, kept)

    def answer(handler):
        handler.send_response(206)
        for header in headers.items():
            handler.send_header(*header)
        handler.end_headers()
        release.answers.clear()

    release.answers[ARCHIVE] = answer
    find_or_fetch("4stems")
    assert left(models) == COMPLETE


def test_a_chunked_archive_that_is_cut(release, models):
    def answer(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"fff\r\n\x1f\x8babc")
        handler.close_connection = True

    release.answers[ARCHIVE] = answer
    refused("the connection ended after 0.0 MB; run again to resume")


@pytest.mark.parametrize("name", [INDEX, ARCHIVE])
def test_a_stalled_server(release, models, monkeypatch, name):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    release.answers[name] = stalled(name, 20)
    refused("no answer for 0.3 s" + (" after 0.0 of 0.3 MB" if name == ARCHIVE else ""))


def test_a_slow_server_is_no_stalled_one(release, models, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    release.answers[ARCHIVE] = slow(ARCHIVE, 0.3)
    began = time.monotonic()
    find_or_fetch("4stems")
    assert time.monotonic() - began > 2.0 and left(models) == COMPLETE


def test_an_interrupt(release, models, caplog):
    caplog.set_level("INFO", "spleeter_2")

    def interrupt(nb_received, size):
        if nb_received > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_or_fetch("4stems", interrupt)
    (part,) = left(models)
    assert (models / part).read_bytes() == release.files[ARCHIVE][: (models / part).stat().st_size]
    assert re.fullmatch("0.[12] MB are kept: the next download resumes", caplog.messages[-1])
    find_or_fetch("4stems")
    assert left(models) == COMPLETE and release.requests[-1][1]


# --- the archive ---


def test_a_wrong_sum(release, models):
    data = bytearray(release.files[ARCHIVE])
    data[len(data) // 2] ^= 1
    release.files[ARCHIVE] = bytes(data)
    message = refused("the archive's SHA-256 sum is not the one in checksum.json")
    assert "resume" not in message and left(models) == []
    assert release.requests == [(INDEX, None), (ARCHIVE, None)]


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


@pytest.mark.parametrize(
    "odd",
    [
        member("../x"),
        member("a/../../x"),
        member("/tmp/x"),
        member("a//x"),
        member("..", tarfile.DIRTYPE),
        member("/", tarfile.DIRTYPE),
        member("C:x"),
        member("a\\..\\x"),
        member("a\nb"),
        member("x", tarfile.SYMTYPE, "/etc/passwd"),
        member("x", tarfile.LNKTYPE, "./checkpoint"),
        member("x", tarfile.FIFOTYPE),
        member("x", tarfile.CHRTYPE),
        member("x", tarfile.BLKTYPE),
        member("."),
    ],
    ids=lambda odd: f"{odd.name!r} {odd.type.decode()}",
)
def test_what_is_no_file_of_a_model(release, models, odd):
    release.add("4stems", archive_of(FILES, odd))
    refused("the archive has .*, which is no file of a model")
    assert left(models) == [] and sorted(models.parent.iterdir()) == [models]


@pytest.mark.parametrize(
    "archive, words",
    [
        (archive_of(FILES)[:-2000], "the archive is damaged"),
        (b"\x1f\x8brubbish", "the archive is damaged"),
        (archive_of({}), "the archive is no model: it lacks checkpoint"),
        (archive_of({**FILES, "checkpoint": b""}), "no model: its file checkpoint is damaged"),
        (archive_of(FILES, member("model.index")), "the archive has 'model.index' twice"),
        (
            archive_of({name: FILES[name] for name in ("checkpoint", "model.index")}),
            "it lacks model.data-00000-of-00001",
        ),
        (
            archive_of(FILES, *(member(f"{number}") for number in range(1001))),
            "the archive has too many or too large files",
        ),
    ],
    ids=["cut", "rubbish", "empty", "no name", "twice", "no weights", "many"],
)
def test_a_wrong_archive(release, models, archive, words):
    release.add("4stems", archive)
    refused(words)
    assert left(models) == []


def test_an_archive_that_is_too_large(release, models, monkeypatch):
    release.add("4stems", archive_of({**FILES, "zeros": bytes(5_000_000)}))
    monkeypatch.setattr(download, "MOST_BYTES", 4_000_000)
    refused("the archive has too many or too large files")
    assert left(models) == []
    monkeypatch.setattr(download, "MOST_BYTES", 100_000)
    assert "resume" not in refused("more than 0.0 GB came")
    assert left(models) == []


def test_folders_and_attributes_of_macos(release, models):
    folder = member("./eval", tarfile.DIRTYPE)
    release.add("4stems", archive_of({"._checkpoint": b"x", **FILES, "eval/events": b"y"}, folder))
    find_or_fetch("4stems")
    assert left(models) == sorted([*COMPLETE, "4stems/eval/events"])


# --- the disk ---


def test_a_full_disk(release, models, file_size_limit):
    file_size_limit(100_000)
    refused("cannot write .*: File too large; MODEL_PATH can name another folder for models")
    assert left(models) == []


def test_a_full_disk_while_unpacking(release, models, file_size_limit):
    release.add("4stems", archive_of({**FILES, "zeros": bytes(500_000)}))
    file_size_limit(400_000)
    refused("cannot write .*/4stems: File too large; MODEL_PATH can name another folder for models")
    assert left(models) == []


def test_a_folder_that_cannot_be_made(release, monkeypatch):
    monkeypatch.setenv("MODEL_PATH", "/proc/nowhere")
    refused("cannot write /proc/nowhere: No such file or directory; MODEL_PATH can name another")
    assert release.requests == []


# --- other processes ---

CHILD = """
import logging, sys
from spleeter_2.weights import download
logging.basicConfig(level="INFO", format="%(message)s")
{more}
try:
    print(download.find_or_fetch("4stems"))
except download.ModelError as error:
    print(error)
"""


def child(more: str = "", *before: str) -> subprocess.Popen:
    command = [*before, sys.executable, "-c", CHILD.format(more=more)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes)


def wait_until(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_killed_while_it_receives(release, models):
    release.answers[ARCHIVE] = stalled(ARCHIVE, 250_000)
    running = child()

    def has_part() -> bool:
        return models.is_dir() and any(
            path.stat().st_size > 100_000 for path in models.glob(".4stems.*.part")
        )

    wait_until(has_part)
    running.kill()
    running.communicate()
    assert not (models / "4stems").exists()
    release.answers.clear()
    find_or_fetch("4stems")
    assert left(models) == COMPLETE and release.requests[-1][1]


def test_killed_while_it_unpacks(release, models):
    kill = """
import os
def unpack(archive, folder):
    (folder / "checkpoint").write_bytes(b"half")
    os.kill(os.getpid(), 9)
download.unpack = unpack
"""
    running = child(kill)
    running.communicate()
    assert running.returncode == -signal.SIGKILL and not (models / "4stems").exists()
    release.requests.clear()
    find_or_fetch("4stems")
    assert left(models) == COMPLETE and release.requests == [(INDEX, None)]


def test_two_processes(release, models):
    release.answers[ARCHIVE] = slow(ARCHIVE, 0.3)
    processes = [child(), child()]
    messages = ""
    for running in processes:
        output, log = running.communicate(timeout=60)
        assert output == f"{models}/4stems\n", log
        messages += log
    assert release.requests == [(INDEX, None), (ARCHIVE, None)] and left(models) == COMPLETE
    assert f"another process is fetching a model into {models}: waiting for its end" in messages


def test_what_another_process_has_fetched_is_used(release, models, monkeypatch):
    models.mkdir()
    with locked_by_another(models):
        running = child()
        wait_until(lambda: "waiting" in running.stderr.readline())
        (models / "4stems").mkdir()
        for name, data in FILES.items():
            (models / "4stems" / name).write_bytes(data)
    output, _ = running.communicate(timeout=60)
    assert output == f"{models}/4stems\n" and release.requests == []


def test_a_folder_that_may_only_be_read(release, models):
    models.mkdir()
    models.chmod(0o555)
    output, _ = child("", *AS_A_USER).communicate(timeout=60)
    assert output == (
        f"cannot write {models}: Permission denied; MODEL_PATH can name another folder for models\n"
    )
    models.chmod(0o755)
    find_or_fetch("4stems")
    models.chmod(0o555)
    output, _ = child("", *AS_A_USER).communicate(timeout=60)
    assert output == f"{models}/4stems\n"
    models.chmod(0o755)


# --- encryption ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A key and a certificate of 127.0.0.1 in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", path.with_suffix(".key"), "-out", path.with_suffix(".crt")]
    try:
        subprocess.run([*command, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl: apt-get install openssl")
    path.write_bytes(b"".join(path.with_suffix(end).read_bytes() for end in (".key", ".crt")))
    return path


def test_encryption_is_kept(release, models, monkeypatch, certificate):
    with serving(certificate) as encrypted:
        encrypted.add("4stems")
        monkeypatch.setenv("GITHUB_HOST", encrypted.host)
        refused("its certificate is not trusted .*, SSL_CERT_FILE can name the certificates")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        encrypted.answers[ARCHIVE] = redirect(release.host + ROOT + ARCHIVE)
        refused("it redirects to http://127.0.0.1, which is not encrypted")
        assert left(models) == [] and release.requests == []
        # http by the user's own choice: to https and back is allowed
        monkeypatch.setenv("GITHUB_HOST", release.host)
        release.answers[INDEX] = redirect(encrypted.host + ROOT + INDEX)
        encrypted.answers[INDEX] = redirect(release.host + ROOT + "other.json")
        release.files["other.json"] = release.files[INDEX]
        find_or_fetch("4stems")
        assert left(models) == COMPLETE
        monkeypatch.setenv("GITHUB_HOST", encrypted.host)
        encrypted.answers.clear()
        encrypted.add("2stems")
        find_or_fetch("2stems")


# --- upstream ---


FETCH = """
import os
from spleeter.model.provider import ModelProvider
os.environ["GITHUB_HOST"] = host
for name in ("GITHUB_REPOSITORY", "GITHUB_RELEASE", *os.environ):
    if name.startswith("GITHUB_R") or name.lower().endswith("_proxy"):
        os.environ.pop(name, None)
ModelProvider.DEFAULT_MODEL_PATH = models
result = ModelProvider.default().get("4stems")
"""
FACTS = """
import importlib.resources, json
from spleeter.model.provider.github import GithubModelProvider as P
files = importlib.resources.files("spleeter.resources").iterdir()
result = {
    "defaults": [P.DEFAULT_HOST, P.DEFAULT_REPOSITORY, P.LATEST_RELEASE],
    "index": P.CHECKSUM_INDEX,
    "folders": {
        path.name.removesuffix(".json"): json.loads(path.read_text())["model_dir"]
        for path in files if path.name.endswith(".json")
    },
}
"""


def test_upstream_fetches_the_same_and_finds_ours(release, models, tmp_path, upstream):
    find_or_fetch("4stems")
    ours = list(release.requests)
    release.requests.clear()
    found = upstream.run(FETCH, host=release.host, models=str(models))
    assert found == str(models / "4stems") and release.requests == []
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    upstream.run(FETCH, host=release.host, models=str(theirs))
    assert sorted(release.requests) == sorted(ours)
    assert files_below(theirs) == left(models)
    for name in COMPLETE:
        assert (theirs / name).read_bytes() == (models / name).read_bytes()


def test_the_defaults_and_names_are_upstreams(upstream):
    facts = upstream.run(FACTS)
    assert list(download.DEFAULTS.values()) == facts["defaults"]
    assert download.INDEX == facts["index"]
    assert facts["folders"].pop("musdb") == "musdb_model"  # never released
    ours = [name for name in embedded_models() if name.startswith(UPSTREAM_PREFIX)]
    assert facts["folders"] == {
        name.removeprefix(UPSTREAM_PREFIX): load_configuration(name).model_dir for name in ours
    }
