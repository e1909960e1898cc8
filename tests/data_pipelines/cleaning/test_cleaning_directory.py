"""What lies where a cleaning is to be made: of an interrupted one, of a killed one, of others, of an earlier
version."""

import json
from pathlib import Path

import pytest

from data_pipelines.cleaning import builder, pieces
from data_pipelines.cleaning.builder import clean
from data_pipelines.cleaning.settings import CleaningSettings
from data_pipelines.lock_holders import HeldError
from support.dirty_corpus import read_results, write_texts
from support.plain_texts import english_documents


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Settings for three files of three documents, and the directory of a cleaning that was interrupted."""
    texts = english_documents(9, seed=1)
    paths = [write_texts(tmp_path / f"{at}.jsonl", texts[3 * at : 3 * at + 3]) for at in range(3)]
    evaluation = write_texts(tmp_path / "evaluation.jsonl", english_documents(12, seed=1)[11:])
    settings = CleaningSettings(input=paths, decontaminate=(evaluation,), piece_chars=2000)
    with monkeypatch.context() as patch:
        patch.setattr(builder, "find_duplicates", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clean(str(tmp_path / "out"), settings)
    return settings, tmp_path / "out"


@pytest.mark.parametrize("change", ["text", "evaluation"])
def test_what_changed_meanwhile_is_cleaned_again(small, monkeypatch, change):
    settings, out = small
    file = Path(settings.input[1] if change == "text" else settings.decontaminate[0])
    file.write_text(file.read_text().replace(" the ", " one ", 1))
    again, original = [], pieces.clean_piece
    monkeypatch.setattr(builder, "clean_piece", lambda piece: again.append(piece.path) or original(piece))
    counts = clean(str(out), settings)
    assert counts["kept"] == 9
    num_pieces = len(list(out.glob("kept-*")))
    assert len(again) == (1 if change == "text" else num_pieces) and num_pieces > 2


@pytest.mark.parametrize("damage", [b"", None], ids=["emptied", "gone"])
def test_damaged_pieces_are_made_again(small, damage):
    settings, out = small
    kept = next(path for path in sorted(Path(f"{out}.partial").glob("*.kept.jsonl")) if path.stat().st_size)
    kept.unlink()
    if damage is not None:
        kept.write_bytes(damage)
    assert clean(str(out), settings)["kept"] == len(read_results(out, "kept")) == 9


def test_files_of_others_are_never_removed(small):
    settings, out = small
    partial = Path(f"{out}.partial")
    (partial / builder.SETTINGS_FILE).unlink()
    (partial / "mine.txt").write_text("mine")
    for start_over in (False, True):
        with pytest.raises(FileExistsError, match="was not made by this command"):
            clean(str(out), settings, start_over=start_over)
    assert (partial / "mine.txt").read_text() == "mine"
    out.mkdir()
    with pytest.raises(FileExistsError, match="exists and is not a cleaning"):
        clean(str(out), settings)


def test_what_a_kill_left_of_a_finished_cleaning_is_removed(tmp_path, monkeypatch):
    """SIGKILL while its working directory is removed, file by file; the settings go last."""
    source = write_texts(tmp_path / "a.jsonl", english_documents(3))
    out, partial, settings = tmp_path / "out", tmp_path / "out.partial", CleaningSettings(input=(source,))
    unlink, removed = Path.unlink, []

    def dies(path, **options):
        if path.parent == partial and out.is_dir():
            if len(removed) == 2:
                raise KeyboardInterrupt
            removed.append(path.name)
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            clean(str(out), settings)
    assert len(removed) == 2 and out.is_dir() and (partial / builder.SETTINGS_FILE).is_file()
    with pytest.raises(FileExistsError, match="holds a cleaning with other settings"):
        clean(str(out), CleaningSettings(input=(source,), duplicates="exact"))
    assert partial.is_dir()
    recorded = (partial / builder.SETTINGS_FILE).read_text()
    (partial / builder.SETTINGS_FILE).write_text("{")  # damaged: whose it is cannot be known
    assert clean(str(out), settings)["kept"] == 3 and partial.is_dir()
    (partial / builder.SETTINGS_FILE).write_text(recorded)
    assert clean(str(out), settings)["kept"] == 3 and not partial.exists()


@pytest.mark.parametrize("start_over", [False, True], ids=["again", "start_over"])
def test_a_directory_with_nothing_but_a_temporary_file_is_taken(tmp_path, start_over):
    """So SIGKILL leaves it while the settings are first written."""
    source = write_texts(tmp_path / "a.jsonl", english_documents(3))
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / f".{builder.SETTINGS_FILE}.123.tmp").write_text("{")
    counts = clean(str(tmp_path / "out"), CleaningSettings(input=(source,)), start_over=start_over)
    assert counts["kept"] == 3 and not partial.exists()


def test_start_over_takes_other_settings(small):
    settings, out = small
    other = CleaningSettings(input=settings.input, duplicates="exact", piece_chars=9000)
    counts = clean(str(out), other, start_over=True)
    assert counts["kept"] == 9 and len(list(out.glob("kept-*"))) == 1
    assert not Path(f"{out}.partial").exists()


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "interrupted"])
def test_a_cleaning_of_an_earlier_version_is_refused(small, is_finished):
    """It compared other words: its pieces and those of this version do not belong together."""
    settings, out = small
    if is_finished:
        clean(str(out), settings)
    path = out / builder.INFO_FILE if is_finished else Path(f"{out}.partial") / builder.SETTINGS_FILE
    info = json.loads(path.read_text())
    recorded = info["settings"] if is_finished else info
    version = recorded.pop("version")  # which the first version did not record
    path.write_text(json.dumps(info))
    message = f"holds .* with filters of version 1, expected version {version}.*another --out"
    with pytest.raises(FileExistsError, match=message) as raised:
        clean(str(out), settings)
    assert "you gave" not in str(raised.value) and "give its settings" not in str(raised.value)
    assert ("Its files can still be used." in str(raised.value)) == is_finished
    if not is_finished:
        assert clean(str(out), settings, start_over=True)["kept"] == 9


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "interrupted"])
@pytest.mark.parametrize(
    ("duplicates", "decontaminates", "is_refused"),
    [("none", False, False), ("exact", False, False), ("near", False, True), ("none", True, True)],
)
def test_an_earlier_version_matters_only_where_words_are_compared(
    duplicates, decontaminates, is_refused, is_finished, tmp_path
):
    source = write_texts(tmp_path / "a.jsonl", english_documents(3))
    evaluation = (write_texts(tmp_path / "test.jsonl", ["word " * 13]),) if decontaminates else ()
    settings = CleaningSettings(input=(source,), duplicates=duplicates, decontaminate=evaluation)
    if is_finished:
        clean(str(tmp_path / "out"), settings)
    else:
        partial = tmp_path / "out.partial"
        partial.mkdir()
        (partial / builder.SETTINGS_FILE).write_text(json.dumps(settings.recorded()))
    path = tmp_path / "out" / builder.INFO_FILE if is_finished else partial / builder.SETTINGS_FILE
    info = json.loads(path.read_text())
    del (info["settings"] if is_finished else info)["version"]
    path.write_text(json.dumps(info))
    if is_refused:
        with pytest.raises(FileExistsError, match="filters of version 1"):
            clean(str(tmp_path / "out"), settings)
    else:
        assert clean(str(tmp_path / "out"), settings)["kept"] == 3
    other = CleaningSettings(input=(source,), duplicates="none", similarity=0.9)
    message = "filters of version 1" if is_refused else "other settings .*you gave 0.9"
    with pytest.raises(FileExistsError, match=message) as raised:
        clean(str(tmp_path / "out"), other)
    assert "version: it has" not in str(raised.value)


def test_one_process_at_a_time(small, monkeypatch):
    settings, out = small
    calls, original = [], builder.find_duplicates
    monkeypatch.setattr(
        builder, "find_duplicates", lambda *words: calls.append(is_held(out, settings)) or original(*words)
    )
    clean(str(out), settings)
    assert calls == [True]


def is_held(out, settings):
    try:
        clean(str(out), settings)
    except HeldError:
        return True
    return False
