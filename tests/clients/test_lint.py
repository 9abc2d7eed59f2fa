"""Redocly's and Spectral's rules find nothing to say of the document."""

import json
import subprocess
from pathlib import Path

from .conftest import FOLDER

SECONDS_MAX = 60


def test_the_document_is_clean_and_a_fault_would_be_found(
    openapi_file: Path, node_modules: Path, tmp_path: Path
) -> None:
    faulty = tmp_path / "faulty.json"
    document = json.loads(openapi_file.read_text())
    del document["info"]["contact"], document["paths"]["/health"]["get"]["security"]
    faulty.write_text(json.dumps(document))
    lint = ["node", str(FOLDER / "lint.mjs"), str(openapi_file), str(faulty)]
    run = subprocess.run(lint, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert run.returncode == 0, run.stderr
    findings = [line.split(" ", 3)[:3] for line in run.stdout.splitlines()]
    assert findings == [
        [str(faulty), "redocly", "security-defined"],
        [str(faulty), "spectral", "info-contact"],
    ], run.stdout
