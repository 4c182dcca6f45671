# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether people can read what the page shows, and reach what it offers, in the view that is open."""

from tests.cockpit.browser import Tab

# https://www.w3.org/TR/WCAG22/#contrast-minimum, for text of the usual size.
LEAST_CONTRAST = 4.5
# In JavaScript: [text, contrast] of each element that has text of its own and is no control that is switched off.
_CONTRASTS = r"""(() => {
    const numbers = colour => colour.match(/[\d.]+/g).map(Number);
    const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const luminance = ([red, green, blue]) => [[red, 0.2126], [green, 0.7152], [blue, 0.0722]]
        .reduce((sum, [value, weight]) => sum + weight * linear(value / 255), 0);
    const behind = element => {
        for (let each = element; each; each = each.parentElement) {
            const found = numbers(page.getComputedStyle(each).backgroundColor);
            if (found.length === 3 || found[3] === 1) return found;
        }
        return [255, 255, 255];
    };
    const contrast = element => {
        const found = [numbers(page.getComputedStyle(element).color), behind(element)].map(luminance);
        return (Math.max(...found) + 0.05) / (Math.min(...found) + 0.05);
    };
    const text = element => Array.from(element.childNodes).filter(node => node.nodeType === Node.TEXT_NODE)
        .map(node => node.data.trim()).join(' ').trim();
    return Array.from(page.document.querySelectorAll('#page *'))
        .filter(element => text(element) && element.checkVisibility() && !element.closest('option, :disabled'))
        .map(element => [text(element), contrast(element)]);
})()"""
# The same of what can be operated: the elements stay in the page as `offered`, and their names are the answer.
_OFFERED = """(page.offered = Array
    .from(page.document.querySelectorAll('#page :is(a, button, input, select, summary)'))
    .filter(element => element.checkVisibility() && !element.disabled))
    .map(element => element.id || element.getAttribute('aria-label') || element.textContent)"""
_FOCUSED = 'page.document.hasFocus() ? page.offered.indexOf(page.document.activeElement) : -1'


def pale_texts(tab: Tab) -> list[tuple[str, float]]:
    """Each that stands out too little from what is behind it, and by how much."""
    found = tab.evaluate(_CONTRASTS)
    assert found
    return [(text, contrast) for text, contrast in found if contrast < LEAST_CONTRAST]


def controls(tab: Tab) -> list[str]:
    """What can be operated, by its id or name, in the order of the page."""
    return list(tab.evaluate(_OFFERED))


def reached_by_tab(tab: Tab) -> list[str]:
    """The same in the order in which the key Tab comes to it, from the first one to the end of the page."""
    names = controls(tab)
    tab.evaluate('(page.offered[0].focus(), 0)')
    found = names[:1]
    while len(found) <= len(names):
        tab.press('Tab')
        number = tab.evaluate(_FOCUSED)
        if number < 0:
            break
        found.append(names[number])
    return found
