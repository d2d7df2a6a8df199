"""The page's own modules, run by Node where it is installed."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import camcore.adapters.serving.web

PAGE = Path(camcore.adapters.serving.web.__file__).parent / "page"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")


def in_node(code: str, given: Any) -> Any:
    """What a module of JavaScript says to `answer(...)` of `given`; `page(name)` imports a part."""
    script = f"""
import {{ readFileSync }} from "node:fs";
const page = (name) => import({json.dumps(PAGE.as_uri())} + "/" + name);
const given = JSON.parse(readFileSync(0, "utf8"));
const answer = (value) => process.stdout.write(JSON.stringify(value));
{code}
"""
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
