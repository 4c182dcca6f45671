# SPDX-License-Identifier: GPL-2.0-or-later
"""programs.conf: what is found in it, and what is wrong with it."""

from pathlib import Path

import pytest

from sockaccel.core import program_list
from sockaccel.core.knowledge import Knowledge
from sockaccel.core.limits import MAX_PROGRAM_NAMES
from sockaccel.core.program_list import Listed
from sockaccel.errors import InvalidConfiguration
from tests.support.harness import ROOT

HEADING = '[Programs]\n'


def load(tmp_path: Path, *texts: str) -> dict[str, Knowledge]:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f'{number}.conf')
        paths[-1].write_text(text)
    found: dict[str, Knowledge] = {}
    for each in program_list.load(paths):
        found[each.name] = found.get(each.name, Knowledge(0)) | each.knowledge
    return found


def test_what_is_shipped() -> None:
    shipped = program_list.load([ROOT / 'packaging/programs.conf'])
    by_name = {each.name: each for each in shipped}
    assert len(by_name) == len(shipped)
    for name in ('docker-proxy', 'rootlessport', 'systemd-socket-proxyd', 'haproxy', 'pasta'):
        assert by_name[name].knowledge is Knowledge.SPLICES
    for name in ('nginx', 'java'):
        assert by_name[name].knowledge is Knowledge.ASKS_FIONREAD
    assert by_name['systemd'].knowledge is Knowledge.LISTENS
    assert not any(each.is_path for each in shipped)


def test_files_add_up_and_an_empty_line_takes_back(tmp_path: Path) -> None:
    shipped = f'{HEADING}Splices=a b\nAsksFionread=a\n# comment\n'
    assert load(tmp_path, shipped) == {'a': Knowledge.SPLICES | Knowledge.ASKS_FIONREAD, 'b': Knowledge.SPLICES}
    more = f'{HEADING}Splices="/opt/my proxy/run" c\n'
    assert load(tmp_path, shipped, more).keys() == {'a', 'b', 'c', '/opt/my proxy/run'}
    assert load(tmp_path, shipped, f'{HEADING}Splices=\nSplices=c\n') == {
        'a': Knowledge.ASKS_FIONREAD, 'c': Knowledge.SPLICES,
    }  # fmt: skip
    assert load(tmp_path) == {}


def test_where_it_was_said_first(tmp_path: Path) -> None:
    path = tmp_path / 'x.conf'
    path.write_text(f'{HEADING}Splices=a\nSplices=a b\n')
    assert program_list.load([path]) == [
        Listed('a', Knowledge.SPLICES, f'{path}:2'),
        Listed('b', Knowledge.SPLICES, f'{path}:3'),
    ]


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('Splices=a\n', '0.conf:1: "Splices=a" is not a "Key=value" line in section "[Programs]"'),
        ('[Sockaccel]\n', '0.conf:1: section "[Sockaccel]" is unknown'),
        (f'{HEADING}Splice=a\n', '0.conf:2: key "Splice" is unknown, the keys are Splices, AsksFionread, Listens'),
        (f'{HEADING}Splices=bin/x\n', '0.conf:2: Splices= "bin/x" is a path that does not begin with "/"'),
        (f'{HEADING}Splices=/usr/../x\n', '"/usr/../x" is neither the name of a process nor the path'),
        (f'{HEADING}Splices="\n', '0.conf:2: Splices= """: No closing quotation'),
        (f'{HEADING}Splices=a\x07b\n', 'is neither the name of a process'),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InvalidConfiguration) as raised:
        load(tmp_path, text)
    assert expected in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r'cannot read ".*gone" \(No such file'):
        program_list.load([tmp_path / 'gone'])
    (tmp_path / 'latin').write_bytes(b'[Programs]\nSplices=\xff\n')
    with pytest.raises(InvalidConfiguration, match='is not UTF-8 text'):
        program_list.load([tmp_path / 'latin'])


def test_the_limit(tmp_path: Path) -> None:
    most = HEADING + ''.join(f'Splices=p{number}\n' for number in range(MAX_PROGRAM_NAMES))
    assert len(load(tmp_path, most)) == MAX_PROGRAM_NAMES
    with pytest.raises(InvalidConfiguration, match=f'{MAX_PROGRAM_NAMES + 1} programs'):
        load(tmp_path, f'{most}Splices=more\n')


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    for directory, name in (
        ('etc', 'programs.conf.d/60-local.conf'), ('lib', 'programs.conf'), ('lib', 'programs.conf.d/10-x.conf'),
    ):  # fmt: skip
        path = tmp_path / directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'lib/sockaccel.conf').touch()
    directories = (str(tmp_path / 'etc'), str(tmp_path / 'lib'))
    names = ['lib/programs.conf', 'lib/programs.conf.d/10-x.conf', 'etc/programs.conf.d/60-local.conf']
    assert program_list.files(directories) == [tmp_path / name for name in names]
    (tmp_path / 'etc/programs.conf').touch()
    assert program_list.files(directories)[0] == tmp_path / 'etc/programs.conf'
