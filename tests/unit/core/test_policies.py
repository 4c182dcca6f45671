# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy of a target: what files and Enable say, in which order, and where each value is from."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.core import config
from sockaccel.core.keys import POLICY_KEYS, text_of
from sockaccel.core.policies import Policies, changed
from sockaccel.core.policy import Policy
from sockaccel.errors import InvalidArgument, InvalidConfiguration

# Of each key a value that is not the default, and another one.
VALUES = {
    'as': {'Ports': ('80', '443 8000-8999'), 'Addresses': ('127.0.0.1', '::1'), 'Users': ('root', '1-2'),
           'Issues': ('fionread', 'splice')},
    'b': {'': ('yes', 'no')},
    'u': {'': ('5', '7')},
}  # fmt: skip


def two_values(name: str) -> tuple[str, str]:
    (found,) = (pair for ending, pair in VALUES[POLICY_KEYS[name].type].items() if name.endswith(ending))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'a.conf'


def read(path: Path, text: str) -> Policies:
    path.write_text(text)
    return config.load([path]).policies


def row(policy: Policy, name: str) -> tuple[str, str]:
    """The value of a key and its source."""
    (found,) = ((value, source) for key, value, source in policy.rows() if key == name)
    return found


@pytest.mark.parametrize('name', POLICY_KEYS)
def test_every_key_from_every_place(path: Path, name: str) -> None:
    """Of nobody, of [Sockaccel], of the section of a target, and of Enable."""
    one, other = two_values(name)
    default = text_of(getattr(Policy(), POLICY_KEYS[name].field))
    adds = POLICY_KEYS[name].adds
    assert row(Policies().of('/x', {}), name) == (default, '')
    assert row(Policies().of('/x', {name: other}), name) == (other, 'set')
    files = read(path, f'[Sockaccel]\n{name}={one}\n[Target /x]\n{name}={other}\n')
    assert row(files.of('/y', {}), name) == (one, f'{path}:2')
    both = (f'{one} {other}', f'{path}:2, {path}:4') if adds else (other, f'{path}:4')
    assert row(files.of('/x', {}), name) == both
    chosen = (f'{one} {other}', f'{path}:2, set') if adds else (other, 'set')
    assert row(files.of('/y', {name: other}), name) == chosen
    # A section takes the place of what was chosen. A kernel issue that anybody accepted stays accepted.
    files = read(path, f'[Target /x]\n{name}={one}\n')
    with_section = (f'{one} {other}', f'{path}:2, set') if adds else (one, f'{path}:2')
    assert row(files.of('/x', {name: other}), name) == with_section


# Any name can be one of an issue.
@pytest.mark.parametrize('name', [name for name in POLICY_KEYS if name != 'AcceptKernelIssues'])
def test_every_form_says_what_is_wrong_in_the_same_words(path: Path, name: str) -> None:
    bad = {'as': 'x/y', 'b': 'perhaps', 'u': '²'}[POLICY_KEYS[name].type]
    with pytest.raises(InvalidArgument) as chosen:
        changed({}, {name: bad})
    for section in ('Sockaccel', 'Target /x'):
        with pytest.raises(InvalidConfiguration) as configured:
            read(path, f'[{section}]\n{name}={bad}\n')
        assert str(configured.value) == f'{path}:2: {chosen.value}'
    assert str(chosen.value).startswith(f'{name}= "{bad}" ')


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('Nonsense', 'key "Nonsense" is unknown, the keys of a target are AcceptKernelIssues, '),
        ('blocking_readers', 'key "blocking_readers" is unknown'),
        ('LogLevel', 'key "LogLevel" is one of section "[Sockaccel]", and of no target'),
        ('', 'key "" is unknown'),
    ],
)
def test_what_is_no_key_of_a_target(path: Path, name: str, said: str) -> None:
    with pytest.raises(InvalidConfiguration) as configured:
        read(path, f'[Target /x]\n{name}=5\n')
    assert str(configured.value).startswith(f'{path}:2: {said}')
    for text in ('5', ''):
        with pytest.raises(InvalidArgument) as chosen:
            changed({}, {name: text})
        assert str(configured.value) == f'{path}:2: {chosen.value}'


