# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration and where it is found."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockaccel.core import config, keys
from sockaccel.core.config import Config
from sockaccel.core.interception import Interception
from sockaccel.errors import InvalidConfiguration
from tests.support.harness import ROOT
from tests.support.memory_kernel import defaults


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(tmp_path: Path, text: str) -> Config:
    return config.load([write(tmp_path / 'sockaccel.conf', text)])


def test_nothing_configured() -> None:
    assert config.load([]) == Config()


def test_every_key(tmp_path: Path) -> None:
    text = """\
# a comment
[Sockaccel]
AcceptKernelIssues=fionread ktls
BlockingReaders=yes
; another
MaximumConnections = 1000
EventsPerSecond=0
LogLevel=debug
CgroupRoot=/system.slice
"""
    assert load(tmp_path, text) == Config(
        policies=defaults(AcceptKernelIssues='fionread ktls', BlockingReaders='yes'),
        maximum_connections=1000,
        events_per_second=0,
        log_level='debug',
        cgroup_root='/system.slice',
    )


def test_an_empty_assignment_takes_back(tmp_path: Path) -> None:
    assert load(tmp_path, '[Sockaccel]\nMaximumConnections=5\nMaximumConnections=\n') == Config()


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('Nonsense=1', ':2: key "Nonsense" is unknown'),
        ('no assignment', ':2: "no assignment" is not a "Key=value" line in section'),
        ('[Other]', ':2: section "[Other]" is unknown, there is "[Sockaccel]" and "[Target NAME]"'),
        ('[Target nonsense]', ':2: target "nonsense" is neither a unit name'),
        ('[Target /x]\nMaximumConnections=5', ':3: key "MaximumConnections" is one of section "[Sockaccel]"'),
        ('[Target /x]\nNonsense=5', ':3: key "Nonsense" is unknown, the keys of a target are'),
        ('[Target /x]\nExcludePorts=x', ':3: ExcludePorts= "x" has "x", which is no port'),
        ('MaximumConnections=0', ':2: MaximumConnections= "0" is not a number from 1'),
        ('MaximumConnections=²', ':2: MaximumConnections= "²"'),
        ('BlockingReaders=perhaps', ':2: BlockingReaders= "perhaps" is neither "yes" nor "no"'),
        ('LogLevel=loud', ':2: LogLevel= "loud" is none of'),
        ('CgroupRoot=relative', ':2: CgroupRoot= "relative" is not a path'),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(InvalidConfiguration) as raised:
        load(tmp_path, f'[Sockaccel]\n{line}\n')
    assert f'{tmp_path}/sockaccel.conf{expected}' in str(raised.value)


def test_a_key_outside_the_section(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=':1: '):
        load(tmp_path, 'LogLevel=debug\n')


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match='No such file'):
        config.load([tmp_path / 'missing'])
    (tmp_path / 'binary').write_bytes(b'\xff\xfe')
    with pytest.raises(InvalidConfiguration, match='UTF-8'):
        config.load([tmp_path / 'binary'])


def test_etc_beats_run_beats_usr(tmp_path: Path) -> None:
    directories = tuple(str(tmp_path / name) for name in ('etc', 'run', 'usr'))
    write(tmp_path / 'usr/sockaccel.conf', '[Sockaccel]\nEventsPerSecond=1\n')
    assert config.load(config.files(directories)).events_per_second == 1
    write(tmp_path / 'etc/sockaccel.conf', '[Sockaccel]\nLogLevel=debug\n')
    loaded = config.load(config.files(directories))
    assert (loaded.log_level, loaded.events_per_second) == ('debug', 100)


def test_drop_ins_by_name_over_all_directories_and_masked(tmp_path: Path) -> None:
    directories = tuple(str(tmp_path / name) for name in ('etc', 'run', 'usr'))
    write(tmp_path / 'usr/sockaccel.conf.d/10-a.conf', '[Sockaccel]\nEventsPerSecond=1\nMaximumConnections=1\n')
    write(tmp_path / 'usr/sockaccel.conf.d/20-b.conf', '[Sockaccel]\nEventsPerSecond=2\n')
    write(tmp_path / 'usr/sockaccel.conf.d/30-c.conf', '[Sockaccel]\nEventsPerSecond=3\n')
    write(tmp_path / 'run/sockaccel.conf.d/20-b.conf', '[Sockaccel]\nEventsPerSecond=4\n')
    (tmp_path / 'etc/sockaccel.conf.d').mkdir(parents=True)
    (tmp_path / 'etc/sockaccel.conf.d/30-c.conf').symlink_to('/dev/null')
    loaded = config.load(config.files(directories))
    assert (loaded.events_per_second, loaded.maximum_connections) == (4, 1)


def test_the_shipped_file_changes_nothing() -> None:
    """Each of its commented lines is valid, and shows the default."""
    shipped = (ROOT / 'packaging/sockaccel.conf').read_text()
    assert config.load([ROOT / 'packaging/sockaccel.conf']) == Config()
    for key in ('AcceptKernelIssues', 'BlockingReaders', 'MaximumConnections', 'EventsPerSecond', 'LogLevel'):
        assert f'#{key}=' in shipped


