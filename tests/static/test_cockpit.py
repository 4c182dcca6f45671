# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be said of the page for Cockpit without a browser."""

import json
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sockaccel.core import words
from tests.support.harness import ROOT

PAGE = ROOT / 'cockpit'
# Not the translations, which are made of cockpit/po.
MODULES = sorted(path for path in PAGE.glob('*.js') if not path.name.startswith('po.'))
INTERFACE = ROOT / 'packaging/dbus/org.sockaccel1.Manager.xml'
# What makes elements of a string, or runs one.
_OF_STRINGS = re.compile(
    r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment|srcdoc'
)


@pytest.mark.parametrize('module', MODULES, ids=lambda path: path.name)
def test_nothing_is_made_of_a_string(module: Path) -> None:
    assert not _OF_STRINGS.search(module.read_text())


def test_strings_that_become_html_are_found() -> None:
    assert _OF_STRINGS.search('row.innerHTML = program')
    assert _OF_STRINGS.search("document.write('x')")


def test_html_has_no_script_and_no_style_of_its_own() -> None:
    """Cockpit's content security policy would forbid them."""
    text = (PAGE / 'index.html').read_text()
    assert not re.search(r'<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=', text)


def test_a_module_imports_only_what_is_there() -> None:
    for module in MODULES:
        for name in re.findall(r"from '([^']+)'", module.read_text()):
            assert (PAGE / name).is_file(), f'{module.name} imports {name}'


def test_no_module_is_left_over() -> None:
    texts = [module.read_text() for module in MODULES] + [(PAGE / 'index.html').read_text()]
    for module in MODULES:
        assert any(f"'./{module.name}'" in text or f'"{module.name}"' in text for text in texts), module.name


def test_methods_that_the_page_calls_are_there() -> None:
    """Audit may not be: the page asks whether it is."""
    methods = {method.get('name') for method in ET.parse(INTERFACE).iter('method')}
    called = set()
    for module in MODULES:
        called |= set(re.findall(r"daemon\.call\(\s*'(\w+)'", module.read_text()))
    assert {'EnableWithOptions', 'DisableWithOptions', 'ListConnections', 'Stats'} <= called
    assert called - {'Audit'} <= methods


def test_words_of_the_page_are_those_of_the_bus() -> None:
    def keys(module: str, table: str) -> set[str]:
        text = (PAGE / module).read_text()
        found = re.search(rf'const {table} = {{(.*?)}};', text, re.DOTALL)
        assert found
        return set(re.findall(r'(\w+): \(\) =>', found[1]))

    assert keys('targets.js', 'STATES') == {*words.TARGET_STATES.values(), words.DISABLED}
    assert keys('connections.js', 'PATHS') == set(words.PATHS)
    assert keys('findings.js', 'SEVERITIES') == set(words.SEVERITIES)


def test_manifest_and_metainfo_name_the_page() -> None:
    manifest = json.loads((PAGE / 'manifest.json').read_text())
    (label,) = [entry['label'] for entry in manifest['tools'].values()]
    component = ET.parse(PAGE / 'org.sockaccel1.cockpit.metainfo.xml').getroot()
    assert component.findtext('name') == label
    assert component.findtext('launchable') == 'sockaccel'
    assert (
        '/usr/share/cockpit/sockaccel'
        in subprocess.run(
            ['make', '--dry-run', 'install-cockpit', 'DESTDIR=/x'],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


def test_texts_for_people_are_marked_by_double_quotes() -> None:
    """So that a text that is not marked is seen: everything else is in single quotes."""
    for module in MODULES:
        for line in module.read_text().splitlines():
            if not line.lstrip().startswith(('//', '*', '/*')):
                for found in re.finditer(r'(?<![\w`=])"[^"\']*"', line):
                    before = line[: found.start()]
                    assert re.search(r'(_\(|counted\(.*)$', before), f'{module.name}: {line.strip()}'