def test_sections_of_several_files_are_one(tmp_path: Path) -> None:
    first, second = tmp_path / '10.conf', tmp_path / '20.conf'
    first.write_text('[Target /x]\nIncludePorts=80\nBlockingReaders=yes\n[Sockaccel]\nLogLevel=debug\n')
    second.write_text('[Target x.service]\n\n[Target //x/]\nIncludePorts=443\nBlockingReaders=no\n')
    loaded = config.load([first, second])
    assert loaded.log_level == 'debug'
    sections = loaded.policies.sections
    assert {name: section.source for name, section in sections.items()} == {
        '/x': f'{first}:1', 'x.service': f'{second}:1',
    }  # fmt: skip
    policy = loaded.policies.of('/x', {})
    assert row(policy, 'IncludePorts') == ('80 443', f'{first}:2, {second}:4')
    assert row(policy, 'BlockingReaders') == ('no', f'{second}:5')
    assert loaded.policies.of('x.service', {}) == Policy()
    assert [each[0] for each in loaded.rows() if each[0] != 'Sockaccel'] == [
        'Target /x', 'Target /x', 'Target x.service',
    ]  # fmt: skip
    assert ('Target x.service', '', '', f'{second}:1') in loaded.rows()


def test_an_empty_value_brings_the_default_back(path: Path) -> None:
    files = read(
        path, '[Sockaccel]\nIncludePorts=80\n[Target /x]\nIncludePorts=443\nIncludePorts=\nIncludePorts=\n'
    )
    assert row(files.of('/x', {}), 'IncludePorts') == ('80', f'{path}:2')
    chosen = changed({}, {'IncludePorts': '443', 'BlockingReaders': 'on'})
    assert chosen == {'IncludePorts': '443', 'BlockingReaders': 'yes'}
    chosen = changed(chosen, {'IncludePorts': ' '})
    assert chosen == {'BlockingReaders': 'yes'}
    assert row(files.of('/y', chosen), 'IncludePorts') == ('80', f'{path}:2')
    assert changed(chosen, {'BlockingReaders': '', 'JoinDelayMs': ''}) == {}


def test_what_is_chosen_again_takes_the_place_of_what_was(path: Path) -> None:
    assert changed({'IncludePorts': '80'}, {'IncludePorts': '443 \n 22'}) == {'IncludePorts': '443 22'}


def test_too_many_rules_of_a_target_and_the_defaults_together(path: Path) -> None:
    ports = ' '.join(map(str, range(1, 41)))
    with pytest.raises(
        InvalidConfiguration, match=rf'{path}:3: the policy of target "/x" has 80, but .* 64 ports'
    ):
        read(path, f'[Sockaccel]\nIncludePorts={ports}\n[Target /x]\nExcludePorts={ports}\n')
    files = read(path, f'[Sockaccel]\nIncludePorts={ports}\n[Target /x]\nIncludePorts={ports}\n')
    with pytest.raises(InvalidArgument, match='has 80, but'):
        files.of('/y', {'ExcludePorts': ports})
    with pytest.raises(InvalidArgument, match='"1 2 .* is one too many: a target can have 64'):
        changed({}, {'IncludePorts': ports, 'ExcludePorts': ports})


@pytest.mark.parametrize('heading', ['Target nonsense', 'Target', 'Target  ', 'target /x', 'Target /x'])
def test_headings(path: Path, heading: str) -> None:
    if heading == 'Target /x':
        assert list(read(path, f' [ {heading} ] \n').sections) == ['/x']
        return
    with pytest.raises(InvalidConfiguration, match=f'^{path}:1: '):
        read(path, f'[{heading}]\n')


@given(
    st.dictionaries(
        st.sampled_from([*POLICY_KEYS, 'Nonsense']),
        st.one_of(st.sampled_from(['', 'yes', '5', '1-2', 'root', '::1', ' ', '=']), st.text(max_size=20)),
    )
)
def test_any_texts_are_chosen_or_refused(texts: dict[str, str]) -> None:
    """What is remembered means the same when it is read again."""
    try:
        chosen = changed({}, texts)
    except InvalidArgument:
        return
    assert all(chosen.values())
    assert changed({}, chosen) == chosen == changed(chosen, {})
    assert Policies().of('/x', chosen).rows()
