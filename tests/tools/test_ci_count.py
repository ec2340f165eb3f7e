""".ci/count.py: the one line CI ends with is the sum of what really ran."""

import importlib.util
import json
import pathlib

import pytest

_PATH = pathlib.Path(__file__).resolve().parents[2] / ".ci/count.py"
_XML = """<testsuites><testsuite name="s">
<testcase name="a"/><testcase name="b"/>
<testcase classname="s" name="c"><failure message="no"/></testcase>
<testcase name="d"><error message="no"/></testcase>
<testcase name="e"><skipped type="pytest.skip" message="not here"/></testcase>
<testcase name="f" status="notrun"/>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def count():
    spec = importlib.util.spec_from_file_location("count", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _result(label, status, xml=None, log="/nowhere"):
    outputs = [{"name": "test.log", "uri": f"file://{log}"}]
    if xml:
        outputs.append({"name": "test.xml", "uri": f"file://{xml}"})
    return {
        "id": {"testResult": {"label": label}},
        "testResult": {"status": status, "testActionOutput": outputs},
    }


def _events(tmp_path, *events):
    path = tmp_path / "events"
    path.write_text("\n".join(json.dumps(e) for e in events), encoding="utf-8")
    return path


def _log(tmp_path, text):
    path = tmp_path / "test.log"
    path.write_text(text, encoding="utf-8")
    return path


def _values(count):
    return [count[kind] for kind in ("passed", "failed", "skipped")]


def test_cases(count):
    report = count.read_xml(_XML)
    assert _values(report.count) == [2, 2, 2]
    assert report.skips == {"not here": 1, "disabled": 1}
    assert [f.splitlines()[0] for f in report.failures] == ["  s.c", "  d"]


def test_sums_targets(count, tmp_path):
    xml = tmp_path / "a b.xml"
    xml.write_text('<testsuite><testcase name="a"/></testsuite>', encoding="utf-8")
    uri = str(xml).replace(" ", "%20")
    events = _events(tmp_path, _result("//a", "PASSED", uri), _result("//b", "PASSED", uri))
    report = count.read_events(events, 0)
    assert (_values(report.count), report.failures) == ([2, 0, 0], [])


def test_a_target_that_dies_counts_once(count, tmp_path):
    xml = tmp_path / "a.xml"
    xml.write_text('<testsuite><testcase name="a"/></testsuite>', encoding="utf-8")
    log = _log(tmp_path, "it says why\n")
    events = _events(
        tmp_path,
        _result("//a", "TIMEOUT", str(xml), log),
        _result("//b", "FAILED", None, log),
    )
    report = count.read_events(events, 3)
    assert _values(report.count) == [1, 2, 0]
    assert report.failures == ["//a: TIMEOUT", "    it says why", "//b: FAILED", "    it says why"]


def test_what_does_not_build_fails(count, tmp_path):
    broken = {"id": {"targetCompleted": {"label": "//a"}}, "completed": {}}
    fine = {"id": {"targetCompleted": {"label": "//b"}}, "completed": {"success": True}}
    aborted = {"id": {"targetCompleted": {"label": "//c"}}, "aborted": {"reason": "LOADING"}}
    skipped = {"id": {"targetCompleted": {"label": "//d"}}, "aborted": {"reason": "SKIPPED"}}
    stopped = {"id": {"testResult": {"label": "//c"}}, "aborted": {"reason": "USER_INTERRUPTED"}}
    report = count.read_events(_events(tmp_path, broken, fine, aborted, stopped, skipped), 1)
    assert _values(report.count) == [0, 2, 0]
    assert report.failures[0] == "//a: failed to build"
    assert report.failures[1].startswith("//c: ")


def test_bazel_that_ends_badly_fails(count, tmp_path):
    report = count.read_events(tmp_path / "no such file", 2)
    assert report.count["failed"] == 1
    assert report.failures == ["bazel ended with status 2"]


def test_what_it_prints_is_bounded(count, tmp_path, capsys):
    why = "\n".join(f"line {i} " + "x" * 1000 for i in range(200))
    cases = "".join(f'<testcase name="c{i}"><failure>{why}</failure></testcase>' for i in range(99))
    skips = "".join(f'<testcase name="s{i}"><skipped message="{i}"/></testcase>' for i in range(99))
    xml = tmp_path / "a.xml"
    xml.write_text(f"<testsuite>{cases}{skips}</testsuite>", encoding="utf-8")
    events = _events(tmp_path, _result("//a", "FAILED", str(xml)))
    assert count.main(["count.py", str(events), str(tmp_path / "c"), "3"]) == 0
    out = capsys.readouterr().out
    assert len(out) < 60_000
    assert "line 199" in out and "line 0 " not in out
    assert "... and 91 more\n" in out
    assert out.endswith("\nthis step: 0 passed, 99 failed, 99 skipped\n")


@pytest.mark.parametrize(
    ("counts", "line", "status"),
    [
        ([(3, 0, 1), (2, 0, 0)], "5 passed, 0 failed, 1 skipped", 0),
        ([(3, 0, 1), (2, 1, 0)], "5 passed, 1 failed, 1 skipped", 1),
        ([(0, 0, 4)], "0 passed, 0 failed, 4 skipped", 1),
        ([], "0 passed, 0 failed, 0 skipped", 1),
    ],
)
def test_the_last_line(count, tmp_path, capsys, counts, line, status):
    names = []
    for i, values in enumerate(counts):
        path = tmp_path / f"{i}.count"
        path.write_text(json.dumps(dict(zip(("passed", "failed", "skipped"), values, strict=True))))
        names.append(str(path))
    assert count.main(["count.py", "--sum", *names]) == status
    assert capsys.readouterr().out == line + "\n"