@given(st.text())
def test_any_text_is_a_configuration_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / 'any.conf'
    path.write_text(text, encoding='utf-8', errors='surrogatepass')
    try:
        config.load([path])
    except InvalidConfiguration as exc:
        assert str(path) in str(exc)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*keys.KEYS, 'Nonsense']),
            st.one_of(
                st.sampled_from(['', 'yes', '5', '1-2', 'root', '::1', '/x', 'info', ' ', '=']),
                st.text(max_size=20),
            ),
        ),
        max_size=8,
    )
)
def test_any_assignments(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]) -> None:
    """What was understood can be written down again, and means the same."""
    path = tmp_path_factory.getbasetemp() / 'assignments.conf'
    text = ''.join(f'{key}={value}\n' for key, value in lines)
    path.write_text(f'[Sockaccel]\n{text}', encoding='utf-8', errors='surrogatepass', newline='')
    try:
        loaded = config.load([path])
    except InvalidConfiguration as exc:
        assert f'{path}' in str(exc)
        return
    written = ''.join(f'{key}={value}\n' for _section, key, value, _source in loaded.rows())
    path.write_text(f'[Sockaccel]\n{written}')
    assert [row[:3] for row in config.load([path]).rows()] == [row[:3] for row in loaded.rows()]


def test_lists_grow_and_say_where_they_are_from(tmp_path: Path) -> None:
    first = write(tmp_path / 'a.conf', '[Sockaccel]\nExcludePorts=80\nEventsPerSecond=1\n')
    second = write(tmp_path / 'b.conf', '[Sockaccel]\n\nExcludePorts=8000-8999 443\nEventsPerSecond=2\n')
    rows = {key: (value, source) for _section, key, value, source in config.load([first, second]).rows()}
    assert rows['ExcludePorts'] == ('80 8000-8999 443', f'{first}:2, {second}:3')
    assert rows['EventsPerSecond'] == ('2', f'{second}:4')
    assert rows['LogLevel'] == ('info', '')


def test_too_many_rules(tmp_path: Path) -> None:
    ports = ' '.join(map(str, range(1, 66)))
    with pytest.raises(InvalidConfiguration, match=':2: IncludePorts= .* a target can have 64'):
        load(tmp_path, f'[Sockaccel]\nIncludePorts={ports}\n')


def test_a_masked_main_file(tmp_path: Path) -> None:
    directories = tuple(str(tmp_path / name) for name in ('etc', 'run', 'usr'))
    write(tmp_path / 'usr/sockaccel.conf', '[Sockaccel]\nEventsPerSecond=1\n')
    write(tmp_path / 'usr/sockaccel.conf.d/50-x.conf', '[Sockaccel]\nLogLevel=debug\n')
    (tmp_path / 'etc').mkdir()
    (tmp_path / 'etc/sockaccel.conf').symlink_to('/dev/null')
    loaded = config.load(config.files(directories))
    assert (loaded.events_per_second, loaded.log_level) == (100, 'debug')


def test_a_proxy(tmp_path: Path) -> None:
    text = """\
[Target app.service]
InterceptProxy=envoy.service
InterceptInbound=8080=15006
InterceptInbound=8081=15007
InterceptExceptPorts=22 8000-8999
InterceptExceptPorts=
InterceptExceptAddresses=10.0.0.0/8
InterceptWhenDown=bypass
[Target other.service]
BlockingReaders=yes
"""
    loaded = load(tmp_path, text)
    ((name, found),) = loaded.led().items()
    assert (name, found.source) == ('app.service', f'{tmp_path}/sockaccel.conf:2')
    assert found.interception == Interception.parse(
        'app.service', 'envoy.service',
        {'inbound': ['8080=15006', '8081=15007'], 'except_addresses': ['10.0.0.0/8'], 'when_down': 'bypass'},
    )  # fmt: skip
    file = tmp_path / 'sockaccel.conf'
    row = ('Target app.service', 'InterceptInbound', '8080=15006 8081=15007', f'{file}:3, {file}:4')
    assert row in loaded.rows()


@pytest.mark.parametrize(
    ('lines', 'said'),
    [
        ('InterceptInbound=80=81', ':2: InterceptInbound= says nothing without InterceptProxy='),
        ('InterceptProxy=*', ':2: proxy "*" is all of this host'),
        ('InterceptProxy=p.service\nInterceptInbound=80', ':2: option "inbound" has "80"'),
        ('InterceptProxy=p.service\nInterceptOutbound=x', ':3: InterceptOutbound= "x" is not a number'),
        ('InterceptProxy=p.service\nInterceptWhenDown=x', ':2: option "when_down" is "x"'),
    ],
)
def test_a_wrong_proxy(lines: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=re.escape(said)):
        load(tmp_path, f'[Target a.service]\n{lines}\n')


def test_a_proxy_is_one_of_a_target(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match='is one of sections'):
        load(tmp_path, '[Sockaccel]\nInterceptProxy=a.service\n')
