// SPDX-License-Identifier: GPL-2.0-or-later
// Light or dark, as Cockpit's menu says; it keeps the choice in the browser and tells the pages by an event.

const KEY = 'shell:style';
const system = matchMedia('(prefers-color-scheme: dark)');

function apply(chosen) {
    const style = chosen || localStorage.getItem(KEY) || 'auto';
    document.documentElement.classList.toggle('dark', style === 'dark' || (style === 'auto' && system.matches));
}

/** Follow the choice from now on. */
export function follow() {
    window.addEventListener('storage', event => event.key === KEY && apply());
    window.addEventListener('cockpit-style', event => apply(event.detail?.style));
    system.addEventListener('change', () => apply());
    apply();
}
