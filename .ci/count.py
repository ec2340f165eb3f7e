"""Counts the test cases of one `bazel test` from its build events, and sums such counts.

    count.py EVENTS COUNT_FILE STATUS     one invocation; prints what failed and why
    count.py --sum COUNT_FILE...          prints "N passed, N failed, N skipped", sets the status

A case counts as its XML says. A target that failed with no failed case in its XML (it did not
build, crashed, ran out of time) counts as one failure, as does an invocation that ended badly with
nothing else to show for it. What is printed is bounded, so that the last line is never lost in it.
Standard library only: this runs with the machine's own python3.
"""

import collections
import dataclasses
import json
import pathlib
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree

_KINDS = ("passed", "failed", "skipped")
_CASES_SHOWN = 8  # of one target
_LINES_SHOWN = 25  # of one case, or of the log of a target that has none
_WIDTH_SHOWN = 200
_REASONS_SHOWN = 20

Count = collections.Counter[str]


@dataclasses.dataclass(kw_only=True)
class Report:
    """What one invocation, or one XML file of it, ended with."""

    count: Count = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)
    skips: Count = dataclasses.field(default_factory=collections.Counter)  # by reason


def _end_of(text: str) -> str:
    lines = text.rstrip().splitlines()
    cut = [f"... {len(lines) - _LINES_SHOWN} lines"] if len(lines) > _LINES_SHOWN else []
    lines = cut + [line[:_WIDTH_SHOWN] for line in lines[-_LINES_SHOWN:]]
    return "\n".join(f"    {line}" for line in lines)


def read_xml(text: str) -> Report:
    """The cases of one JUnit or googletest file."""
    report = Report()
    for case in ElementTree.fromstring(text).iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '')}".lstrip(".")
        bad = [*case.findall("failure"), *case.findall("error")]
        skip = case.find("skipped")
        if bad:
            report.count["failed"] += 1
            why = "\n".join(b.text or b.get("message", "") for b in bad)
            report.failures.append(f"  {name}\n{_end_of(why)}")
        elif skip is not None or case.get("status") == "notrun":
            report.count["skipped"] += 1
            reason = "disabled" if skip is None else skip.get("message") or "no reason given"
            report.skips[reason.splitlines()[0][:_WIDTH_SHOWN]] += 1
        else:
            report.count["passed"] += 1
    return report


def _read_output(result: dict, name: str) -> str:
    for output in result.get("testActionOutput", []):
        if output["name"] == name:
            path = urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
            return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    raise FileNotFoundError(f"no {name}")


def _read_result(label: str, result: dict) -> Report:
    """One test target, or one shard of it."""
    try:
        report = read_xml(_read_output(result, "test.xml"))
    except (OSError, ElementTree.ParseError):
        report = Report()
    cases, report.failures = report.failures, []
    if result["status"] in ("PASSED", "FLAKY"):
        if not report.count.total():
            # It passed and says nothing of cases: it is one itself.
            report.count["passed"] = 1
        return report
    if not cases:
        report.count["failed"] += 1
        try:
            cases = [_end_of(_read_output(result, "test.log"))]
        except OSError as error:
            cases = [f"  {error}"]
    shown = cases[:_CASES_SHOWN]
    if len(cases) > len(shown):
        shown.append(f"  ... and {len(cases) - len(shown)} more")
    report.failures = [f"{label}: {result['status']}", *shown]
    return report


def read_events(events: pathlib.Path, status: int) -> Report:
    """An invocation, from its build events and exit status."""
    total = Report()
    aborted: set[str] = set()  # of a test come two events: of the target and of the test
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    for line in lines:
        event = json.loads(line)
        kind = event["id"]
        if "aborted" in event and ("testResult" in kind or "targetCompleted" in kind):
            label = next(iter(kind.values()))["label"]
            if event["aborted"].get("reason") != "SKIPPED" and label not in aborted:
                aborted.add(label)
                total.failures.append(f"{label}: {event['aborted']}")
                total.count["failed"] += 1
        elif "testResult" in kind:
            report = _read_result(kind["testResult"]["label"], event["testResult"])
            total.count += report.count
            total.failures += report.failures
            total.skips += report.skips
        elif "targetCompleted" in kind and not event.get("completed", {}).get("success"):
            # A test that ran and failed was built: its own event counts it.
            total.failures.append(f"{kind['targetCompleted']['label']}: failed to build")
            total.count["failed"] += 1
    if status and not total.count["failed"]:
        total.failures.append(f"bazel ended with status {status}")
        total.count["failed"] += 1
    return total


def _line(count: Count) -> str:
    return ", ".join(f"{count[kind]} {kind}" for kind in _KINDS)


def main(argv: list[str]) -> int:
    if argv[1] == "--sum":
        total: Count = collections.Counter()
        for name in argv[2:]:
            total.update(json.loads(pathlib.Path(name).read_text(encoding="utf-8")))
        print(_line(total))
        return 0 if total["passed"] and not total["failed"] else 1
    report = read_events(pathlib.Path(argv[1]), int(argv[3]))
    pathlib.Path(argv[2]).write_text(json.dumps(report.count), encoding="utf-8")
    pathlib.Path(argv[1]).unlink(missing_ok=True)
    for reason, number in report.skips.most_common(_REASONS_SHOWN):
        print(f"skipped {number}: {reason}")
    for failure in report.failures:
        print(failure)
    print(f"this step: {_line(report.count)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
