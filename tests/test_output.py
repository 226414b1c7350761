"""What goes out: names are printable, CSV cells are no formulas, and outputs are checked before the work."""

import io
import os
from pathlib import Path

import pytest

from torch_nonlocal._common.files import check_folder, check_output_file, printable, spreadsheet_text
from torch_nonlocal._common.terminal import print_lines, terminal
from torch_nonlocal.cli.entry import main, message_of

EVIL = "a\x1b[31m\u202egnp.\u2066exe\x07\x9b\udcff\u2028\r\n\tb"
ESCAPED = r"a\x1b[31m\u202egnp.\u2066exe\x07\x9b\udcff\u2028\r\n\tb"


def test_control_characters_direction_marks_and_undecodable_bytes_become_escapes() -> None:
    assert printable(EVIL) == ESCAPED
    assert printable("日本 é [bold] ½ 🙂") == "日本 é [bold] ½ 🙂"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+cmd", "'-2+3+cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1+1", "'  =1+1"),
        ("\u00a0=1+1", r"'\xa0=1+1"),
        ("\t=1+1", r"'\t=1+1"),
        ("\tx", r"'\tx"),
        ("\rx", r"'\rx"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-", "'-"),
        ("-inf", "'-inf"),
        ("run", "run"),
        ("a=b", "a=b"),
        ("-1", "-1"),
        ("+1.5e-3", "+1.5e-3"),
        ("-.5", "-.5"),
        ("", ""),
        ("'=1", "'=1"),
    ],
)
def test_a_csv_cell_that_would_be_a_formula_starts_with_an_apostrophe(text: str, cell: str) -> None:
    assert spreadsheet_text(text) == cell


def test_lines_are_printed_with_their_breaks_but_no_other_control_characters() -> None:
    out = io.StringIO()
    print_lines(f"one\n{EVIL}", file=out)
    assert out.getvalue() == "one\n" + ESCAPED.replace(r"\n", "\n") + "\n"


@pytest.mark.parametrize("markup", [False, True])
def test_consoles_print_names_as_escapes_in_lines_tables_and_progress(markup: bool) -> None:
    rich_table = pytest.importorskip("rich.table")
    from rich.progress import Progress, TextColumn

    console = terminal()
    console.file = out = io.StringIO()
    console.width = 200
    console.print("\x1b[31mred\u202e", markup=markup)
    table = rich_table.Table("name")
    table.add_row("\x1b]0;title\x07")
    console.print(table)
    with Progress(TextColumn("{task.description}"), console=console) as progress:
        progress.add_task("clip \x1b[2J")
    text = out.getvalue()
    assert r"\x1b[31mred\u202e" in text
    assert r"\x1b]0" in text  # rich cuts the cell to the width it had without escapes
    assert r"clip \x1" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_styles_of_consoles_still_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": ""}.items():
        monkeypatch.setenv(name, value)
    console = terminal()
    console.file = out = io.StringIO()
    console.print("name \x1b[31m", style="bold", markup=False, highlight=False)
    assert out.getvalue() == "\x1b[1mname \\x1b[31m\x1b[0m\n"


def test_error_messages_of_commands_are_one_printable_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert message_of(ValueError("two\nlines \x1b[31m")) == r"two lines \x1b[31m"
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "x\x1b[31m\u202ey.pth"), str(tmp_path / "out.pt")])
    printed = capsys.readouterr().err
    assert r"x\x1b[31m\u202ey.pth" in printed
    assert printed.count("\n") == 1
    assert printed.removesuffix("\n").isprintable()


def not_writable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the permission to write to a folder away, for root as well."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda one, mode: allowed(one, mode) and Path(one) != path)


def test_output_folders_are_checked_with_all_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    check_folder(tmp_path / "new" / "deep")
    check_folder(Path("a-free-name"))
    with pytest.raises(ValueError, match=r"--out .*file is a file: expected a folder"):
        check_folder(file)
    with pytest.raises(ValueError, match=r"--out .*file/deep/er: .*file is a file, expected a folder"):
        check_folder(file / "deep" / "er")
    not_writable(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="no permission to write to"):
        check_folder(tmp_path / "new" / "deep")


def test_output_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output_file(tmp_path / "report.json", "--json")
    with pytest.raises(ValueError, match=r"--json .* is a folder: expected the name of a file"):
        check_output_file(tmp_path, "--json")
    with pytest.raises(ValueError, match=r"--json .*report\.json: there is no folder .*none"):
        check_output_file(tmp_path / "none" / "report.json", "--json")
    not_writable(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="no permission to write to"):
        check_output_file(tmp_path / "report.json", "--json")


# {file} is an existing file, {free} a name whose parent is that file; the other arguments name nothing that exists.
COMMANDS = {
    "train": "train action --out {file}",
    "train below a file": "train action --out {free}",
    "test": "test action missing.pt --out {file}",
    "test below a file": "test action missing.pt --out {free}",
    "view": "view missing.mp4 --out {file}",
    "view below a file": "view missing.mp4 --out {free}",
    "demo": "demo --out {file}",
    "demo below a file": "demo --out {free}",
    "bench": "bench --out {file}",
    "bench --json": "bench --json {free}",
    "plan --json": "plan nosuchmodel --input 3x8x8 --json {free}",
    "data check --json": "data check missing --json {free}",
    "convert": "convert missing.pth {free}",
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["20", "500"])
def test_every_command_checks_its_output_first(
    name: str, columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("tyro")
    monkeypatch.setenv("COLUMNS", columns)
    file = tmp_path / "file"
    file.touch()
    words = COMMANDS[name].format(file=file, free=file / "out").split()
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("nonlocal: ")
    assert str(file) in errors
    assert errors.count("\n") == 1
    assert not set(errors) & set("│╭╰─|")
