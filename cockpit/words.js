// SPDX-License-Identifier: GPL-2.0-or-later
// Text for people: translated, with numbers, sizes and durations as the language writes them.

/** The text in the language of the page. Every text that is marked so can be translated (see po/). */
export const _ = text => globalThis.cockpit ? globalThis.cockpit.gettext(text) : text;

/** The text, translated, for a count; both forms have "$0" for the count. */
export function counted(one, many, count) {
    const { cockpit } = globalThis;
    const text = cockpit ? cockpit.ngettext(one, many, count) : (count === 1 ? one : many);
    return fill(text, number(count));
}

/** "$0", "$1" and so on in a text, replaced. */
export const fill = (text, ...values) => text.replace(/\$(\d)/g, (_whole, index) => values[index]);

/** Of the page, as HTML and JavaScript name it. */
export const language = () => globalThis.cockpit?.language?.replace('_', '-') || 'en';

export const number = value => value.toLocaleString(language());

/** A number of bytes, in units of 1024. */
export function size(bytes) {
    let value = bytes, unit = 'B';
    for (const larger of ['KiB', 'MiB', 'GiB', 'TiB', 'PiB']) {
        if (value < 1024)
            break;
        value /= 1024;
        unit = larger;
    }
    const digits = unit === 'B' || value >= 100 ? 0 : 1;
    return `${value.toLocaleString(language(), { maximumFractionDigits: digits })} ${unit}`;
}

export const rate = bytesPerSecond => fill(_("$0/s"), size(bytesPerSecond));

/** How much of the bytes was redirected, "" where nothing was sent. */
export function share(redirected, tcp) {
    if (redirected + tcp === 0)
        return '';
    const part = redirected / (redirected + tcp);
    return part.toLocaleString(language(), { style: 'percent', maximumFractionDigits: 1 });
}

/** A number of seconds, in the largest unit that fits. */
export function duration(seconds) {
    if (seconds >= 86400)
        return fill(_("$0 d"), Math.floor(seconds / 86400));
    if (seconds >= 3600)
        return fill(_("$0 h"), Math.floor(seconds / 3600));
    if (seconds >= 60)
        return fill(_("$0 min"), Math.floor(seconds / 60));
    return fill(_("$0 s"), Math.floor(seconds));
}

/** An address with its port, as ss(8) writes it. */
export const endpoint = (address, port) => address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
