import io
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.common import AS_A_USER, RATE, files_below

STEMS = ["accompaniment.wav", "vocals.wav"]


def process(*arguments: object, **options) -> subprocess.Popen:
    """The command in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "spleeter_2", *map(str, arguments)], **pipes)


def test_upstreams_adapter_by_name_is_no_fault(spleeter, song, tmp_path):
    adapter = "spleeter.audio.ffmpeg.FFMPEGProcessAudioAdapter"
    status, messages = spleeter("separate", "-a", adapter, "-d", 1, "-o", tmp_path, song)
    assert status == 0, messages
    assert files_below(tmp_path) == [f"song/{name}" for name in STEMS]


def test_separate_a_song(spleeter, song, tmp_path):
    status, messages = spleeter("separate", "-p", "spleeter_2:grouped", "-o", tmp_path, song)
    assert status == 0, messages
    assert files_below(tmp_path) == [f"song/{name}" for name in STEMS]
    source, rate = soundfile.read(song)
    stems = [soundfile.read(tmp_path / "song" / name) for name in STEMS]
    assert all(stem.shape == source.shape and fs == rate for stem, fs in stems)
    assert np.abs(sum(stem for stem, _ in stems) - source).max() < 2**-14
    assert f"wrote {tmp_path}/song/vocals.wav" in messages


def test_help_version_and_models_import_no_tensorflow():
    program = (
        "import sys\n"
        "from spleeter_2.cli.main import entrypoint\n"
        "sys.argv = ['spleeter', *sys.argv[1:]]\n"
        "try: entrypoint()\n"
        "finally: print('tensorflow' in sys.modules)\n"
    )
    for arguments, words in (
        (["--help"], "separate"),
        (["separate", "--help"], "--skip-existing"),
        (["export", "--help"], "--format"),
        (["--version"], f"tensorflow {version('tensorflow')}"),
        (["models"], "spleeter_2:grouped"),
        (["models", "grouped"], "# spleeter_2:grouped"),
    ):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
        output = done.stdout.decode()
        assert done.returncode == 0 and words in output, done.stderr
        assert output.strip().endswith("False")


def test_cards(spleeter):
    status, messages = spleeter("models", "nothing")
    assert status == 1 and "known models" in messages
    for name, title in (
        ("mask", "spleeter_2:mask"),
        ("spleeter_2:grouped", "spleeter_2:grouped"),
        ("spleeter:5stems-16kHz", "Spleeter's models"),
    ):
        status, messages = spleeter("models", name)
        assert status == 0 and messages.startswith(f"# {title}\n")


@pytest.mark.parametrize("rate, channels", [(8000, 1), (96000, 2), (192000, 2), (44100, 6)])
def test_any_format(spleeter, mixture, tmp_path, rate, channels):
    waveform = np.repeat(0.1 * mixture[:rate, :1], channels, axis=1)
    soundfile.write(tmp_path / "x.wav", waveform, rate)
    status, messages = spleeter("separate", "-o", tmp_path / "out", tmp_path / "x.wav")
    assert status == 0, messages
    info = soundfile.info(tmp_path / "out/x/vocals.wav")
    assert info.samplerate == rate and info.frames == len(waveform)
    assert info.channels == min(channels, 2)
    assert ("mixed down to stereo" in messages) == (channels == 6)


@pytest.mark.parametrize("codec", ["flac", "mp3", "ogg", "m4a", "wma"])
def test_codecs_keep_the_length_and_the_title(spleeter, song, tmp_path, codec):
    from spleeter_2.audio.codecs import Encoding
    from spleeter_2.audio.reader import AudioReader
    from spleeter_2.audio.writer import AudioWriter

    with (
        AudioReader(song) as reader,
        AudioWriter(
            tmp_path / "tagged.flac",
            RATE,
            2,
            Encoding("flac"),
            tags={"title": "Lied", "artist": "Wir"},
        ) as writer,
    ):
        for block in reader.blocks():
            writer.write(block)
        writer.finish()
        writer.publish()
    source = tmp_path / "tagged.flac"
    status, messages = spleeter("separate", "-c", codec, "-o", tmp_path / "out", source)
    assert status == 0, messages
    with AudioReader(tmp_path / f"out/tagged/vocals.{codec}") as reader:
        assert reader.tags == {"title": "Lied", "artist": "Wir"}
        length = sum(map(len, reader.blocks()))
    assert abs(length - 2 * RATE) <= (4096 if codec in ("m4a", "wma") else 0)


def test_options_of_the_output(spleeter, song, tmp_path):
    options = ["--stems", "vocals", "--bits", "24", "--sample_rate", 22050, "-s", 0.5, "-d", 1]
    status, messages = spleeter(
        "separate", *options, "-f", "{instrument}-{filename}.{codec}", "-o", tmp_path, song
    )
    assert status == 0, messages
    assert files_below(tmp_path) == ["vocals-song.wav"]
    info = soundfile.info(tmp_path / "vocals-song.wav")
    assert (info.samplerate, info.frames, info.subtype) == (22050, 22050, "PCM_24")


def test_clipping_is_reported(spleeter, mixture, tmp_path):
    assert np.abs(mixture).max() > 2
    soundfile.write(tmp_path / "x.wav", mixture, RATE, subtype="FLOAT")
    status, messages = spleeter("separate", "-o", tmp_path / "out", tmp_path / "x.wav")
    assert status == 0 and "beyond full scale were clipped" in messages
    status, messages = spleeter(
        "separate", "--bits", "32f", "-o", tmp_path / "out", tmp_path / "x.wav"
    )
    assert status == 0 and "full scale" not in messages
    assert np.abs(soundfile.read(tmp_path / "out/x/accompaniment.wav")[0]).max() > 1


def test_a_folder_with_a_bad_song(spleeter, song, tmp_path):
    music = tmp_path / "music"
    (music / "live").mkdir(parents=True)
    (music / "live" / "good one.wav").write_bytes(song.read_bytes())
    (music / "a-bad.mp3").write_bytes(b"no audio")
    status, messages = spleeter("separate", "-o", tmp_path / "out", music)
    assert status == 1
    assert "a-bad.mp3 is not audio" in messages and "1 of 2 songs failed" in messages
    assert files_below(tmp_path / "out") == [f"live/good one/{name}" for name in STEMS]


def test_skip_existing(spleeter, song, tmp_path):
    other = tmp_path / "other.wav"
    other.write_bytes(song.read_bytes())
    assert spleeter("separate", "-o", tmp_path / "out", song)[0] == 0
    stem = tmp_path / "out/song/vocals.wav"
    mine = np.zeros((2 * RATE, 2), np.int16)  # of the song's length
    soundfile.write(stem, mine, RATE)
    status, messages = spleeter("separate", "--skip-existing", "-o", tmp_path / "out", song, other)
    assert status == 0 and "1 song(s) skipped" in messages and "again" not in messages
    assert not soundfile.read(stem)[0].any() and (tmp_path / "out/other/vocals.wav").exists()


@pytest.mark.parametrize("codec", ["wav", "flac", "mp3", "ogg", "m4a", "wma"])
def test_skip_existing_skips_what_was_written_and_nothing_else(spleeter, song, tmp_path, codec):
    source = tmp_path / "x.mp3"
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", song, source], check=True)
    options = ["-c", codec, "-s", 0.3, "-d", 1.5, "-o", tmp_path / "out", source]
    stem = tmp_path / f"out/x/vocals.{codec}"
    assert spleeter("separate", *options)[0] == 0
    whole = stem.read_bytes()
    assert "1 song(s) skipped" in spleeter("separate", "--skip-existing", *options)[1]
    longer = options[:2] + options[6:]
    for content, words, arguments in (
        (b"", f"{stem} is an empty file", options),
        (b"mine", f"{stem} is not audio that ffmpeg can read", options),
        (whole[: len(whole) // 2], str(stem), options),
        (None, f"there is no file {stem}", options),
        (whole, "s, not 2.0", longer),
    ):
        stem.unlink() if content is None else stem.write_bytes(content)
        status, messages = spleeter("separate", "--skip-existing", *arguments)
        assert status == 0 and f"{source} is separated again: " in messages
        assert words in messages and "skipped" not in messages
    assert "1 song(s) skipped" in spleeter("separate", "--skip-existing", *longer)[1]


def test_skip_existing_finds_a_wav_that_lacks_a_few_samples(spleeter, song, tmp_path):
    options = ["--skip-existing", "-o", tmp_path, song]
    assert spleeter("separate", *options)[0] == 0
    stem = tmp_path / "song/vocals.wav"
    stem.write_bytes(stem.read_bytes()[:-400])
    assert f"{song} is separated again: {stem} lasts" in spleeter("separate", *options)[1]
    assert len(soundfile.read(stem)[0]) == 2 * RATE


def test_skip_existing_compares_the_stems_that_are_asked_for(spleeter, song, tmp_path):
    options = ["--skip-existing", "-o", tmp_path, song]
    assert spleeter("separate", "--stems", "vocals", *options)[0] == 0
    for more in (["--stems", "vocals"], ["--stems", "vocals", "--bits", 24]):
        assert "1 song(s) skipped" in spleeter("separate", *more, *options)[1]
    for rate in (22050, 48000):
        more = ["--stems", "vocals", "--sample_rate", rate]
        assert "1 song(s) skipped" in spleeter("separate", *more, *options)[1]
    assert "accompaniment.wav" in spleeter("separate", *options)[1]


def test_skip_existing_never_skips_standard_input(tiny, song, tmp_path):
    arguments = ["separate", "-p", tiny, "--skip-existing", "-o", tmp_path, "-"]
    for _ in range(2):
        with song.open("rb") as stream:
            running = process(*arguments, stdin=stream)
            _, messages = running.communicate()
        assert running.returncode == 0 and b"wrote" in messages and b"skipped" not in messages


def test_a_song_that_cannot_be_read_is_an_error_also_with_skip_existing(spleeter, song, tmp_path):
    assert spleeter("separate", "-o", tmp_path / "out", song)[0] == 0
    bad = tmp_path / "song.wav"
    bad.write_bytes(b"no audio")
    options = ["--skip-existing", "-o", tmp_path / "out", bad]
    status, messages = spleeter("separate", *options)
    assert status == 1 and messages.count("song.wav is not audio") == 1
    assert files_below(tmp_path / "out") == [f"song/{name}" for name in STEMS]


@pytest.fixture
def album(song, tmp_path):
    """Two songs, one of them in a folder of its own."""
    for name in ("x.wav", "live/y.wav"):
        (tmp_path / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "album" / name).write_bytes(song.read_bytes())
    return tmp_path / "album"


def written(messages: str, folder: Path) -> list[str]:
    """Paths in a folder that a run has reported as written."""
    paths = [line.partition("wrote ")[2] for line in messages.splitlines() if "wrote " in line]
    return sorted(os.path.relpath(path, folder) for path in paths)


@pytest.mark.parametrize(
    "output, template",
    [
        ("album/stems", "{filename}/{instrument}.{codec}"),
        ("album", "{filename}/{instrument}.{codec}"),
        ("album", "{instrument} of {filename}.{codec}"),
        ("album/live", "{foldername}/{filename}-{instrument}.{codec}"),
    ],
)
def test_stems_inside_the_input_folder_are_no_songs(spleeter, album, tmp_path, output, template):
    options = ["-f", template, "--stems", "vocals", "-o", tmp_path / output]
    if output == "album/live":
        (album / "live" / "y.wav").rename(album / "y.wav")
    status, messages = spleeter("separate", *options, album)
    first = written(messages, tmp_path)
    assert status == 0 and len(first) == 2 and "left out" not in messages
    for given in (album, f"{album}/**/*.wav"):
        if given != album and output == "album":
            options = ["-f", template, "--stems", "vocals", "-o", tmp_path / "flat"]
        status, messages = spleeter("separate", *options, given)
        assert status == 0 and "note: 2 file(s) in" in messages, messages
        assert len(written(messages, tmp_path)) == 2
    (album / "new.wav").write_bytes((album / "x.wav").read_bytes())
    options[-1] = tmp_path / output
    status, messages = spleeter("separate", "--skip-existing", *options, album)
    assert status == 0 and "2 song(s) skipped" in messages and "left out" in messages
    (name,) = written(messages, tmp_path)
    assert "new" in name and "vocals" in name


@pytest.mark.parametrize("codec", ["wav", "flac", "mp3", "ogg", "m4a", "wma"])
def test_stems_are_recognised_in_any_folder_under_any_name(spleeter, album, tmp_path, codec):
    status, messages = spleeter("separate", "-c", codec, "-o", album / "stems", album / "x.wav")
    assert status == 0, messages
    (album / "stems" / "x").rename(album / "moved")
    (album / "moved" / f"vocals.{codec}").rename(album / f"a name.{codec}")
    status, messages = spleeter("separate", "-o", tmp_path / "out", album)
    assert status == 0 and "note: 2 file(s) in" in messages, messages
    assert files_below(tmp_path / "out") == sorted(
        f"{song}/{stem}" for song in ("x", "live/y") for stem in STEMS
    )
    status, messages = spleeter("separate", "-o", tmp_path / "out", album / "moved")
    assert status == 1 and "are left out: stems" in messages
    given = album / f"a name.{codec}"
    status, messages = spleeter("separate", "-o", tmp_path / "again", given)
    assert status == 0 and (tmp_path / "again/a name/vocals.wav").is_file()


def test_a_folder_that_cannot_be_searched_is_an_error_at_the_end(tiny, album, tmp_path):
    (album / "closed").mkdir(mode=0)

    def refused(output, *given):
        command = ["-m", "spleeter_2", "separate", "-p", tiny, "-o", tmp_path / output, *given]
        done = subprocess.run([*AS_A_USER, sys.executable, *command], capture_output=True)
        messages = done.stderr.decode()
        assert done.returncode == 1 and "Traceback" not in messages
        assert messages.count(f"error: cannot search the folder {album}/closed: Permission") == 1
        return messages

    try:
        refused("out", album, f"{album}/**/*.wav")
        assert len(files_below(tmp_path / "out")) == 4
        assert refused("none", album / "closed").strip().count("\n") == 0
        assert not (tmp_path / "none").exists()
    finally:
        (album / "closed").chmod(0o755)


def test_standard_input_and_output(tiny, song):
    with song.open("rb") as stream:
        running = process("separate", "-p", tiny, "--stems", "vocals", "-o", "-", "-", stdin=stream)
        output, messages = running.communicate()
    assert running.returncode == 0, messages
    stem, rate = soundfile.read(io.BytesIO(output))
    assert rate == RATE and abs(stem).max() > 0 and len(stem) == 2 * RATE


@pytest.mark.parametrize("name", ["-song.wav", "ü 'q' \"z\" {x} $HOME %d.wav", "a:b.wav"])
def test_names(spleeter, song, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(song.read_bytes())
    status, messages = spleeter("separate", "-o", "out", "-d", 1, "--", name)
    assert status == 0, messages
    assert files_below(tmp_path / "out") == [f"{name[:-4]}/{stem}" for stem in STEMS]


REFUSED = [
    (["nowhere.mp3"], "there is no file nowhere.mp3"),
    (["-p", "spleeter_2:nothing", "SONG"], "known models: spleeter_2:"),
    (["-p", "nowhere.json", "SONG"], "there is no configuration nowhere.json"),
    (["-p", "broken.json", "SONG"], "cannot read the configuration"),
    (["-p", "spleeter:9stems", "SONG"], "known models: spleeter:2stems"),
    (["-p", "half.json", "SONG"], "damaged or incomplete"),
    (["--stems", "drums", "SONG"], "accompaniment; not drums"),
    (["--stems", "", "SONG"], "accompaniment; not "),
    (["-f", "{x}", "SONG"], "the filename format has the fields"),
    (["-f", "../{instrument}", "SONG"], "no file inside"),
    (["-o", "broken.json", "SONG"], "Not a directory"),
    (["-o", "-", "SONG"], "name it with --stems"),
    (["-a", "my.Adapter", "SONG"], "there is no audio adapter my.Adapter: ModuleNotFoundError"),
    (["-a", "Adapter", "SONG"], "there is no audio adapter Adapter: "),
    (["-a", "json.JSONDecoder", "SONG"], "it has no method load"),
    (["--overlap", "0.8", "SONG"], "between 0 and 0.5"),
    (["--overlap", "nan", "SONG"], "between 0 and 0.5"),
    (["--device", "gpu:3", "SONG"], "there is no gpu:3"),
    (["-d", "0", "SONG"], "--duration must be positive"),
    (["-d", "nan", "SONG"], "--duration must be positive"),
    (["-s", "-1", "SONG"], "--offset must not be negative"),
    (["-s", "99", "SONG"], "ends before 99 s"),
    (["-c", "mp3", "--bits", "24", "SONG"], "mp3 cannot hold --bits 24"),
    (["-c", "flac", "--bits", "32f", "SONG"], "flac cannot hold --bits 32f"),
    (["-c", "mp3", "--sample_rate", "96000", "SONG"], "mp3 cannot hold 96000 Hz"),
    (["--sample_rate", "0", "SONG"], "sample_rate must be a whole number between"),
    (["-b", "loud", "SONG"], "--bitrate must be"),
]


@pytest.mark.parametrize("arguments, words", REFUSED)
def test_refused_with_one_sentence(spleeter, song, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "checkpoint.index").write_bytes(b"rubbish")
    (tmp_path / "half" / "checkpoint").write_text('model_checkpoint_path: "checkpoint"\n')
    (tmp_path / "half.json").write_text(
        '{"spleeter_2": 1, "base": "spleeter_2:mask", "weights": "half"}'
    )
    before = files_below(tmp_path)
    output = [] if "-o" in arguments else ["-o", "out"]
    arguments = [str(song) if item == "SONG" else item for item in arguments]
    status, messages = spleeter("separate", *output, *arguments)
    assert status == 1
    assert words in messages
    assert messages.strip().count("\n") == 0, messages
    assert files_below(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_loaded_ends_the_run_at_the_first_song(spleeter, song, tmp_path):
    other = tmp_path / "other.wav"
    other.write_bytes(song.read_bytes())
    status, messages = spleeter("separate", "--device", "gpu:3", "-o", tmp_path, song, other)
    assert status == 1 and "there is no gpu:3" in messages
    assert messages.strip().count("\n") == 0, messages


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_messages_that_nobody_takes_spoil_no_song(tiny, song, tmp_path, where):
    command = f'"$0" -m spleeter_2 separate -p "$3" -o "$1" "$2.mp3" "$2" {where}'
    shell = ["sh", "-c", command, sys.executable, tmp_path / "out", song, tiny]
    done = subprocess.run(shell, stdout=subprocess.PIPE, timeout=200)
    assert done.returncode == 1  # one song is not there
    assert files_below(tmp_path / "out") == [f"song/{name}" for name in STEMS]
    assert done.stdout == b""


def test_wrong_usage_is_status_2(spleeter):
    assert spleeter("separate", "--no-such-option", "x")[0] == 2
    assert spleeter("separate", "-c", "aiff", "x.wav")[0] == 2
    assert spleeter("no-such-command")[0] == 2


def test_verbose_shows_the_traceback(tiny, song, tmp_path):
    running = process("separate", "-p", tiny, "--verbose", "-s", 99, "-o", tmp_path / "out", song)
    _, messages = running.communicate()
    assert running.returncode == 1 and b"Traceback" in messages


def test_training_refuses_what_it_cannot_use(spleeter, tmp_path):
    def refused(*arguments):
        status, said = spleeter("train", *arguments)
        assert status == 1 and said.splitlines()[-1].startswith("spleeter: error:"), said
        return said

    ours = ["-p", "spleeter_2:grouped", "-o", tmp_path / "run"]
    assert "there are no songs in" in refused(*ours, "-d", tmp_path)
    assert "there is no folder" in refused(*ours, "-d", tmp_path / "nowhere")
    assert "without --adapter some.Adapter" in refused(*ours, "-d", tmp_path, "-a", "some.Adapter")
    (tmp_path / "songs.csv").write_text("a,b\n1,2\n")
    assert "lacks the column" in refused(*ours, "-d", tmp_path / "songs.csv")
    odd = tmp_path / "odd.json"
    for training, words in (
        ('{"batch_size": 0}', "training.batch_size must be a whole number >= 1"),
        ('{"los": {}}', "training: unknown key 'los'"),
        ('{"nb_frames": 100}', "training.nb_frames must be a multiple of 64"),
        (
            '{"loss": {"spectrogram": "l3"}}',
            "must be l1 or log_mse or magnitude_l1 or mse, not 'l3'",
        ),
    ):
        odd.write_text(f'{{"spleeter_2": 1, "base": "spleeter_2:mask", "training": {training}}}')
        assert words in refused("-p", odd, "-d", tmp_path, "-o", tmp_path / "run")
    theirs = ["-p", "spleeter:2stems", "-d"]
    assert "there is no folder" in refused(*theirs, tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.json", "songs.csv"]


@pytest.fixture
def long_song(song, tmp_path):
    """Ten minutes, so that there is time to interrupt."""
    waveform, rate = soundfile.read(song)
    soundfile.write(tmp_path / "long.wav", np.tile(waveform, (300, 1)), rate)
    return tmp_path / "long.wav"


def wait_for_a_temporary_file(folder, running) -> None:
    for _ in range(600):
        if folder.exists() and any(os.path.getsize(path) > 1e6 for path in folder.rglob(".*")):
            return
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.1)
    raise AssertionError("no temporary file appeared")


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:  # gone in the meantime
            continue
        if int(parent) == pid:
            found.append(int(stat.parent.name))
    return found


def gone(pids: list[int]) -> bool:
    for _ in range(50):
        if not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    "name, status", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGQUIT", 131)]
)
def test_an_interrupt_leaves_nothing(tiny, long_song, tmp_path, name, status):
    running = process("separate", "-p", tiny, "-o", tmp_path / "out", long_song)
    wait_for_a_temporary_file(tmp_path / "out", running)
    helpers = children(running.pid)
    assert len(helpers) >= 3  # a reader and two writers
    running.send_signal(signal.Signals[name])
    _, messages = running.communicate(timeout=60)
    assert running.returncode == status
    assert b"Traceback" not in messages and messages.count(b"\n") == 1
    assert not (tmp_path / "out").exists()
    assert gone(helpers)


def test_after_a_kill_the_next_run_tidies_up(spleeter, tiny, long_song, tmp_path):
    running = process("separate", "-p", tiny, "-o", tmp_path / "out", long_song)
    wait_for_a_temporary_file(tmp_path / "out", running)
    helpers = children(running.pid)
    running.kill()
    running.communicate()
    assert gone(helpers)
    left = files_below(tmp_path / "out")
    assert left and all(os.path.basename(name).startswith(".spleeter-2-") for name in left)
    assert spleeter("separate", "-d", 1, "-o", tmp_path / "out", long_song)[0] == 0
    assert files_below(tmp_path / "out") == [f"long/{name}" for name in STEMS]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_song(song, tmp_path):
    """Peak memory of ten minutes is that of one minute, give or take the allocator."""
    # a process of its own in between: a child's peak includes its parent's size at the fork
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'spleeter_2', *sys.argv[1:]], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    waveform, rate = soundfile.read(song)
    peaks = []
    for minutes in (1, 10):
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(waveform, (30 * minutes, 1)), rate)
        arguments = ["separate", "-o", tmp_path / "out", path]
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 120, peaks
    assert peaks[1] < 1024, peaks
