# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools/generate-abi writes is what bpf/abi says, and the tool refuses what it does not understand."""

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.harness import ROOT

TOOL = ROOT / 'tools' / 'generate-abi'


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader('generate_abi', str(TOOL))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up here.
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def test_nothing_is_stale() -> None:
    ended = subprocess.run([sys.executable, str(TOOL), '--check'], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


LIMITS = '#define MAX_RULES 2\n'


@pytest.mark.parametrize(
    ('header', 'said'),
    [
        ('struct x {\n\t__u32 a;\n\t__u64 b;\n};\n', 'struct x: a compiler would pad before "b"'),
        ('struct x {\n\t__u64 a;\n\t__u32 b;\n};\n', 'struct x: a compiler would pad at its end'),
        ('struct x {\n\tint a;\n};\n', 'type "int" is none of'),
        ('struct x {\n\tstruct y a;\n};\n', 'type "struct y" is none of'),
        ('struct x {\n\t__u32 a[MANY];\n};\n', '"MANY" is no number and no constant'),
        ('struct x {\n\t__u32 *a;\n};\n', 'not understood: __u32 *a'),
        ('struct x {\n\t__u32 a : 3;\n};\n', 'not understood: __u32 a : 3'),
        ('enum x {\n\tA = 1 << 3,\n};\n', 'not understood: A = 1 << 3'),
        ('#define SIZE (2 * 3)\n', ':1: not understood: #define SIZE'),
        ('\n\ntypedef int x;\n', ':3: not understood: typedef'),
        ('#define COUNTERS(X) X(A, ELSE, "b")\n', 'counter not understood'),
    ],
)
def test_what_is_refused(tool: ModuleType, tmp_path: Path, header: str, said: str) -> None:
    (tmp_path / 'limits.h').write_text(LIMITS)
    (tmp_path / 'x.h').write_text(header)
    with pytest.raises(tool.WrongHeader) as raised:
        tool.generate(tmp_path)
    assert said in str(raised.value)


def test_what_is_understood(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / 'limits.h').write_text(LIMITS)
    (tmp_path / 'a.h').write_text(
        '#include "z.h"\n/* A kind. */\nenum a_kind {\n\tA_ONE,\n\tA_TWO = 5, /* five */\n\tA_SIX,\n};\n'
        'struct a {\n\tstruct z z[MAX_RULES];\n\t__u8 tail[8];\n};\n'
    )
    (tmp_path / 'z.h').write_text('#include "limits.h"\nstruct z {\n\t__u16 a;\n\t__u16 b;\n\tchar c[4];\n};\n')
    files = tool.generate(tmp_path)
    assert 'MAX_RULES = 2\n' in files['sockaccel/core/limits.py']
    written = files['sockaccel/kernel/abi.py']
    assert 'class AKind(IntEnum):' in written
    assert '    ONE = 0\n    TWO = 5\n    SIX = 6\n' in written
    assert "Z = struct.Struct('=2H4s')" in written
    assert "A = struct.Struct('=16s8s')" in written
    assert written.index('class ZRecord') < written.index('class ARecord')
