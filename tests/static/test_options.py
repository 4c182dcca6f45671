# SPDX-License-Identifier: GPL-2.0-or-later
"""Every socket option has a verdict: docs/options.md against the options of Linux, of this machine's too."""

import re
from pathlib import Path

import pytest

from sockaccel.kernel import offsets
from sockaccel.kernel.libbpf import KernelTypes
from tests.support import options
from tests.support.harness import ROOT

VERDICT = re.compile(r'no effect|differs|unseen|(?:by TCP|out): (\w+)')
# Reasons that need no field of an option: they stand in the counters alone.
REASONS = {'MEMORY', 'FOREIGN_SOCKMAP'}
LEVELS = tuple(options.HEADERS)


def without_verdict(text: str) -> set[str]:
    """The known options that a text of docs/options.md says nothing of, with their levels."""
    said = {(line.level, name) for line in options.verdicts(text) for name in line.names}
    return {f'{level} {name}' for level, names in options.known().items() for name in names} - {
        f'{level} {name}' for level, name in said
    }


def test_every_known_option_has_a_verdict() -> None:
    missing = without_verdict(options.document())
    assert not missing, f'docs/options.md has no verdict on {sorted(missing)}'


def test_an_option_without_a_verdict_is_named() -> None:
    text = options.document()
    for level, names in options.known().items():
        for name in names:
            assert f'{level} {name}' in without_verdict(text.replace(f'`{name}`', '`another`')), name


def test_no_option_has_two_verdicts_or_is_unknown() -> None:
    known = options.known()
    known['MSG']['MSG_PROXY'] = known['MSG']['MSG_PROBE']
    seen = set()
    for line in options.verdicts(options.document()):
        if line.level == 'Beside the socket':
            continue
        assert line.names, line
        for name in line.names:
            assert name in known[line.level], f'docs/options.md names "{name}", which no kernel has'
            assert (line.level, name) not in seen, f'"{name}" has two verdicts'
            seen.add((line.level, name))


def test_every_verdict_has_a_reason_and_its_rule() -> None:
    text = options.document()
    rules = {rule.name for rule in options.rules(text)} | REASONS
    named = set()
    for line in options.verdicts(text):
        found = VERDICT.fullmatch(line.verdict)
        assert found, f'"{line.verdict}" is no verdict: {line}'
        assert len(line.why) > 10, line
        if found[1]:
            assert found[1] in rules, f'"{found[1]}" is no rule: {line}'
            named.add(found[1])
    unused = rules - named - {'SHUT_DOWN'}
    assert not unused, f'rules of docs/options.md that no option names: {unused}'


def test_what_a_rule_counts_is_a_counter() -> None:
    sources = '\n'.join(path.read_text() for path in sorted((ROOT / 'bpf').rglob('*.h')))
    counters = set(re.findall(r'\bX\((\w+),', sources))
    for rule in options.rules(options.document()):
        assert rule.counters, rule
        assert rule.end in ('sender', 'reader', 'both'), rule
        assert rule.asked <= {'message', 'walk', 'connection'}, rule
        if rule.implemented:
            assert set(rule.counters) <= counters, rule


@pytest.mark.parametrize('level', LEVELS)
def test_the_headers_of_this_machine_have_no_other_option(level: str) -> None:
    header = options.INCLUDE / options.HEADERS[level][0]
    if not header.exists():
        pytest.skip(f'"{header}" of this kernel is not installed')
    more = options.defined(level, header.read_text()) - set(options.known()[level])
    assert not more, f'"{header}" has {sorted(more)}: say in docs/options.md what they mean, then list them'


def test_another_option_in_a_header_is_seen() -> None:
    text = '#define SO_RIGHTS_NOTRUNC\t85\n# define SO_NEW 86\n#define SCM_NEW SO_NEW\n/* SO_OLD 87 */\n'
    assert options.defined('SOL_SOCKET', text) == {'SO_RIGHTS_NOTRUNC', 'SO_NEW'}
    assert options.defined('IPPROTO_IP', '#define IP_PMTUDISC_DO 2\n#define IP_NEW 53\n') == {'IP_NEW'}
    assert options.defined('BPF', '\tSK_BPF_NEW\t= 1011, /* */\n\tSK_BPF_CB_FLAG = 1,\n') == {'SK_BPF_NEW'}


def test_the_c_library_has_no_other_flag() -> None:
    headers = sorted(options.INCLUDE.glob('**/bits/socket.h'))
    if not headers:
        pytest.skip('the headers of the C library for this kernel are not installed')
    flags = set(options.known()['MSG'].values())
    for header in headers:
        more = {name for name, bit in options.defined_flags(header.read_text()).items() if bit not in flags}
        assert not more, f'"{header}" has {sorted(more)}: say in docs/options.md what they mean, then list them'


@pytest.mark.parametrize('level', [level for level in LEVELS if level != 'BPF'])
def test_this_kernel_answers_no_other_option(level: str) -> None:
    try:
        answered = options.answered(level)
    except OSError as exc:
        pytest.skip(f'this kernel makes no socket for {level}: {exc.strerror}')
    assert len(answered) > 20
    more = answered - options.numbers(level)
    assert not more, f'the kernel knows {sorted(more)} of {level}: say in docs/options.md what they mean'


@pytest.fixture(scope='module')
def types() -> KernelTypes:
    if not Path('/sys/kernel/btf/vmlinux').exists():
        pytest.skip('this kernel has no type information')
    return KernelTypes()


@pytest.mark.parametrize('structure', options.known_members())
def test_the_sockets_of_this_kernel_have_no_other_member(types: KernelTypes, structure: str) -> None:
    more = options.members(types, structure) - options.known_members()[structure]
    assert not more, (
        f'struct {structure} of this kernel has {sorted(more)}: if a program or an administrator can set it, '
        'say in docs/options.md what it means; then list it in tests/support/options.toml'
    )


def test_this_kernel_has_the_fields_of_the_rules(types: KernelTypes) -> None:
    for rule in options.rules(options.document()):
        structure, _, path = rule.field.partition('.')
        try:
            offsets.locate(types, structure, path)
        except KeyError:
            assert rule.optional, f'this kernel has no {rule.field}, which the rule {rule.name} reads'
