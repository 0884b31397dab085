"""Known vulnerabilities of what requirements.lock pins: `python -m tests.support.audit`, a part of `make check`.

It asks osv.dev with pip-audit. Exit code 1 for a package with a known vulnerability, and for an audit that fails; 0
when there is none, and, which is then said, where the database cannot be reached within a minute.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support import ROOT

LOCK = ROOT / "requirements.lock"
TIMEOUT_S = 60.0  # of all packages together
_UNREACHABLE = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError", "Could not connect")
_AUDIT = ("--require-hashes", "--disable-pip", "--vulnerability-service", "osv", "--timeout", "10", "--format", "json")


def verdict(returncode: int | None, out: str, err: str) -> tuple[int, str]:
    """The exit code, and a line for people.

    Args:
        returncode: pip-audit's; None when its time was up.
        out: its JSON.
        err: what else it said.
    """
    if returncode is None:
        return 0, f"audit skipped: osv.dev gave no answer within {TIMEOUT_S:g} s"
    try:
        packages = json.loads(out)["dependencies"]
    except (ValueError, LookupError):
        last = err.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        if any(word in err for word in _UNREACHABLE):
            return 0, "audit skipped: osv.dev cannot be reached from here"
        return 1, f"audit failed: {last[0]}"
    found = [f"{one['name']} {one['version']}: {flaw['id']}" for one in packages for flaw in one.get("vulns", ())]
    if found or returncode:
        return 1, f"known vulnerabilities: {', '.join(found) or 'pip-audit names none and fails'}"
    return 0, f"audit: none of {len(packages)} packages has a known vulnerability"


def main() -> int:
    """Audit, say what came of it, and return the exit code."""
    words = [sys.executable, "-m", "pip_audit", *_AUDIT, "--progress-spinner", "off", "--requirement", str(LOCK)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        code, line = verdict(done.returncode, done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        code, line = verdict(None, "", "")
    sys.stderr.write(line + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
